//! `streamway subscribe`: prints records to standard output.

mod print;
mod resume_file;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::FutureExt;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use self::print::{Print, Printer};
use self::resume_file::ResumeFile;
use super::connection::Connection;
use super::start::{parse_from, parse_position};
use super::{Failure, INTERRUPTED, Patience, interrupt};
use crate::client::{Client, Delivery, Error, Start, Subscriber, SubscriberOptions};
use crate::proto::v1::{self, Notice};
use crate::record::Position;

/// Print the records of a topic.
///
/// Prints all records and ends. With --follow, it prints new records as they are published, across server
/// restarts, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway subscribe orders                        all records
  streamway subscribe orders --follow               records published from now on
  streamway subscribe orders --from -10 --follow    the last 10 records, and new ones
  streamway subscribe orders --from \"1h ago\" --output json | jq .value
  streamway subscribe orders --follow --resume-file orders.pos
                                                    continue where the last run stopped

Ctrl-C or SIGTERM ends it with exit code 130, or 0 with --follow and without --max. A second signal
ends it at once.")]
pub(super) struct Subscribe {
    /// Name of the topic. With --follow it is created if it does not exist, unless the server is configured otherwise.
    topic: String,
    /// Start of the subscription: earliest, latest, an offset, -N for the last N records, an RFC 3339 time, or "5m ago".
    /// The default is earliest, or latest with --follow.
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, value_parser = parse_from)]
    from: Option<Start>,
    /// Start at this position, and fail if the topic was deleted and created again since.
    #[arg(long, value_name = "EPOCH:OFFSET", value_parser = parse_position, conflicts_with = "from")]
    position: Option<Position>,
    /// Continue with new records as they are published.
    #[arg(short, long)]
    follow: bool,
    /// End after this number of records.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    #[command(flatten)]
    print: Print,
    /// Store the position in this file, and start there if the file exists. It is written after the records are printed,
    /// so a crash repeats records rather than skips them.
    #[arg(long, value_name = "FILE")]
    resume_file: Option<PathBuf>,
    /// What to do if the start is no longer in the topic, or beyond its tail.
    #[arg(long, value_enum, default_value_t = OutOfRange::Fail)]
    out_of_range: OutOfRange,
    /// Interval of the server's heartbeats, 1s to 10m. The connection counts as broken after three missing ones.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_heartbeat)]
    heartbeat: Duration,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
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
    pub(super) async fn run(self, client: Client) -> Result<ExitCode, Failure> {
        let resume = self.resume_file.clone().map(ResumeFile::new);
        let stored = resume.as_ref().map(ResumeFile::load).transpose()?.flatten();
        let mut subscriber = client.subscribe(self.options(stored));
        let mut sink =
            Sink { printer: Printer::new(&self.print), resume, position: None, flushed: Instant::now() };
        let interrupted = interrupt::on_signals()
            .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
        let stop = tokio::select! {
            biased;
            () = interrupted.cancelled() => Stop::Interrupted,
            () = reader_gone() => Stop::Closed,
            outcome = copy(&mut subscriber, &mut sink, &interrupted) => outcome?,
        };
        if !matches!(stop, Stop::Closed) {
            sink.flush()?;
        }
        // Following without a limit can only be ended by a signal, which is then a success.
        let endless = self.follow && self.max.is_none();
        match stop {
            Stop::Interrupted if !endless => Ok(ExitCode::from(INTERRUPTED)),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    fn options(&self, stored: Option<Position>) -> SubscriberOptions {
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
            ..SubscriberOptions::new(self.topic.clone(), given.unwrap_or(default))
        }
    }
}

/// Standard output, and the file with its position.
struct Sink {
    printer: Printer,
    resume: Option<ResumeFile>,
    /// Position after the last record printed.
    position: Option<Position>,
    flushed: Instant,
}

/// Longest time that printed records stay buffered while more are ready.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

impl Sink {
    fn put(&mut self, delivery: &Delivery) -> Result<Stop, Failure> {
        match self.printer.delivery(delivery) {
            Ok(()) => {}
            Err(print::Error::Output(error)) => return closed(error),
            Err(print::Error::Record(error)) => return Err(error.into()),
        }
        self.position = Some(delivery.next);
        if self.flushed.elapsed() < FLUSH_INTERVAL { Ok(Stop::Done) } else { self.flush() }
    }

    /// Writes out the records, and then stores their position.
    fn flush(&mut self) -> Result<Stop, Failure> {
        if let Err(error) = self.printer.flush() {
            return closed(error);
        }
        if let (Some(resume), Some(position)) = (&mut self.resume, self.position) {
            resume.store(position)?;
        }
        self.flushed = Instant::now();
        Ok(Stop::Done)
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
    subscriber: &mut Subscriber,
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
        let ready = subscriber.next().now_or_never();
        let next: Option<Result<Delivery, Error>> = match ready {
            Some(next) => next,
            None => {
                if let Stop::Closed = sink.flush()? {
                    return Ok(Stop::Closed);
                }
                subscriber.next().await
            }
        };
        match next {
            None => return Ok(Stop::Done),
            Some(Ok(delivery)) => {
                if delivery.notice == Notice::Gap {
                    tracing::warn!(
                        next = delivery.next.offset.get(),
                        "records before this offset are no longer in the topic"
                    );
                }
                if let Stop::Closed = sink.put(&delivery)? {
                    return Ok(Stop::Closed);
                }
            }
            Some(Err(error)) => {
                sink.flush()?;
                return Err(error.into());
            }
        }
    }
}

/// Waits until the reader of a pipe on standard output has closed it, even while nothing is printed.
async fn reader_gone() {
    // The pipe is only watched through this handle, so it may stay in blocking mode. A file cannot be watched, and
    // has no reader that could close it.
    let watched =
        io::stdout().as_fd().try_clone_to_owned().and_then(|fd| pipe::Sender::from_file_unchecked(fd.into()));
    match watched {
        Ok(output) => drop(output.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}
