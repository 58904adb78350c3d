//! `streamway topics trim` and `purge`: deletion of the oldest records, or of all.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::each::for_each;
use crate::cli::format::Format;
use crate::cli::start::parse_from;
use crate::cli::{Failure, output};
use crate::client::{Client, Start, SubscriberOptions, printable};
use crate::proto::v1;

/// Delete the oldest records of topics. A batch that holds the first record to keep is kept whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway topics trim orders --before 1000        keep offset 1000 and what follows
  streamway topics trim orders --before \"7d ago\"    keep what was stored in the last week
  streamway topics trim orders --before -100        keep the last 100 records
  streamway topics trim orders --before latest      keep nothing, as `purge`

A time and -N read one record to find its offset, which takes the permission to subscribe.")]
pub(super) struct Trim {
    /// Names of the topics.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// First record to keep: an offset, a position, latest (keep none), -N for the last N records, an RFC 3339 time, or
    /// "5m ago".
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, value_parser = parse_from)]
    before: Start,
    #[command(flatten)]
    incarnation: Incarnation,
    #[command(flatten)]
    format: Format,
}

/// Delete all records of topics. The topics, their settings and their offsets stay.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Names of the topics.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    incarnation: Incarnation,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Debug, Args)]
struct Incarnation {
    /// Fail unless the topic has this epoch, which changes when it is created again.
    #[arg(long, default_value = "", hide_default_value = true)]
    epoch: String,
}

impl Trim {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let trim =
            async |topic: &str| trim(client, topic, self.before, &self.incarnation.epoch, self.format).await;
        for_each(&self.topics, self.format, trim).await
    }
}

impl Purge {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let purge = async |topic: &str| {
            trim(client, topic, Start::Latest, &self.incarnation.epoch, self.format).await
        };
        for_each(&self.topics, self.format, purge).await
    }
}

async fn trim(
    client: &Client,
    topic: &str,
    before: Start,
    epoch: &str,
    format: Format,
) -> Result<(), Failure> {
    let (offset, found) = first_kept(client, topic, before).await?;
    // What was found in one incarnation of the topic must not be trimmed in another.
    if matches!(before, Start::Position(_)) && !epoch.is_empty() && epoch != found {
        return Err(Failure::usage(format!("the position of --before is of epoch {found}, not {epoch}")));
    }
    let epoch = if epoch.is_empty() { &found } else { epoch };
    let earliest = client.topics().trim(topic, offset, epoch).await?;
    output::print(&if format.is_json() {
        output::json_line(&json!({ "name": topic, "earliestOffset": earliest.to_string() }))
    } else {
        format!("the earliest offset of {} is now {earliest}\n", printable(topic))
    })?;
    Ok(())
}

/// The offset of the first record to keep, and the epoch in which it was found; empty where any will do.
async fn first_kept(client: &Client, topic: &str, before: Start) -> Result<(u64, String), Failure> {
    match before {
        Start::Offset(offset) => return Ok((offset.get(), String::new())),
        Start::Position(position) => return Ok((position.offset.get(), position.epoch.to_string())),
        Start::Earliest | Start::Latest | Start::Time(_) | Start::Last(_) => {}
    }
    let found = client.topics().get(topic).await?;
    let offset = match before {
        Start::Earliest => found.earliest_offset,
        Start::Time(_) | Start::Last(_) => first_record(client, topic, before).await?.unwrap_or(found.tail),
        _ => found.tail,
    };
    Ok((offset, found.epoch))
}

/// The offset of the first record at or after the start, or none if there is no such record yet.
async fn first_record(client: &Client, topic: &str, start: Start) -> Result<Option<u64>, Failure> {
    let limit = v1::ReadLimit { max_records: 1, stop_at_tail: true, ..v1::ReadLimit::default() };
    let options = SubscriberOptions { limit: Some(limit), ..SubscriberOptions::new(topic, start) };
    let mut subscriber = client.subscribe(options);
    while let Some(delivery) = subscriber.next().await {
        let delivery = delivery?;
        if let Some(record) = delivery.records().next() {
            return Ok(Some(record?.offset.get()));
        }
    }
    Ok(None)
}
