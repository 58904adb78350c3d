//! `streamway topics`: administration of topics.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::connection::Connection;
use super::{Failure, output};
use crate::client::{Client, printable};
use crate::config::{format_size, parse_duration, parse_size};
use crate::proto::v1;

/// Create, list, describe, update, trim and delete topics.
#[derive(Debug, Args)]
pub(super) struct Topics {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List topics by name.
    List {
        /// List only names that begin with this prefix.
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        format: Format,
    },
    /// Create a topic. Publishing also creates a topic, without retention limits.
    Create {
        /// Name of the topic: up to 128 of a-z, 0-9, '.', '_' and '-'.
        topic: String,
        #[command(flatten)]
        retention: Retention,
        #[command(flatten)]
        format: Format,
    },
    /// Show the settings and the state of a topic.
    Describe {
        /// Name of the topic.
        topic: String,
        #[command(flatten)]
        format: Format,
    },
    /// Change the retention limits of a topic. Limits that are not named stay; 0 removes a limit.
    #[command(after_help = "Example:\n  streamway topics update orders --max-age 7d --max-bytes 10GiB")]
    Update {
        /// Name of the topic.
        topic: String,
        #[command(flatten)]
        retention: Retention,
        #[command(flatten)]
        format: Format,
    },
    /// Delete the records before an offset. A batch that holds the offset is kept whole.
    Trim {
        /// Name of the topic.
        topic: String,
        /// First offset to keep.
        #[arg(long, value_name = "OFFSET")]
        before: u64,
        /// Fail unless the topic has this epoch, which changes when it is created again.
        #[arg(long, default_value = "", hide_default_value = true)]
        epoch: String,
        #[command(flatten)]
        format: Format,
    },
    /// Delete topics with all their records.
    Delete {
        /// Names of the topics.
        #[arg(required = true)]
        topics: Vec<String>,
        /// Fail unless the topic has this epoch, which changes when it is created again.
        #[arg(long, default_value = "", hide_default_value = true)]
        epoch: String,
    },
}

/// Options of the output.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Format {
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table or text to read.
    Table,
    /// JSON for programs.
    Json,
}

/// Retention limits.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Retention {
    /// Delete batches older than this, for example 7d; 0 for no limit.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age: Option<Duration>,
    /// Delete the oldest batches above this size, for example 10GiB; 0 for no limit.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bytes: Option<u64>,
    /// Delete the oldest batches above this number of records; 0 for no limit.
    #[arg(long, value_name = "N")]
    max_records: Option<u64>,
}

impl Retention {
    fn message(self) -> v1::Retention {
        let max_age = self.max_age.map(|age| prost_types::Duration {
            seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            nanos: age.subsec_nanos() as i32,
        });
        let (max_bytes, max_records) = (self.max_bytes.unwrap_or(0), self.max_records.unwrap_or(0));
        v1::Retention { max_age, max_bytes, max_records }
    }

    fn paths(self) -> Vec<String> {
        let named = [
            (self.max_age.is_some(), "retention.max_age"),
            (self.max_bytes.is_some(), "retention.max_bytes"),
            (self.max_records.is_some(), "retention.max_records"),
        ];
        named.into_iter().filter(|(given, _)| *given).map(|(_, path)| path.to_owned()).collect()
    }
}

impl Topics {
    pub(super) async fn run(self, client: Client) -> Result<ExitCode, Failure> {
        let service = client.topics();
        match self.command {
            Command::List { prefix, format } => list(&client, prefix, format).await?,
            Command::Create { topic, retention, format } => {
                print_topic(&service.create(&topic, Some(retention.message())).await?, format)?;
            }
            Command::Describe { topic, format } => print_topic(&service.get(&topic).await?, format)?,
            Command::Update { topic, retention, format } => {
                let paths = retention.paths();
                if paths.is_empty() {
                    return Err(Failure::usage(
                        "nothing to change: give --max-age, --max-bytes or --max-records",
                    ));
                }
                let changed =
                    v1::Topic { name: topic, retention: Some(retention.message()), ..Default::default() };
                print_topic(&service.update(changed, paths).await?, format)?;
            }
            Command::Trim { topic, before, epoch, format } => {
                let earliest = service.trim(&topic, before, &epoch).await?;
                output::print(&match format.output {
                    Output::Table => {
                        format!("the earliest offset of {} is now {earliest}\n", printable(&topic))
                    }
                    Output::Json => output::json_line(&json!({ "name": topic, "earliest_offset": earliest })),
                })?;
            }
            Command::Delete { topics, epoch } => {
                let several = topics.len() > 1;
                for topic in topics {
                    service.delete(&topic, &epoch).await.map_err(|error| match Failure::from(error) {
                        Failure { code, message } if several => {
                            Failure { code, message: format!("{topic}: {message}") }
                        }
                        one => one,
                    })?;
                    output::complain(&format!("deleted {topic}"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(client: &Client, prefix: String, format: Format) -> Result<(), Failure> {
    let service = client.topics();
    let (mut pages, mut rows) = (service.pages(prefix), Vec::new());
    while let Some(page) = pages.next().await? {
        match format.output {
            Output::Json => output::print(
                &page.iter().map(|topic| output::json_line(&as_json(topic))).collect::<String>(),
            )?,
            Output::Table => rows.extend(page.iter().map(row)),
        }
    }
    if format.output == Output::Table {
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

fn print_topic(topic: &v1::Topic, format: Format) -> Result<(), Failure> {
    if format.output == Output::Json {
        return Ok(output::print(&output::json_line(&as_json(topic)))?);
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
    Ok(output::print(&lines.iter().map(line).collect::<String>())?)
}

fn as_json(topic: &v1::Topic) -> Value {
    let limits = topic.retention.unwrap_or_default();
    let age = limits.max_age.and_then(|age| Duration::try_from(age).ok());
    let time = |time: Option<&prost_types::Timestamp>| time.map(|_| output::seconds(time));
    json!({
        "name": topic.name,
        "epoch": topic.epoch,
        "earliest_offset": topic.earliest_offset,
        "tail": topic.tail,
        "stored_bytes": topic.stored_bytes,
        "retention": {
            "max_age_seconds": age.map_or(0, |age| age.as_secs()),
            "max_bytes": limits.max_bytes,
            "max_records": limits.max_records,
        },
        "create_time": time(topic.create_time.as_ref()),
        "update_time": time(topic.update_time.as_ref()),
        "last_publish_time": time(topic.last_publish_time.as_ref()),
    })
}
