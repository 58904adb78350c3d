//! `streamway groups`: administration of groups.

mod settings;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use self::settings::{Order, Settings};
use self::show::{list, print_group};
use super::confirm::confirm;
use super::format::Format;
use super::remote::Remote;
use super::start::parse_group_start;
use super::{Failure, output};
use crate::client::Client;
use crate::proto::v1;

/// List, describe, create, update, seek, delete and redrive groups.
///
/// The members of a group share the records of a topic; see `streamway consume`.
#[derive(Debug, Args)]
pub(super) struct Groups {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// The group of a command.
#[derive(Clone, Debug, Args)]
struct Named {
    /// Name of the topic.
    topic: String,
    /// Name of the group: up to 128 of a-z, 0-9, '.', '_' and '-'.
    group: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List groups by topic and name.
    #[command(visible_alias = "ls")]
    List {
        /// List only the groups of this topic.
        #[arg(default_value = "", hide_default_value = true)]
        topic: String,
        #[command(flatten)]
        format: Format,
    },
    /// Show the settings, the state and the members of a group.
    Describe {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Create a group of a topic that exists.
    #[command(after_help = "\
Examples:
  streamway groups create orders mail
  streamway groups create orders billing --order key --deliveries-max 5 --backoff 1s,10s,1m \\
      --dead-letter-topic orders.failed")]
    Create {
        #[command(flatten)]
        named: Named,
        /// Order in which records are handled. It cannot be changed.
        #[arg(long, value_enum, default_value_t = Order::None)]
        order: Order,
        /// Start of the group: earliest, latest, an offset, an RFC 3339 time, "5m ago", or a position.
        #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = parse_group_start)]
        from: v1::GroupStart,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a group. Those that are not named stay. They apply to leases from then on.
    #[command(after_help = "Example:\n  streamway groups update orders mail --ack-deadline 5m")]
    Update {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        format: Format,
    },
    /// Let a group go on elsewhere: everything before counts as settled, and nothing from there on. All leases are lost.
    #[command(after_help = "\
Examples:
  streamway groups seek orders mail --to \"1h ago\"      handle the last hour again
  streamway groups seek orders mail --to latest --yes  skip everything, without a question")]
    Seek {
        #[command(flatten)]
        named: Named,
        /// New place of the group: earliest, latest, an offset, an RFC 3339 time, "5m ago", or a position.
        #[arg(long, value_name = "WHERE", value_parser = parse_group_start)]
        to: v1::GroupStart,
        /// Seek without a question.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Delete a group, and with it what is known about settled records. The calls of its members end.
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        named: Named,
        /// Delete without a question.
        #[arg(short, long)]
        yes: bool,
        /// Fail unless the group has this id, which changes when it is created again.
        #[arg(long, default_value = "", hide_default_value = true)]
        id: String,
        #[command(flatten)]
        format: Format,
    },
    Redrive(Redrive),
    /// Give up a damaged internal topic, with all groups that it stores. Needs the action `operate`.
    #[command(after_help = "\
Calls on the groups that it stores fail with DATA_DAMAGED, and `streamway groups list` names the topic. What its groups had \
settled is lost. Create them again afterwards, with --from at the place where each was.

Example:
  streamway groups reset groups-07")]
    Reset {
        /// Name of the internal topic, ~groups-00 to ~groups-15. It may be written without the ~.
        #[arg(value_name = "INTERNAL_TOPIC")]
        internal_topic: String,
        /// Do not ask for confirmation.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        format: Format,
    },
}

/// Deliver records again that went to the dead letter topic, or were set aside.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway groups redrive orders mail
  streamway groups redrive orders mail --offsets 40,100-120")]
struct Redrive {
    #[command(flatten)]
    named: Named,
    /// Deliver records again that were set aside with their keys, rather than dead letters.
    #[arg(long)]
    parked: bool,
    /// Deliver only the records of these offsets: numbers, or FIRST-LAST, separated by commas.
    #[arg(long, value_name = "OFFSETS", value_delimiter = ',', value_parser = parse_range)]
    offsets: Vec<v1::OffsetRange>,
    /// Publish copies of records that the topic does not hold any more to it again, for all its readers.
    #[arg(long)]
    republish_trimmed: bool,
    #[command(flatten)]
    format: Format,
}

/// Reads an offset, or the first and the last of several.
fn parse_range(text: &str) -> Result<v1::OffsetRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = number(first).zip(number(last).and_then(|last| last.checked_add(1)));
    match range {
        Some((start, end)) if start < end => Ok(v1::OffsetRange { start, end }),
        _ => Err("write an offset as 40, or the first and the last as 100-120".into()),
    }
}

impl Groups {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.remote.client()?;
        let groups = client.groups();
        match self.command {
            Command::List { topic, format } => list(&client, &topic, format).await?,
            Command::Describe { named: Named { topic, group }, format } => {
                print_group(&groups.get(&topic, &group).await?, format)?;
            }
            Command::Create { named, order, from, settings, format } => {
                let settings = v1::GroupSettings { order: order.message().into(), ..settings.message() };
                let group = named.message(Some(settings));
                print_group(&groups.create(group, Some(from)).await?, format)?;
            }
            Command::Update { named, settings, format } => {
                let paths = settings.paths();
                if paths.is_empty() {
                    return Err(Failure::usage("nothing to change: give a setting, such as --ack-deadline"));
                }
                let group = named.message(Some(settings.message()));
                print_group(&groups.update(group, paths).await?, format)?;
            }
            Command::Seek { named: Named { topic, group }, to, yes, format } => {
                if !yes {
                    confirm(&format!(
                        "Let {group} of {topic} go on elsewhere? Its members lose their leases."
                    ))?;
                }
                print_group(&groups.seek(&topic, &group, to).await?, format)?;
            }
            Command::Delete { named, yes, id, format } => delete(&client, &named, yes, &id, format).await?,
            Command::Redrive(redrive) => redrive.run(&client).await?,
            Command::Reset { internal_topic, yes, format } => {
                reset(&client, &internal_topic, yes, format).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    fn message(self, settings: Option<v1::GroupSettings>) -> v1::Group {
        v1::Group { topic: self.topic, name: self.group, settings, ..v1::Group::default() }
    }
}

async fn delete(client: &Client, named: &Named, yes: bool, id: &str, format: Format) -> Result<(), Failure> {
    let Named { topic, group } = named;
    if !yes {
        confirm(&format!("Delete {group} of {topic}? What it has settled is forgotten."))?;
    }
    client.groups().delete(topic, group, id).await?;
    if format.is_json() {
        output::print(&output::json_line(&json!({ "topic": topic, "name": group })))?;
    } else {
        output::complain(&format!("deleted {group} of {topic}"));
    }
    Ok(())
}

async fn reset(client: &Client, internal_topic: &str, yes: bool, format: Format) -> Result<(), Failure> {
    let name = format!("~{}", internal_topic.trim_start_matches('~'));
    if !yes {
        confirm(&format!("Give up {name}? All groups that it stores are gone."))?;
    }
    client.groups().reset(&name).await?;
    if format.is_json() {
        output::print(&output::json_line(&json!({ "internalTopic": name })))?;
    } else {
        output::complain(&format!("{name} is deleted, with its groups"));
    }
    Ok(())
}

impl Redrive {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let source = if self.parked { v1::RedriveSource::Parked } else { v1::RedriveSource::DeadLetters };
        let request = v1::RedriveDeadLettersRequest {
            topic: self.named.topic,
            name: self.named.group,
            source: source.into(),
            ranges: self.offsets,
            republish_trimmed: self.republish_trimmed,
        };
        let done = client.groups().redrive(request).await?;
        let text = if self.format.is_json() {
            output::json_line(&json!({
                "reopenedRecords": done.reopened_records.to_string(),
                "republishedRecords": done.republished_records.to_string(),
                "missingRecords": done.missing_records.to_string(),
            }))
        } else {
            format!(
                "{} records are delivered again, {} were published again, {} are missing\n",
                done.reopened_records, done.republished_records, done.missing_records
            )
        };
        Ok(output::print(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn offsets_are_read_with_their_last_one() {
        let read = |text| parse_range(text).map(|range| (range.start, range.end)).ok();
        assert_eq!((read("40"), read("100-120")), (Some((40, 41)), Some((100, 121))));
        for bad in ["", "-", "5-4", "x", "1-", "-1", "18446744073709551615"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
