//! `streamway subscribe`: prints the records of topics to standard output.

mod deliveries;
pub(super) mod print;
mod resume_file;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::{FutureExt, StreamExt};
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use self::deliveries::{Deliveries, Indexed, subscribe};
use self::print::{Print, Printer};
use self::resume_file::ResumeFile;
use super::failure::of_several;
use super::format::Format;
use super::remote::Remote;
use super::start::{parse_from, parse_position};
use super::{Failure, INTERRUPTED, Patience, interrupt};
use crate::client::{Delivery, Error, Start, SubscriberOptions};
use crate::proto::v1::{self, Notice};
use crate::record::Position;

/// Largest number of topics: each has a call of its own.
const TOPICS_MAX: usize = 100;

/// Print the records of topics.
///
/// Prints all records and ends. With --follow, it prints new records as they are published, across server
/// restarts, until Ctrl-C. The records of several topics are printed as they arrive; those of one topic keep their order.
/// If one of them fails, the others are printed all the same; with --follow the command ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway subscribe orders                        all records
  streamway subscribe orders --follow               records published from now on
  streamway subscribe orders --from -10 --follow    the last 10 records, and new ones
  streamway subscribe orders --from \"1h ago\" --output json | jq .value
  streamway subscribe orders --follow --resume-file orders.pos
                                                    continue where the last run stopped
  streamway subscribe orders payments --follow --print-topic \": \"

Ctrl-C or SIGTERM ends it with exit code 130, or 0 with --follow and without --max. Another signal, a \
second or more after the first, ends it at once.")]
pub(super) struct Subscribe {
    /// Names of the topics, at most 100. With --follow they are created if they do not exist, unless the server is
    /// configured otherwise.
    #[arg(required = true, value_name = "TOPIC", num_args = 1..=TOPICS_MAX)]
    topics: Vec<String>,
    /// Start of the subscription: earliest, latest, an offset, -N for the last N records, an RFC 3339 time, "5m ago", or a
    /// position, which fails if the topic was deleted and created again since. The default is earliest, or latest with
    /// --follow.
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, value_parser = parse_from)]
    from: Option<Start>,
    /// The same as --from with a position. Version 0.1 had this flag.
    #[arg(long, hide = true, value_parser = parse_position, conflicts_with = "from")]
    position: Option<Position>,
    /// Continue with new records as they are published.
    #[arg(short, long)]
    follow: bool,
    /// End after this number of records of each topic.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    #[command(flatten)]
    print: Print,
    /// Store the position of each topic in this file, and start there if the file exists. It is written after the records
    /// are printed, so a crash repeats records rather than skips them.
    #[arg(long, value_name = "FILE")]
    resume_file: Option<PathBuf>,
    /// Action if the start is no longer in the topic, or beyond its tail.
    #[arg(long, value_enum, default_value_t = OutOfRange::Fail)]
    out_of_range: OutOfRange,
    /// Interval of the server's heartbeats, 1s to 10m. The connection counts as broken after three missing ones.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_heartbeat)]
    heartbeat: Duration,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutOfRange {
    /// Fail, and report the range of offsets in the topic.
    Fail,
    /// Continue at the oldest record.
    Earliest,
    /// Continue at the tail.
    Latest,
}

fn parse_heartbeat(text: &str) -> Result<Duration, String> {
    let interval = crate::config::parse_duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be 1s to 10m".into())
    }
}

/// The reason why printing stopped, without a failure.
enum Stop {
    /// The subscription ended.
    Done,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// Standard output was closed by its reader.
    Closed,
}

impl Subscribe {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if let Some(twice) = repeated(&self.topics) {
            return Err(Failure::usage(format!("the topic {twice} is named twice")));
        }
        let client = self.remote.client()?;
        let resume = self.resume_file.clone().map(|path| ResumeFile::load(path, &self.topics)).transpose()?;
        let options = self
            .topics
            .iter()
            .map(|topic| self.options(topic, resume.as_ref().and_then(|resume| resume.position(topic))));
        let mut deliveries = subscribe(&client, options);
        let mut sink = Sink {
            printer: Printer::new(&self.print, self.topics.len() > 1),
            resume,
            positions: vec![None; self.topics.len()],
            topics: self.topics.clone(),
            flushed: Instant::now(),
            goes_on: !self.follow && self.topics.len() > 1,
            format: Format::named(self.print.is_json()),
            code: 0,
        };
        let interrupted = interrupt::on_signals()
            .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
        let stop = tokio::select! {
            biased;
            () = interrupted.cancelled() => Stop::Interrupted,
            () = reader_gone() => Stop::Closed,
            outcome = copy(&mut deliveries, &mut sink, &interrupted) => outcome?,
        };
        if !matches!(stop, Stop::Closed) {
            sink.flush()?;
        }
        // Following without a limit can only be ended by a signal, which is then a success.
        let endless = self.follow && self.max.is_none();
        match stop {
            Stop::Interrupted if !endless => Ok(ExitCode::from(INTERRUPTED)),
            _ => Ok(ExitCode::from(sink.code)),
        }
    }

    fn options(&self, topic: &str, stored: Option<Position>) -> SubscriberOptions {
        let default = if self.follow { Start::Latest } else { Start::Earliest };
        let given = stored.or(self.position).map(Start::Position).or(self.from);
        SubscriberOptions {
            out_of_range: match self.out_of_range {
                OutOfRange::Fail => v1::OutOfRangePolicy::Fail,
                OutOfRange::Earliest => v1::OutOfRangePolicy::Earliest,
                OutOfRange::Latest => v1::OutOfRangePolicy::Latest,
            },
            limit: Some(v1::ReadLimit {
                max_records: self.max.unwrap_or(0),
                stop_at_tail: !self.follow,
                ..Default::default()
            }),
            heartbeat_interval: self.heartbeat,
            retry: self.patience.policy(),
            ..SubscriberOptions::new(topic, given.unwrap_or(default))
        }
    }
}

