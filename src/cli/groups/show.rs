//! Groups as tables, as text and as JSON. The JSON is protobuf's own form of the message.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::{Client, printable};
use crate::config::format_size;
use crate::json::event_time;
use crate::proto::v1::{self, DeliveryOrder, PoisonPolicy};

/// Prints the groups of a topic, or of all topics where that is empty.
pub(super) async fn list(client: &Client, topic: &str, format: Format) -> Result<(), Failure> {
    let groups = client.groups().all(topic).await?;
    if format.is_json() {
        let lines: String = groups.iter().map(|group| output::json_line(&as_json(group))).collect();
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
        return output::print(&output::json_line(&as_json(group)));
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

/// A group in protobuf's own form.
pub(super) fn as_json(group: &v1::Group) -> Value {
    let mut value = json!({ "topic": group.topic, "name": group.name, "id": group.id });
    if let Some(time) = group.create_time {
        let nanos = u32::try_from(time.nanos).unwrap_or(u32::MAX);
        value["createTime"] = event_time(time.seconds, nanos).into();
    }
    value["topicEpoch"] = group.topic_epoch.clone().into();
    if let Some(settings) = &group.settings {
        value["settings"] = settings_json(settings);
    }
    if let Some(status) = &group.status {
        value["status"] = status_json(status);
    }
    value
}

fn settings_json(settings: &v1::GroupSettings) -> Value {
    let mut value = json!({
        "order": settings.order().as_str_name(),
        "deliveriesMax": settings.deliveries_max,
        "backoff": settings.backoff.iter().copied().filter_map(duration).collect::<Vec<_>>(),
        "deadLetterTopic": settings.dead_letter_topic,
        "poison": settings.poison().as_str_name(),
        "lookaheadMax": settings.lookahead_max.to_string(),
    });
    let times = [
        ("ackDeadline", settings.ack_deadline),
        ("leaseMax", settings.lease_max),
        ("sessionGrace", settings.session_grace),
    ];
    put(&mut value, &times);
    value
}

fn status_json(status: &v1::GroupStatus) -> Value {
    let mut value = json!({
        "oldestUnsettledOffset": status.oldest_unsettled_offset.to_string(),
        "tail": status.tail.to_string(),
        "lagRecords": status.lag_records.to_string(),
        "leasedRecords": status.leased_records.to_string(),
        "delayedRecords": status.delayed_records.to_string(),
        "blockedKeys": status.blocked_keys.to_string(),
        "parkedRecords": status.parked_records.to_string(),
        "deadLetteredRecords": status.dead_lettered_records.to_string(),
        "skippedRecords": status.skipped_records.to_string(),
        "isAtLookaheadMax": status.is_at_lookahead_max,
        "deadLetterProblem": status.dead_letter_problem,
        "memberCount": status.member_count.to_string(),
        "members": status.members.iter().map(member_json).collect::<Vec<_>>(),
    });
    put(&mut value, &[("lag", status.lag)]);
    value
}

fn member_json(member: &v1::Member) -> Value {
    let mut value = json!({
        "name": member.name,
        "principal": member.principal,
        "isConnected": member.is_connected,
        "creditRecords": member.credit_records.to_string(),
        "creditBytes": member.credit_bytes.to_string(),
        "leasedRecords": member.leased_records.to_string(),
    });
    put(&mut value, &[("age", member.age), ("oldestLeaseAge", member.oldest_lease_age)]);
    value
}

fn duration(time: prost_types::Duration) -> Option<String> {
    Duration::try_from(time).ok().map(output::duration)
}

fn put(value: &mut Value, times: &[(&str, Option<prost_types::Duration>)]) {
    let found =
        times.iter().filter_map(|(name, time)| Some(((*name).to_owned(), duration((*time)?)?.into())));
    let found: Map<String, Value> = found.collect();
    if let Some(object) = value.as_object_mut() {
        object.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::{as_json, lines};
    use crate::proto::v1;

    #[test]
    fn a_group_has_the_names_and_the_forms_of_protobuf() {
        let group = v1::Group {
            topic: "orders".into(),
            name: "mail".into(),
            settings: Some(v1::GroupSettings {
                order: v1::DeliveryOrder::Key.into(),
                ack_deadline: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
                deliveries_max: 3,
                ..v1::GroupSettings::default()
            }),
            status: Some(v1::GroupStatus { lag_records: u64::MAX, ..v1::GroupStatus::default() }),
            ..v1::Group::default()
        };
        let json = as_json(&group);
        assert_eq!(json["status"]["lagRecords"], "18446744073709551615");
        assert_eq!(json["settings"]["ackDeadline"], "30s");
        assert_eq!(json["settings"]["order"], "DELIVERY_ORDER_KEY");
        assert!(json["status"].get("lag").is_none(), "{json}");
        let shown = lines(&group);
        assert!(shown.contains(&("given up", "held after 3 failed deliveries".into())), "{shown:?}");
    }
}
