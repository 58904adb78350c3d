//! Topics as protobuf's JSON has them: its names, and 64-bit numbers as strings.

use std::time::Duration;

use serde_json::{Value, json};

use super::time::{duration, event_time};
use crate::proto::v1;

/// Describes a topic.
#[must_use]
pub fn topic_json(topic: &v1::Topic) -> Value {
    let limits = topic.retention.unwrap_or_default();
    let mut retention = json!({
        "maxBytes": limits.max_bytes.to_string(),
        "maxRecords": limits.max_records.to_string(),
    });
    if let Some(age) = limits.max_age.and_then(|age| Duration::try_from(age).ok()) {
        retention["maxAge"] = duration(age).into();
    }
    let mut value = json!({
        "name": topic.name,
        "epoch": topic.epoch,
        "retention": retention,
        "earliestOffset": topic.earliest_offset.to_string(),
        "tail": topic.tail.to_string(),
        "storedBytes": topic.stored_bytes.to_string(),
        "numbering": topic.numbering().as_str_name(),
    });
    if !topic.restored_from.is_empty() {
        let earlier = topic.restored_from.iter();
        value["restoredFrom"] =
            earlier.map(|from| json!({ "epoch": from.epoch, "cut": from.cut.to_string() })).collect();
    }
    let times = [
        ("createTime", topic.create_time),
        ("updateTime", topic.update_time),
        ("lastPublishTime", topic.last_publish_time),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            let nanos = u32::try_from(time.nanos).unwrap_or(u32::MAX);
            value[name] = event_time(time.seconds, nanos).into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::topic_json;
    use crate::proto::v1;

    #[test]
    fn a_topic_has_the_names_and_the_forms_of_protobuf() {
        let topic = v1::Topic {
            name: "a".into(),
            tail: u64::MAX,
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            retention: Some(v1::Retention {
                max_age: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                max_bytes: 7,
                max_records: 0,
            }),
            ..v1::Topic::default()
        };
        let json = topic_json(&topic);
        assert_eq!(json["tail"], "18446744073709551615");
        assert_eq!(json["createTime"], "1970-01-01T00:00:01.5Z");
        assert_eq!(json["retention"]["maxAge"], "90s");
        assert_eq!(json["retention"]["maxBytes"], "7");
        assert!(json.get("lastPublishTime").is_none() && json.get("restoredFrom").is_none(), "{json}");
        let restored_from = vec![v1::RestoredFrom { epoch: "e".into(), cut: 7 }];
        let json = topic_json(&v1::Topic { restored_from, ..topic });
        assert_eq!(json["restoredFrom"][0]["cut"], "7");
    }
}
