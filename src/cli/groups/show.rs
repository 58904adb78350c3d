//! Groups as tables, as text and as JSON.

use std::time::Duration;

use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::{Client, printable};
use crate::config::format_size;
use crate::json::group_json;
use crate::proto::v1::{self, DeliveryOrder, PoisonPolicy};

/// Prints the groups of a topic, or of all topics where that is empty.
pub(super) async fn list(client: &Client, topic: &str, format: Format) -> Result<(), Failure> {
    let groups = client.groups().all(topic).await?;
    if format.is_json() {
        let lines: String = groups.iter().map(|group| output::json_line(&group_json(group))).collect();
        return Ok(output::print(&lines)?);
    }
    let rows: Vec<Vec<String>> = groups.iter().map(row).collect();
    let header = ["TOPIC", "NAME", "ORDER", "LAG", "AGE", "LEASED", "MEMBERS"];
    Ok(output::print(&output::table(&header, &rows))?)
}

fn row(group: &v1::Group) -> Vec<String> {
    let (settings, status) = parts(group);
    vec![
        group.topic.clone(),
        group.name.clone(),
        order(&settings).into(),
        status.lag_records.to_string(),
        status.lag.map(age).unwrap_or_default(),
        status.leased_records.to_string(),
        status.member_count.to_string(),
    ]
}

fn parts(group: &v1::Group) -> (v1::GroupSettings, v1::GroupStatus) {
    (group.settings.clone().unwrap_or_default(), group.status.clone().unwrap_or_default())
}

fn order(settings: &v1::GroupSettings) -> &'static str {
    match settings.order() {
        DeliveryOrder::Unspecified | DeliveryOrder::None => "none",
        DeliveryOrder::Key => "key",
        DeliveryOrder::Total => "total",
    }
}

fn poison(settings: &v1::GroupSettings) -> String {
    match settings.poison() {
        PoisonPolicy::DeadLetter => format!("dead letter to {}", settings.dead_letter_topic),
        PoisonPolicy::ParkKey => "set aside with its key".into(),
        PoisonPolicy::Unspecified | PoisonPolicy::Hold => "held".into(),
    }
}

fn age(age: prost_types::Duration) -> String {
    Duration::try_from(age).map(output::elapsed).unwrap_or_default()
}

fn setting(time: Option<prost_types::Duration>) -> String {
    let time = time.and_then(|time| Duration::try_from(time).ok());
    time.map(|time| humantime::format_duration(time).to_string()).unwrap_or_default()
}

/// Prints one group, and its members if it has some.
pub(super) fn print_group(group: &v1::Group, format: Format) -> std::io::Result<()> {
    if format.is_json() {
        return output::print(&output::json_line(&group_json(group)));
    }
    let line = |(key, value): &(&str, String)| {
        format!("{:<17} {}", format!("{key}:"), printable(value)).trim_end().to_owned() + "\n"
    };
    let mut text: String = lines(group).iter().map(line).collect();
    let members = group.status.as_ref().map(|status| &status.members[..]).unwrap_or_default();
    if !members.is_empty() {
        let rows: Vec<Vec<String>> = members.iter().map(member).collect();
        let header = ["MEMBER", "PRINCIPAL", "STATE", "AGE", "LEASED", "OLDEST", "CREDIT", "CREDIT BYTES"];
        text += &format!("\n{}", output::table(&header, &rows));
    }
    output::print(&text)
}

fn lines(group: &v1::Group) -> Vec<(&'static str, String)> {
    let (settings, status) = parts(group);
    let backoff: Vec<String> = settings.backoff.iter().map(|delay| setting(Some(*delay))).collect();
    let given_up = match settings.deliveries_max {
        0 => "never".to_owned(),
        deliveries => format!("{} after {deliveries} failed deliveries", poison(&settings)),
    };
    let mut lines = vec![
        ("topic", group.topic.clone()),
        ("name", group.name.clone()),
        ("id", group.id.clone()),
        ("created", output::seconds(group.create_time.as_ref())),
        ("order", order(&settings).into()),
        ("ack deadline", setting(settings.ack_deadline)),
        ("lease max", setting(settings.lease_max)),
        ("session grace", setting(settings.session_grace)),
        ("back-off", if backoff.is_empty() { "none".into() } else { backoff.join(", ") }),
        ("given up", given_up),
        ("oldest unsettled", format!("{} (tail {})", status.oldest_unsettled_offset, status.tail)),
        (
            "lag",
            format!(
                "{} records{}",
                status.lag_records,
                status.lag.map(|lag| format!(", {}", age(lag))).unwrap_or_default()
            ),
        ),
        ("leased", status.leased_records.to_string()),
        ("delayed", status.delayed_records.to_string()),
        ("blocked keys", status.blocked_keys.to_string()),
        ("set aside", status.parked_records.to_string()),
        ("dead letters", status.dead_lettered_records.to_string()),
        ("skipped", status.skipped_records.to_string()),
        ("members", status.member_count.to_string()),
    ];
    if status.is_at_lookahead_max {
        lines.push(("stalled", format!("{} records are leased or blocked", settings.lookahead_max)));
    }
    if !status.dead_letter_problem.is_empty() {
        lines.push(("dead letters wait", status.dead_letter_problem.clone()));
    }
    lines
}

fn member(member: &v1::Member) -> Vec<String> {
    vec![
        member.name.clone(),
        member.principal.clone(),
        if member.is_connected { "connected" } else { "cut off" }.into(),
        member.age.map(age).unwrap_or_default(),
        member.leased_records.to_string(),
        member.oldest_lease_age.map(age).unwrap_or_default(),
        member.credit_records.to_string(),
        format_size(member.credit_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::lines;
    use crate::proto::v1;

    #[test]
    fn a_group_that_holds_records_says_so() {
        let group = v1::Group {
            settings: Some(v1::GroupSettings { deliveries_max: 3, ..v1::GroupSettings::default() }),
            ..v1::Group::default()
        };
        let shown = lines(&group);
        assert!(shown.contains(&("given up", "held after 3 failed deliveries".into())), "{shown:?}");
    }
}
