//! `streamway topics`: administration of topics.

mod delete;
mod each;
mod show;
mod trim;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::delete::Delete;
use self::each::for_each;
use self::show::{list, print_topic};
use self::trim::{Purge, Trim};
use super::Failure;
use super::format::Format;
use super::remote::Remote;
use crate::config::{parse_duration, parse_size};
use crate::proto::v1;

/// Create, list, describe, update, trim and delete topics.
#[derive(Debug, Args)]
pub(super) struct Topics {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List topics by name.
    #[command(visible_alias = "ls")]
    List {
        /// List only names that begin with this prefix.
        #[arg(default_value = "", hide_default_value = true)]
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
    /// Show the settings and the state of topics.
    Describe {
        /// Names of the topics.
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
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
    Trim(Trim),
    Purge(Purge),
    Delete(Delete),
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
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.remote.client()?;
        let service = client.topics();
        match self.command {
            Command::List { prefix, format } => list(&client, prefix, format).await?,
            Command::Create { topic, retention, format } => {
                print_topic(&service.create(&topic, Some(retention.message())).await?, format)?;
            }
            Command::Describe { topics, format } => {
                let describe = async |topic: &str| {
                    print_topic(&service.get(topic).await?, format).map_err(Failure::from)
                };
                return for_each(&topics, format, describe).await;
            }
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
            Command::Trim(trim) => return trim.run(&client).await,
            Command::Purge(purge) => return purge.run(&client).await,
            Command::Delete(delete) => return delete.run(&client).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}
