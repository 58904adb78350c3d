//! Topics as a table, as text and as JSON. The JSON is protobuf's own form of the message: its names, 64-bit numbers as
//! strings.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::{Client, printable};
use crate::config::format_size;
use crate::proto::v1;

/// Prints the topics whose name begins with a prefix.
pub(super) async fn list(client: &Client, prefix: String, format: Format) -> Result<(), Failure> {
    let service = client.topics();
    let (mut pages, mut rows) = (service.pages(prefix), Vec::new());
    while let Some(page) = pages.next().await? {
        if format.is_json() {
            let lines: String = page.iter().map(|topic| output::json_line(&as_json(topic))).collect();
            output::print(&lines)?;
        } else {
            rows.extend(page.iter().map(row));
        }
    }
    if !format.is_json() {
        let header = ["NAME", "EARLIEST", "TAIL", "SIZE", "RETENTION", "LAST PUBLISH"];
        output::print(&output::table(&header, &rows))?;
    }
    Ok(())
}

fn row(topic: &v1::Topic) -> Vec<String> {
    vec![
        topic.name.clone(),
        topic.earliest_offset.to_string(),
        topic.tail.to_string(),
        approximate(topic.stored_bytes),
        retention(topic),
        output::seconds(topic.last_publish_time.as_ref()),
    ]
}

fn approximate(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string().replace(' ', "")
}

fn retention(topic: &v1::Topic) -> String {
    let Some(limits) = &topic.retention else { return "none".into() };
    let age = limits.max_age.and_then(|age| Duration::try_from(age).ok()).filter(|age| !age.is_zero());
    let parts = [
        age.map(|age| humantime::format_duration(age).to_string().replace(' ', "")),
        (limits.max_bytes > 0).then(|| format_size(limits.max_bytes)),
        (limits.max_records > 0).then(|| format!("{} records", limits.max_records)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

/// Prints one topic.
pub(super) fn print_topic(topic: &v1::Topic, format: Format) -> std::io::Result<()> {
    if format.is_json() {
        return output::print(&output::json_line(&as_json(topic)));
    }
    let records = topic.tail.saturating_sub(topic.earliest_offset);
    let lines = [
        ("name", topic.name.clone()),
        ("epoch", topic.epoch.clone()),
        ("earliest", topic.earliest_offset.to_string()),
        ("tail", format!("{} ({records} offsets in the topic)", topic.tail)),
        ("size", approximate(topic.stored_bytes)),
        ("retention", retention(topic)),
        ("created", output::seconds(topic.create_time.as_ref())),
        ("updated", output::seconds(topic.update_time.as_ref())),
        ("last publish", output::seconds(topic.last_publish_time.as_ref())),
    ];
    let line = |(key, value): &(&str, String)| {
        format!("{:<13} {}", format!("{key}:"), printable(value)).trim_end().to_owned() + "\n"
    };
    output::print(&lines.iter().map(line).collect::<String>())
}

fn as_json(topic: &v1::Topic) -> Value {
    let limits = topic.retention.unwrap_or_default();
    let mut retention = json!({
        "maxBytes": limits.max_bytes.to_string(),
        "maxRecords": limits.max_records.to_string(),
    });
    if let Some(age) = limits.max_age.and_then(|age| Duration::try_from(age).ok()) {
        retention["maxAge"] = output::duration(age).into();
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
            value[name] = output::event_time(time.seconds, nanos).into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::as_json;
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
        let json = as_json(&topic);
        assert_eq!(json["tail"], "18446744073709551615");
        assert_eq!(json["createTime"], "1970-01-01T00:00:01.5Z");
        assert_eq!(json["retention"]["maxAge"], "90s");
        assert_eq!(json["retention"]["maxBytes"], "7");
        assert!(json.get("lastPublishTime").is_none() && json.get("restoredFrom").is_none(), "{json}");
        let restored_from = vec![v1::RestoredFrom { epoch: "e".into(), cut: 7 }];
        let json = as_json(&v1::Topic { restored_from, ..topic });
        assert_eq!(json["restoredFrom"][0]["cut"], "7");
    }
}
