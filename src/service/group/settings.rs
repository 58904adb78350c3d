//! Settings of groups, from and to their messages.

use std::time::Duration;

use prost_types::FieldMask;

use super::super::request;
use super::super::status::Error;
use crate::group::logic::{Order, Poison, Settings};
use crate::proto::v1;
use crate::record::TopicName;

/// Most characters of a request that an error repeats.
const SHOWN_MAX: usize = 64;

/// Checks the settings of a group of `topic`; `path` is that of the message with a dot. Those that are not set have their
/// defaults.
pub(super) fn checked(asked: &v1::GroupSettings, topic: &TopicName, path: &str) -> Result<Settings, Error> {
    let settings = parsed(asked, path)?;
    check(&settings, topic, path)?;
    Ok(settings)
}

/// Reads each setting by itself.
fn parsed(asked: &v1::GroupSettings, path: &str) -> Result<Settings, Error> {
    let field = |name: &str| format!("{path}{name}");
    let defaults = Settings::default();
    let ack_deadline_ms = millis(&field("ack_deadline"), asked.ack_deadline.as_ref())?;
    let ack_deadline_ms = ack_deadline_ms.unwrap_or(defaults.ack_deadline_ms);
    let dead_letter_topic = dead_letter_topic(&field("dead_letter_topic"), &asked.dead_letter_topic)?;
    let backoff_ms = asked.backoff.iter().map(|delay| millis(&field("backoff"), Some(delay)));
    Ok(Settings {
        order: order(&field("order"), asked.order)?,
        ack_deadline_ms,
        lease_max_ms: millis(&field("lease_max"), asked.lease_max.as_ref())?
            .unwrap_or_else(|| defaults.lease_max_ms.max(ack_deadline_ms)),
        session_grace_ms: millis(&field("session_grace"), asked.session_grace.as_ref())?
            .unwrap_or(defaults.session_grace_ms),
        deliveries_max: asked.deliveries_max,
        backoff_ms: backoff_ms.filter_map(Result::transpose).collect::<Result<_, _>>()?,
        poison: poison(&field("poison"), asked.poison, dead_letter_topic.is_some())?,
        dead_letter_topic,
        lookahead_max: if asked.lookahead_max == 0 { defaults.lookahead_max } else { asked.lookahead_max },
    })
}

/// Checks settings as a whole.
fn check(settings: &Settings, topic: &TopicName, path: &str) -> Result<(), Error> {
    settings.check(topic).map_err(|(name, rule)| Error::field(format!("{path}{name}"), rule))?;
    // Members may give records up too.
    if settings.poison == Poison::DeadLetter && settings.dead_letter_topic.is_none() {
        let rule = "is required for POISON_POLICY_DEAD_LETTER";
        return Err(Error::field(format!("{path}dead_letter_topic"), rule));
    }
    Ok(())
}

/// Checks which settings an update changes. Returns the change: from the old settings to the new ones.
pub(super) fn change(
    asked: &v1::GroupSettings,
    topic: &TopicName,
    mask: Option<FieldMask>,
) -> Result<impl FnOnce(&Settings) -> Result<Settings, Error> + Send + use<>, Error> {
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() {
        return Err(Error::field("update_mask", "is required: \"settings\" for all"));
    }
    let wanted = parsed(&masked(asked, &paths)?, "group.settings.")?;
    let topic = topic.clone();
    Ok(move |before: &Settings| {
        let mut settings = before.clone();
        for path in &paths {
            put(&mut settings, &wanted, path.strip_prefix("settings").unwrap_or(path));
        }
        check(&settings, &topic, "group.settings.")?;
        Ok(settings)
    })
}

/// Returns the settings that the mask names, and the others as if they were not set.
fn masked(asked: &v1::GroupSettings, paths: &[String]) -> Result<v1::GroupSettings, Error> {
    let mut named = v1::GroupSettings::default();
    for path in paths {
        match path.as_str() {
            "settings" => named = asked.clone(),
            "settings.order" => named.order = asked.order,
            "settings.ack_deadline" => named.ack_deadline = asked.ack_deadline,
            "settings.lease_max" => named.lease_max = asked.lease_max,
            "settings.session_grace" => named.session_grace = asked.session_grace,
            "settings.deliveries_max" => named.deliveries_max = asked.deliveries_max,
            "settings.backoff" => named.backoff.clone_from(&asked.backoff),
            "settings.dead_letter_topic" => named.dead_letter_topic.clone_from(&asked.dead_letter_topic),
            "settings.poison" => named.poison = asked.poison,
            "settings.lookahead_max" => named.lookahead_max = asked.lookahead_max,
            other => {
                let shown: String = other.chars().take(SHOWN_MAX).collect();
                let rule = format!("{shown:?} is not a field that can be changed");
                return Err(Error::field("update_mask.paths", rule));
            }
        }
    }
    Ok(named)
}

