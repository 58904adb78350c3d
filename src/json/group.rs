//! Groups as protobuf's JSON has them: its names, and 64-bit numbers as strings.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::time::event_time;
use crate::proto::v1;

/// Describes a group.
#[must_use]
pub fn group_json(group: &v1::Group) -> Value {
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
    Duration::try_from(time).ok().map(super::time::duration)
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
    use super::group_json;
    use crate::proto::v1;

    #[test]
    fn a_group_has_the_names_and_the_forms_of_protobuf() {
        let group = v1::Group {
            topic: "orders".into(),
            name: "mail".into(),
            settings: Some(v1::GroupSettings {
                order: v1::DeliveryOrder::Key.into(),
                ack_deadline: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
                ..v1::GroupSettings::default()
            }),
            status: Some(v1::GroupStatus { lag_records: u64::MAX, ..v1::GroupStatus::default() }),
            ..v1::Group::default()
        };
        let json = group_json(&group);
        assert_eq!(json["status"]["lagRecords"], "18446744073709551615");
        assert_eq!(json["settings"]["ackDeadline"], "30s");
        assert_eq!(json["settings"]["order"], "DELIVERY_ORDER_KEY");
        assert!(json["status"].get("lag").is_none(), "{json}");
    }
}
