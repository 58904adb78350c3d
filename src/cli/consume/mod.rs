//! `streamway consume`: a member of a group, which runs a command for each record or prints it.

mod exec;
mod limits;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use self::exec::Exec;
use self::limits::settled_up_to_tail;
use super::interrupt::Signals;
use super::remote::Remote;
use super::start::parse_group_start;
use super::subscribe::print::{Print, Printer};
use super::subscribe::reader_gone;
use super::{Failure, INTERRUPTED, Patience, output};
use crate::client::{Client, Consumer, ConsumerOptions, Handled, Received, Rejection, Summary};
use crate::config::parse_duration;
use crate::proto::v1;

/// Records that are held ahead for printing, which is fast.
const PRINTED_AHEAD: usize = 1000;

/// Share the records of a topic with the other members of a group.
///
/// Each record is handled by one member, at least once: with --exec by a command of its own, else by printing it. It is
/// acknowledged once the command has succeeded, or the record is printed. Runs until Ctrl-C, across server restarts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway consume orders --group mail --exec ./send-mail
  streamway consume orders --group mail --exec ./send-mail --parallel 8
  streamway consume orders --group archive --output json >> archive.jsonl
  streamway consume orders --group mail --exec ./send-mail --stop-at-tail

The command gets the value on its standard input, and in its environment STREAMWAY_TOPIC, _GROUP, _GROUP_ID, \
_OFFSET, _KEY, _HEADERS (a JSON object), _PUBLISH_TIME, _DELIVERY (1 for the first) and _FENCE (rises with \
every delivery), and in TRACEPARENT the trace context of the publish, if it had one. Its exit code says what \
becomes of the record:
  0       acknowledged
  65      given up, as the group's settings say (EX_DATAERR)
  others  delivered again, after the back-off of the group (75, EX_TEMPFAIL, is the usual one)
If the record is taken from this member meanwhile, the command is ended with SIGTERM and its exit code is ignored.

Ctrl-C or SIGTERM lets the commands that run end, gives back the other records, and ends with exit code 0, or 130 \
with --max or --stop-at-tail. Another signal ends it at once.")]
pub(super) struct Consume {
    /// Name of the topic.
    topic: String,
    /// Name of the group. It is created if it does not exist, unless the server is configured otherwise; see `streamway
    /// groups create` for its settings.
    #[arg(short, long, value_name = "NAME")]
    group: String,
    /// Command to run for each record, by `sh -c`.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["output", "no_newline", "print_key", "print_topic"])]
    exec: Option<String>,
    /// Number of commands that run at a time.
    #[arg(
        short = 'P',
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "exec",
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    parallel: u16,
    /// Name of this member for people, as in `streamway groups describe`.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    member: String,
    /// Start of the group if it is created: earliest, latest, an offset, an RFC 3339 time, "5m ago", or a position.
    #[arg(long, value_name = "WHERE", value_parser = parse_group_start)]
    from: Option<v1::GroupStart>,
    /// End after this number of deliveries to this member.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// End once every record that was in the topic at the start is settled, by whichever member.
    #[arg(long)]
    stop_at_tail: bool,
    #[command(flatten)]
    print: Print,
    /// Time that commands have to end after Ctrl-C or SIGTERM. Then they are ended, and their records given back.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    stop_timeout: Duration,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) remote: Remote,
}

impl Consume {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.remote.client()?;
        let consumer = client.consumer(self.options())?;
        let interrupted = interrupted()?;
        let summary = match self.exec.clone() {
            Some(command) => {
                let exec = Exec::new(command, &self.topic, &self.group);
                let handler = |received| exec.clone().run(received);
                consumer.run(handler, self.stop(&client, &interrupted, std::future::pending())).await?
            }
            None => self.print(consumer, &client, &interrupted).await?,
        };
        report(&summary);
        let is_endless = self.max.is_none() && !self.stop_at_tail;
        let code = if interrupted.is_cancelled() && !is_endless { INTERRUPTED } else { 0 };
        Ok(ExitCode::from(code))
    }

    fn options(&self) -> ConsumerOptions {
        let parallel = usize::from(self.parallel);
        ConsumerOptions {
            member: self.member.clone(),
            concurrency: parallel,
            prefetch: if self.exec.is_some() { parallel } else { PRINTED_AHEAD },
            deliveries_max: self.max,
            start: self.from.clone(),
            stop_timeout: self.stop_timeout,
            retry: self.patience.policy(),
            ..ConsumerOptions::new(&self.topic, &self.group)
        }
    }

    /// Waits for the first reason to stop.
    async fn stop(&self, client: &Client, interrupted: &CancellationToken, closed: impl Future<Output = ()>) {
        let at_tail = async {
            match self.stop_at_tail {
                true => settled_up_to_tail(&client.groups(), &self.topic, &self.group).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interrupted.cancelled() => {}
            () = at_tail => {}
            () = closed => {}
        }
    }

    /// Prints records. Each is acknowledged after it was written.
    async fn print(
        &self,
        consumer: Consumer,
        client: &Client,
        interrupted: &CancellationToken,
    ) -> Result<Summary, Failure> {
        let printer = RefCell::new(Printer::new(&self.print, false));
        let failed: Rc<RefCell<Option<std::io::Error>>> = Rc::default();
        let closed = CancellationToken::new();
        let handler = |received: Received| {
            let mut printer = printer.borrow_mut();
            let mut handled: Handled = Ok(());
            if failed.borrow().is_some() {
                handled = Err(Rejection::Return);
            } else if let Err(error) =
                printer.record(&self.topic, &received.record()).and_then(|()| printer.flush())
            {
                *failed.borrow_mut() = Some(error);
                closed.cancel();
                handled = Err(Rejection::Return);
            }
            std::future::ready(handled)
        };
        let gone = async {
            tokio::select! {
                () = closed.cancelled() => {}
                () = reader_gone() => {}
            }
        };
        let summary = consumer.run(handler, self.stop(client, interrupted, gone)).await?;
        match failed.take() {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("cannot write to standard output: {error}")))
            }
            _ => Ok(summary),
        }
    }
}

/// A token that the first Ctrl-C or SIGTERM cancels. Another one ends the process.
fn interrupted() -> Result<CancellationToken, Failure> {
    let watched = Signals::watch();
    let mut signals =
        watched.map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        signals.next().await;
        cancelled.cancel();
        signals.next().await;
        std::process::exit(INTERRUPTED.into());
    });
    Ok(token)
}

/// Says what did not go well.
fn report(summary: &Summary) {
    let counts = [
        (summary.refused, "failed"),
        (summary.dead_lettered, "given up"),
        (summary.lost, "taken away during their handling"),
    ];
    let told: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !told.is_empty() {
        output::complain(&format!("{} records acknowledged, {}", summary.acknowledged, told.join(", ")));
    }
}
