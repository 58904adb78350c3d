//! `streamway copy`: copies topics from one server to another, into a backup, or out of one. No record is stored twice,
//! no batch is stored in part, and nothing is taken from a backup that is damaged.

mod keep;
mod offsets;
mod progress;
mod restore;
mod source;
mod target;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tonic::Code;

use self::offsets::Offsets;
use self::progress::Progress;
use self::source::{Source, recreated, whole};
use self::target::Target;
use super::backup::Writer;
use super::connection::Connection;
use super::format::Format;
use super::{Failure, INTERRUPTED, Patience, interrupt, output};
use crate::client::Client;
use crate::proto::v1;

/// Copy topics from one server to another, or to and from a file.
///
/// SOURCE and DESTINATION are each the URL of a server or the path of a backup. Every topic is copied up to
/// its tail at that moment, oldest records first, with keys, values, headers, event times, trace contexts and
/// retention. The destination assigns epochs and publish times, and offsets except for a backup.
///
/// A backup is restored with its offsets to a server with the same engine: subscribers resume at their positions
/// up to the end of the backup, and later positions are refused (EPOCH_CHANGED). That needs the permission
/// `admin`, and a topic of the name must not exist. The groups of a topic are part of its backup, and go on from
/// where they were when it was made. Between servers, groups are not copied.
///
/// After an interruption run the command again: it finds what is already there and continues after it.
/// A topic of the destination with other content is refused.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway copy http://old:50051 http://new:50051            every topic
  streamway copy http://old:50051 http://new:50051 -t orders  one topic
  streamway copy http://old:50051 all.backup                  back up
  streamway copy http://old:50051 daily-$(date +%F).backup --keep 7
                                                              back up, and keep the last seven
  streamway copy all.backup http://new:50051                  restore")]