/// Takes one setting over; `path` begins with a dot, or is empty for all.
fn put(settings: &mut Settings, wanted: &Settings, path: &str) {
    let wanted = wanted.clone();
    match path {
        "" => *settings = wanted,
        ".order" => settings.order = wanted.order,
        ".ack_deadline" => settings.ack_deadline_ms = wanted.ack_deadline_ms,
        ".lease_max" => settings.lease_max_ms = wanted.lease_max_ms,
        ".session_grace" => settings.session_grace_ms = wanted.session_grace_ms,
        ".deliveries_max" => settings.deliveries_max = wanted.deliveries_max,
        ".backoff" => settings.backoff_ms = wanted.backoff_ms,
        ".dead_letter_topic" => settings.dead_letter_topic = wanted.dead_letter_topic,
        ".poison" => settings.poison = wanted.poison,
        _ => settings.lookahead_max = wanted.lookahead_max,
    }
}

fn order(field: &str, asked: i32) -> Result<Order, Error> {
    use v1::DeliveryOrder as Asked;
    match Asked::try_from(asked) {
        Ok(Asked::Unspecified | Asked::None) => Ok(Order::None),
        Ok(Asked::Key) => Ok(Order::Key),
        Ok(Asked::Total) => Ok(Order::Total),
        Err(_) => Err(Error::field(field, "not a known order")),
    }
}

fn poison(field: &str, asked: i32, has_dead_letters: bool) -> Result<Poison, Error> {
    use v1::PoisonPolicy as Asked;
    match Asked::try_from(asked) {
        Ok(Asked::Unspecified) if !has_dead_letters => Ok(Poison::Hold),
        Ok(Asked::Unspecified | Asked::DeadLetter) => Ok(Poison::DeadLetter),
        Ok(Asked::ParkKey) => Ok(Poison::ParkKey),
        Ok(Asked::Hold) => Ok(Poison::Hold),
        Err(_) => Err(Error::field(field, "not a known policy")),
    }
}

fn dead_letter_topic(field: &str, name: &str) -> Result<Option<TopicName>, Error> {
    if name.is_empty() { Ok(None) } else { request::topic(field, name).map(Some) }
}

/// A duration in whole milliseconds, rounded up.
pub(super) fn millis(field: &str, asked: Option<&prost_types::Duration>) -> Result<Option<u64>, Error> {
    let Some(asked) = asked else { return Ok(None) };
    let nanos = request::duration(field, asked)?.as_nanos();
    let millis = u64::try_from(nanos.div_ceil(1_000_000));
    millis.map(Some).map_err(|_| Error::field(field, "is too long"))
}

