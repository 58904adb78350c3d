//! Fields of the bodies of requests about groups: where they begin, and their settings.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::body::{Number, duration};
use super::problem::Problem;
use super::publish::malformed;
use super::query::invalid;
use crate::json::parse_time;
use crate::proto::v1::{self, group_start::Start};
use crate::record::Position;

/// Reads where a group begins or goes on.
///
/// # Errors
/// It is in none of the forms.
pub fn start(field: &str, text: &str) -> Result<v1::GroupStart, Problem> {
    let rule = "not earliest, latest, an offset, an RFC 3339 time or a position";
    let start = match (text, Position::parse(text)) {
        ("earliest", _) => Some(Start::Boundary(v1::Boundary::Earliest.into())),
        ("latest", _) => Some(Start::Boundary(v1::Boundary::Latest.into())),
        (_, Some(Position { epoch, offset })) => {
            Some(Start::Position(v1::Position { epoch: epoch.to_string(), offset: offset.get() }))
        }
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().map(Start::Offset)
        }
        _ => parse_time(text).map(Start::Time),
    };
    start.map(|start| v1::GroupStart { start: Some(start) }).ok_or_else(|| invalid(field, rule))
}

/// Reads settings, and the paths of those that were given. One that is null gets its default.
///
/// # Errors
/// A field is unknown, or its value is none that it can have.
pub fn settings(fields: Map<String, Value>) -> Result<(v1::GroupSettings, Vec<String>), Problem> {
    let (mut to, mut paths) = (v1::GroupSettings::default(), Vec::new());
    for (name, value) in fields {
        let at = format!("settings.{name}");
        let path = match name.as_str() {
            "order" => {
                to.order =
                    value_of(&at, value, |order| v1::DeliveryOrder::from_str_name(order).map(i32::from))?;
                "order"
            }
            "poison" => {
                to.poison =
                    value_of(&at, value, |policy| v1::PoisonPolicy::from_str_name(policy).map(i32::from))?;
                "poison"
            }
            "ackDeadline" => {
                to.ack_deadline = time(&at, value)?;
                "ack_deadline"
            }
            "leaseMax" => {
                to.lease_max = time(&at, value)?;
                "lease_max"
            }
            "sessionGrace" => {
                to.session_grace = time(&at, value)?;
                "session_grace"
            }
            "backoff" => {
                let delays: Vec<String> = typed(&at, value)?.unwrap_or_default();
                to.backoff = delays.iter().map(|delay| duration(&at, delay)).collect::<Result<_, _>>()?;
                "backoff"
            }
            "deliveriesMax" => {
                let most = typed::<Number>(&at, value)?;
                to.deliveries_max = most.map_or(Ok(0), |most| most.get_u32(&at))?;
                "deliveries_max"
            }
            "deadLetterTopic" => {
                to.dead_letter_topic = typed(&at, value)?.unwrap_or_default();
                "dead_letter_topic"
            }
            "lookaheadMax" => {
                let most = typed::<Number>(&at, value)?;
                to.lookahead_max = most.map_or(Ok(0), |most| most.get(&at))?;
                "lookahead_max"
            }
            _ => return Err(malformed("a field of settings is none that a group has")),
        };
        paths.push(format!("settings.{path}"));
    }
    Ok((to, paths))
}

/// Reads a value of a type; none where it is null.
fn typed<T: DeserializeOwned>(field: &str, value: Value) -> Result<Option<T>, Problem> {
    serde_json::from_value(value).map_err(|error| invalid(field, error.to_string()))
}

fn time(field: &str, value: Value) -> Result<Option<prost_types::Duration>, Problem> {
    typed::<String>(field, value)?.map(|text| duration(field, &text)).transpose()
}

/// Reads the name of a value of an enumeration.
fn value_of(field: &str, value: Value, find: impl Fn(&str) -> Option<i32>) -> Result<i32, Problem> {
    let Some(text) = typed::<String>(field, value)? else { return Ok(0) };
    find(&text).ok_or_else(|| invalid(field, "not a name of a value of the API"))
}

#[cfg(test)]
mod tests {
    use super::{settings, start};
    use crate::proto::v1::{self, group_start::Start};
    use serde_json::json;

    #[test]
    fn a_start_has_the_forms_of_a_read() {
        let read = |text: &str| start("from", text).ok().and_then(|start| start.start);
        assert_eq!(read("earliest"), Some(Start::Boundary(v1::Boundary::Earliest.into())));
        assert_eq!(read("7"), Some(Start::Offset(7)));
        let position = v1::Position { epoch: "0000000000c0ffee".into(), offset: 7 };
        assert_eq!(read("0000000000c0ffee_00000000000000000007"), Some(Start::Position(position)));
        assert!(matches!(read("2026-01-02T03:04:05Z"), Some(Start::Time(_))));
        for bad in ["", "-1", "+1", "2026-01-02", "2026-01-02T03:04:05", "now", "18446744073709551616"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn settings_name_what_they_change_and_null_is_the_default() {
        let read = |value: serde_json::Value| settings(value.as_object().unwrap().clone());
        let (read_back, paths) = read(json!({
            "order": "DELIVERY_ORDER_KEY", "ackDeadline": "1.5s", "backoff": ["1s"], "lookaheadMax": "7", "poison": null,
        }))
        .unwrap();
        assert_eq!(read_back.order(), v1::DeliveryOrder::Key);
        assert_eq!(read_back.ack_deadline, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!((read_back.backoff.len(), read_back.lookahead_max, read_back.poison), (1, 7, 0));
        assert!(paths.contains(&"settings.ack_deadline".to_owned()) && paths.len() == 5, "{paths:?}");
        for bad in [
            json!({"order": "KEY"}),
            json!({"ackDeadline": "1"}),
            json!({"deliveriesMax": -1}),
            json!({"deliveriesMax": 4_294_967_296_u64}),
            json!({"lookaheadMax": "x"}),
            json!({"ack_deadline": "1s"}),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().status(), 400, "{bad}");
        }
    }
}