pub(super) struct Copy {
    /// The server or file to copy from.
    #[arg(value_name = "URL|FILE")]
    source: OsString,
    /// The server or file to copy to.
    #[arg(value_name = "URL|FILE")]
    destination: OsString,
    /// Copy only this topic; may be repeated.
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Write the mapping of offsets to this file, one JSON object for each batch.
    #[arg(long, value_name = "FILE")]
    offsets: Option<PathBuf>,
    /// File of the token for the destination, if it differs from the source's.
    #[arg(long, value_name = "FILE")]
    destination_token_file: Option<PathBuf>,
    /// Once a backup is complete, keep so many of its series, the newest, and remove the others. A series is the files of
    /// one directory whose names differ only in a number, as nightly-7.backup and nightly-8.backup.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Print only errors.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Returns the servers of a URL, in which commas separate several servers of one fleet, or `None` for a path.
fn servers(place: &OsString) -> Option<Vec<String>> {
    let text = place.to_str().filter(|text| text.contains("://"))?;
    Some(text.split(',').map(str::to_owned).collect())
}

impl Copy {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let interrupted = interrupt::on_signals()
            .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
        let progress = Arc::new(Progress::new(self.quiet || self.format.is_json()));
        let copied = tokio::select! {
            biased;
            () = interrupted.cancelled() => None,
            copied = self.copy(&progress) => Some(copied),
        };
        progress.clear();
        let Some(copied) = copied else {
            let why = "interrupted; the same command goes on from here";
            if self.format.is_json() {
                return Err(Failure::with_code(INTERRUPTED, why));
            }
            output::complain(why);
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let topics = copied?;
        progress.summary(topics, &self.destination.to_string_lossy());
        if self.format.is_json() {
            output::print(&output::json_line(&progress.json(topics)))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Copies the topics, and returns their number.
    async fn copy(&self, progress: &Arc<Progress>) -> Result<usize, Failure> {
        let (from, to) = (servers(&self.source), servers(&self.destination));
        if from.is_none() && to.is_none() {
            return Err(Failure::usage(
                "one of the two must be a server, http://host:port or https://host:port",
            ));
        }
        let source = match from {
            Some(servers) => Source::Server(self.client(&servers, None)?, self.patience.policy()),
            None => Source::backup(Path::new(&self.source), progress)?,
        };
        let topics = source.topics(&self.topics).await?;
        let bytes = topics.iter().fold(0_u64, |sum, topic| sum.saturating_add(topic.stored_bytes));
        progress.stage("", bytes);
        match to {
            Some(servers) => {
                let client = self.client(&servers, self.destination_token_file.as_ref())?;
                self.to_server(&source, &topics, client, progress).await?;
            }
            None => self.to_backup(&source, &topics, progress).await?,
        }
        Ok(topics.len())
    }

    fn client(&self, servers: &[String], token_file: Option<&PathBuf>) -> Result<Client, Failure> {
        let mut options = self.connection.options(servers)?;
        if let Some(file) = token_file {
            (options.token, options.token_file) = (None, Some(file.clone()));
        }
        Client::new(options).map_err(|error| Failure::usage(error.to_string()))
    }

    async fn to_server(
        &self,
        source: &Source,
        topics: &[v1::Topic],
        client: Client,
        progress: &Arc<Progress>,
    ) -> Result<(), Failure> {
        if self.keep.is_some() {
            return Err(Failure::usage("--keep is for backups"));
        }
        let offsets = self.offsets.as_deref().map(Offsets::create).transpose()?.map(Arc::new);
        let mut target = Target { client, retry: self.patience.policy(), offsets: offsets.clone() };
        for topic in topics {
            progress.topic(&topic.name);
            let batches = &mut source.batches(topic, None)?;
            let is_restored = match source.saved(topic) {
                Some(saved) => {
                    let parts = (&mut *batches, source.request_ids(saved)?, source.saved_groups(topic)?);
                    restore::restore(&target, saved, parts, progress).await?
                }
                None => false,
            };
            if !is_restored {
                target.copy(topic, batches, progress).await?;
            }
            // The server was reached, and may be away for as long as the user allows.
            target.retry.connect_give_up_after = target.retry.give_up_after;
        }
        offsets.map_or(Ok(()), |offsets| offsets.finish())
    }

    async fn to_backup(
        &self,
        source: &Source,
        topics: &[v1::Topic],
        progress: &Progress,
    ) -> Result<(), Failure> {
        if self.offsets.is_some() {
            return Err(Failure::usage("a backup keeps the source's offsets: --offsets is for servers"));
        }
        let mut writer = Writer::open(Path::new(&self.destination))?;
        let stale = |writer: &Writer, why: &str| {
            let partial = writer.partial().display();
            Failure::failed(format!("{why}; remove {partial} to begin anew"))
        };
        if let Some((open, position)) = writer.open.take() {
            let Some(topic) = topics.iter().find(|topic| topic.name == open.name) else {
                return Err(stale(&writer, &format!("an earlier run was interrupted in {}", open.name)));
            };
            // The position may be valid in a topic that was restored since, whose later records are others.
            if topic.epoch != open.epoch {
                let why = "an earlier run was interrupted in it, and it was deleted and created again since";
                return Err(stale(&writer, &format!("topic {}: {why}", open.name)));
            }
            let rest = self.save(source, topic, Some(position), &mut writer, progress).await;
            rest.map_err(|Failure { message, .. }| stale(&writer, &message))?;
            writer.done.insert(open.name);
        }
        for topic in topics {
            if !writer.is_complete && !writer.done.contains(&topic.name) {
                writer.begin(topic)?;
                // Before the records, so that all are saved that a group has settled.
                source.served_groups(topic).await?.iter().try_for_each(|part| writer.group(part))?;
                self.save(source, topic, None, &mut writer, progress).await?;
            }
        }
        writer.finish()?;
        if let Some(keep) = self.keep {
            let removed =
                keep::remove_older(Path::new(&self.destination), keep as usize).map_err(|error| {
                    Failure::failed(format!(
                        "the backup is complete, but older ones cannot be removed: {error}"
                    ))
                })?;
            tracing::info!(removed, "older backups removed");
        }
        Ok(())
    }

    async fn save(
        &self,
        source: &Source,
        topic: &v1::Topic,
        from: Option<crate::record::Position>,
        writer: &mut Writer,
        progress: &Progress,
    ) -> Result<(), Failure> {
        progress.topic(&topic.name);
        let mut batches = source.batches(topic, from)?;
        while let Some(block) = batches.next().await? {
            let batch = whole(&block)?;
            writer.batch(&batch)?;
            progress.pass(block.len() as u64);
            progress.copied(batch.count(), block.len() as u64);
        }
        let tail = batches.position().filter(|position| position.epoch.to_string() == topic.epoch);
        let tail = tail.ok_or_else(|| recreated(&topic.name))?;
        self.save_request_ids(source, topic, tail.offset.get(), writer).await?;
        writer.end(tail.offset.get())
    }

    /// Saves the request ids of the records before `tail`. Where the caller may not read them, or an earlier version of the
    /// server cannot tell them, the backup is complete without them.
    async fn save_request_ids(
        &self,
        source: &Source,
        topic: &v1::Topic,
        tail: u64,
        writer: &mut Writer,
    ) -> Result<(), Failure> {
        let mut page_token = String::new();
        loop {
            let mut page = match source.page_of_request_ids(topic, page_token).await {
                Ok(page) => page,
                Err(error) if matches!(error.code(), Code::PermissionDenied | Code::Unimplemented) => {
                    if !self.quiet {
                        let why = "a publish that is repeated after a restore may be stored twice";
                        let name = &topic.name;
                        output::complain(&format!(
                            "warning: topic {name} is saved without request ids ({error}): {why}"
                        ));
                    }
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            page_token = std::mem::take(&mut page.next_page_token);
            page.request_ids.retain(|id| id.first_offset < tail);
            if !page.request_ids.is_empty() {
                writer.request_ids(&page)?;
            }
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }
}
