//! Reports of a check as one JSON object.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::backup::Saved;
use crate::cli::output;
use crate::proto::v1;
use crate::storage::embedded::check::{Damage, Repaired, Report, TopicReport};

/// Formats the report of a data directory.
pub(super) fn directory(dir: &Path, report: &Report) -> String {
    output::json_line(&whole_directory(dir, report))
}

/// Formats what a repair has found and done. The report is of after the repair.
pub(super) fn repaired(dir: &Path, done: &Repaired) -> String {
    let mut value = whole_directory(dir, &done.after);
    value["repair"] = json!({
        "damages": done.before.damages.iter().map(damage).collect::<Value>(),
        "replacedFiles": done.kept.as_ref().map(|kept| kept.display().to_string()),
        "topics": done.renewed.iter().map(renewed).collect::<Value>(),
    });
    output::json_line(&value)
}

/// Formats the report of a backup, which may be damaged at a byte.
pub(super) fn backup(path: &Path, topics: &[Saved], damage: Option<(u64, &str)>) -> String {
    let damages = damage.map(|(at, what)| place(path, at, what));
    output::json_line(&json!({
        "path": path.display().to_string(),
        "kind": "BACKUP",
        "whole": damages.is_none(),
        "damages": damages.into_iter().collect::<Value>(),
        "topics": topics.iter().map(saved).collect::<Value>(),
        "groups": topics.iter().flat_map(|topic| &topic.groups).map(group).collect::<Value>(),
    }))
}

fn whole_directory(dir: &Path, report: &Report) -> Value {
    let (segments, bytes) = report.segments;
    json!({
        "path": dir.display().to_string(),
        "kind": "DATA_DIRECTORY",
        "whole": report.damages.is_empty(),
        "damages": report.damages.iter().map(damage).collect::<Value>(),
        "notes": report.notes,
        "topics": report.topics.iter().map(topic).collect::<Value>(),
        "segments": segments.to_string(),
        "segmentBytes": bytes.to_string(),
        "journals": report.journals.to_string(),
        "requestIdFiles": report.ids.to_string(),
    })
}

fn topic(topic: &TopicReport) -> Value {
    let lost: u64 = topic.lost.iter().map(|(first, end)| end - first).sum();
    json!({
        "name": topic.name,
        "epoch": topic.epoch.to_string(),
        "earliestOffset": topic.earliest.to_string(),
        "tail": topic.tail.to_string(),
        "lostRecords": lost.to_string(),
    })
}

fn renewed((before, after): &(TopicReport, TopicReport)) -> Value {
    let range = |(first, end): &(u64, u64)| json!({ "first": first.to_string(), "end": end.to_string() });
    json!({
        "name": before.name,
        "newName": after.name,
        "newEpoch": after.epoch.to_string(),
        "lost": before.lost.iter().map(range).collect::<Value>(),
        "perhapsMoreLost": before.doubt,
    })
}

fn damage(damage: &Damage) -> Value {
    place(&damage.file, damage.at, &damage.what)
}

fn place(file: &Path, at: u64, what: &str) -> Value {
    json!({ "file": file.display().to_string(), "byte": at.to_string(), "description": what })
}

fn saved(saved: &Saved) -> Value {
    json!({
        "name": saved.topic.name,
        "epoch": saved.topic.epoch,
        "firstOffset": saved.first().to_string(),
        "tail": saved.end().to_string(),
        "records": saved.records.to_string(),
        "batches": saved.batches.to_string(),
    })
}

fn group(group: &v1::Group) -> Value {
    let status = group.status.clone().unwrap_or_default();
    json!({
        "topic": group.topic,
        "name": group.name,
        "oldestUnsettledOffset": status.oldest_unsettled_offset.to_string(),
        "lagRecords": status.lag_records.to_string(),
        "parkedRecords": status.parked_records.to_string(),
    })
}