fn repeated(topics: &[String]) -> Option<&String> {
    topics.iter().enumerate().find(|(index, topic)| topics[..*index].contains(topic)).map(|(_, topic)| topic)
}

/// Standard output, and the file with its positions.
struct Sink {
    printer: Printer,
    resume: Option<ResumeFile>,
    topics: Vec<String>,
    /// For each topic, the position after the last record printed.
    positions: Vec<Option<Position>>,
    flushed: Instant,
    /// A topic that fails does not end the others.
    goes_on: bool,
    /// Format of failures.
    format: Format,
    /// Exit code, once a topic has failed.
    code: u8,
}

/// Longest time that printed records stay buffered while more are ready.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

impl Sink {
    fn put(&mut self, index: usize, delivery: &Delivery) -> Result<Stop, Failure> {
        match self.printer.delivery(&self.topics[index], delivery) {
            Ok(()) => {}
            Err(print::Error::Output(error)) => return closed(error),
            Err(print::Error::Record(error)) => return Err(self.failure(index, error)),
        }
        self.positions[index] = Some(delivery.next);
        if self.flushed.elapsed() < FLUSH_INTERVAL { Ok(Stop::Done) } else { self.flush() }
    }

    /// Writes out the records, and then stores their position.
    fn flush(&mut self) -> Result<Stop, Failure> {
        if let Err(error) = self.printer.flush() {
            return closed(error);
        }
        if let Some(resume) = &mut self.resume {
            let positions = self.topics.iter().map(String::as_str).zip(&self.positions);
            resume.store(positions.filter_map(|(topic, position)| Some((topic, (*position)?))))?;
        }
        self.flushed = Instant::now();
        Ok(Stop::Done)
    }

    /// Reports a topic that failed, or ends the command.
    fn fail(&mut self, index: usize, error: Error) -> Result<(), Failure> {
        let failure = self.failure(index, error);
        if !self.goes_on {
            return Err(failure);
        }
        self.code = of_several(self.code, failure.code);
        self.format.complain(&failure);
        Ok(())
    }

    /// The failure of a subscription, which names its topic if there are several.
    fn failure(&self, index: usize, error: Error) -> Failure {
        let failure = Failure::from(error);
        if self.topics.len() > 1 { failure.about("topic", &self.topics[index]) } else { failure }
    }
}

/// A closed pipe, as `head` closes it, ends the command; other errors fail it.
fn closed(error: io::Error) -> Result<Stop, Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Stop::Closed);
    }
    Err(Failure::failed(format!("cannot write to standard output: {error}")))
}

async fn copy(
    deliveries: &mut Deliveries,
    sink: &mut Sink,
    interrupted: &CancellationToken,
) -> Result<Stop, Failure> {
    loop {
        // Deliveries that are always ready must not starve the other futures.
        tokio::task::yield_now().await;
        if interrupted.is_cancelled() {
            return Ok(Stop::Interrupted);
        }
        // Records are flushed before every wait, so that none is held back.
        let ready = deliveries.next().now_or_never();
        let next: Option<Indexed> = match ready {
            Some(next) => next,
            None => {
                if let Stop::Closed = sink.flush()? {
                    return Ok(Stop::Closed);
                }
                deliveries.next().await
            }
        };
        match next {
            None => return Ok(Stop::Done),
            Some((index, Ok(delivery))) => {
                if delivery.notice == Notice::Gap {
                    tracing::warn!(
                        topic = sink.topics[index],
                        next = delivery.next.offset.get(),
                        "records before this offset are no longer in the topic"
                    );
                }
                if let Stop::Closed = sink.put(index, &delivery)? {
                    return Ok(Stop::Closed);
                }
            }
            Some((index, Err(error))) => {
                sink.flush()?;
                sink.fail(index, error)?;
            }
        }
    }
}

/// Waits until the reader of a pipe on standard output has closed it, even while nothing is printed.
pub(super) async fn reader_gone() {
    // The pipe is only watched through this handle, so it may stay in blocking mode. A file cannot be watched, and
    // has no reader that could close it.
    let watched =
        io::stdout().as_fd().try_clone_to_owned().and_then(|fd| pipe::Sender::from_file_unchecked(fd.into()));
    match watched {
        Ok(output) => drop(output.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}
