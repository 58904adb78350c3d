//! Topics as a table, as text and as JSON.

use std::time::Duration;

use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::{Client, printable};
use crate::config::format_size;
use crate::json::topic_json;
use crate::proto::v1;

/// Prints the topics whose name begins with a prefix.
pub(super) async fn list(client: &Client, prefix: String, format: Format) -> Result<(), Failure> {
    let service = client.topics();
    let (mut pages, mut rows) = (service.pages(prefix), Vec::new());
    while let Some(page) = pages.next().await? {
        if format.is_json() {
            let lines: String = page.iter().map(|topic| output::json_line(&topic_json(topic))).collect();
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
        return output::print(&output::json_line(&topic_json(topic)));
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