/// A number of milliseconds as a message.
pub(super) fn duration(millis: u64) -> prost_types::Duration {
    let duration = Duration::from_millis(millis);
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

/// Describes settings.
pub(super) fn described(settings: &Settings) -> v1::GroupSettings {
    let order = match settings.order {
        Order::None => v1::DeliveryOrder::None,
        Order::Key => v1::DeliveryOrder::Key,
        Order::Total => v1::DeliveryOrder::Total,
    };
    let poison = match settings.poison {
        Poison::DeadLetter => v1::PoisonPolicy::DeadLetter,
        Poison::ParkKey => v1::PoisonPolicy::ParkKey,
        Poison::Hold => v1::PoisonPolicy::Hold,
    };
    let dead_letter_topic = settings.dead_letter_topic.as_ref().map(|topic| topic.as_str().to_owned());
    v1::GroupSettings {
        order: order.into(),
        ack_deadline: Some(duration(settings.ack_deadline_ms)),
        lease_max: Some(duration(settings.lease_max_ms)),
        session_grace: Some(duration(settings.session_grace_ms)),
        deliveries_max: settings.deliveries_max,
        backoff: settings.backoff_ms.iter().copied().map(duration).collect(),
        dead_letter_topic: dead_letter_topic.unwrap_or_default(),
        poison: poison.into(),
        lookahead_max: settings.lookahead_max,
    }
}

#[cfg(test)]
mod tests {
    use super::{change, checked, described};
    use crate::group::logic::{Order, Poison, Settings};
    use crate::proto::v1;
    use crate::record::TopicName;
    use prost_types::FieldMask;

    fn topic() -> TopicName {
        TopicName::parse("orders").unwrap()
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    /// The field that is refused.
    fn refused(asked: &v1::GroupSettings) -> String {
        let error = checked(asked, &topic(), "s.").unwrap_err().to_string();
        error.split(':').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_not_set_has_its_default_and_comes_back() {
        let settings = checked(&v1::GroupSettings::default(), &topic(), "").unwrap();
        assert_eq!(settings, Settings { poison: Poison::Hold, ..Settings::default() });
        let asked = v1::GroupSettings {
            order: v1::DeliveryOrder::Key.into(),
            ack_deadline: seconds(7200),
            session_grace: seconds(0),
            backoff: vec![prost_types::Duration { seconds: 1, nanos: 1 }],
            dead_letter_topic: "dead".to_owned(),
            ..v1::GroupSettings::default()
        };
        let settings = checked(&asked, &topic(), "").unwrap();
        assert_eq!((settings.order, settings.poison), (Order::Key, Poison::DeadLetter));
        assert_eq!((settings.lease_max_ms, settings.session_grace_ms), (7_200_000, 0));
        assert_eq!(settings.backoff_ms, [1001], "rounded up");
        assert_eq!(checked(&described(&settings), &topic(), "").unwrap(), settings);
    }

    #[test]
    fn bad_settings_are_refused_by_their_field() {
        let of = v1::GroupSettings::default;
        for (field, asked) in [
            ("s.order", v1::GroupSettings { order: 9, ..of() }),
            ("s.poison", v1::GroupSettings { poison: 9, ..of() }),
            ("s.ack_deadline", v1::GroupSettings { ack_deadline: seconds(0), ..of() }),
            ("s.ack_deadline", v1::GroupSettings { ack_deadline: seconds(-1), ..of() }),
            ("s.ack_deadline", v1::GroupSettings { ack_deadline: seconds(i64::MAX), ..of() }),
            ("s.lease_max", v1::GroupSettings { lease_max: seconds(1), ..of() }),
            ("s.session_grace", v1::GroupSettings { session_grace: seconds(90_000), ..of() }),
            ("s.backoff", v1::GroupSettings { backoff: vec![seconds(1).unwrap(); 17], ..of() }),
            ("s.dead_letter_topic", v1::GroupSettings { dead_letter_topic: "orders".to_owned(), ..of() }),
            ("s.dead_letter_topic", v1::GroupSettings { dead_letter_topic: "NO".to_owned(), ..of() }),
            ("s.dead_letter_topic", v1::GroupSettings { deliveries_max: 3, poison: 1, ..of() }),
            ("s.lookahead_max", v1::GroupSettings { lookahead_max: 10_000_001, ..of() }),
        ] {
            assert_eq!(refused(&asked), field, "{asked:?}");
        }
    }

    #[test]
    fn an_update_changes_what_its_mask_names() {
        let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() });
        let before = Settings {
            ack_deadline_ms: 5000,
            lease_max_ms: 5000,
            poison: Poison::Hold,
            ..Settings::default()
        };
        let asked = v1::GroupSettings {
            lease_max: seconds(60),
            deliveries_max: 3,
            dead_letter_topic: "dead".to_owned(),
            poison: v1::PoisonPolicy::DeadLetter.into(),
            ..v1::GroupSettings::default()
        };
        let of = |paths: &[&str]| change(&asked, &topic(), mask(paths)).and_then(|change| change(&before));
        let after = of(&["settings.lease_max"]).unwrap();
        assert_eq!(after, Settings { lease_max_ms: 60_000, ..before.clone() });
        assert!(of(&["settings.poison"]).is_err(), "there is no topic for what is given up");
        let all = ["settings.deliveries_max", "settings.poison", "settings.dead_letter_topic"];
        let after = of(&all).unwrap();
        assert_eq!((after.deliveries_max, after.ack_deadline_ms), (3, 5000));
        assert_eq!(of(&["settings"]).unwrap().ack_deadline_ms, 30_000);
        for bad in [&["name"][..], &["settings.x"], &[]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
