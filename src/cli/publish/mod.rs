//! `streamway publish`: publishes the lines of a file or of standard input.

mod lines;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use self::lines::Lines;
use self::progress::Progress;
use super::connection::Connection;
use super::interrupt::Signals;
use super::{Failure, INTERRUPTED, Patience};
use crate::client::{Client, Publisher, PublisherOptions, Record};

/// Publish lines as records.
///
/// Every line becomes one record, without its newline. The command ends when all records are durable.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway publish orders --file orders.txt
  echo hello | streamway publish greetings
  streamway publish users --file users.tsv --key-separator $'\\t' --header source=import

A command that fails reports how many lines are stored at least; lines after those may be stored too.
To make it safe to repeat, give the input a name: --request-id-prefix import-42 stores no line twice, as long
as the server remembers the ids (10 minutes by default) and the --batch options are the same.")]
pub(super) struct Publish {
    /// Name of the topic. It is created if it does not exist, unless the server is configured otherwise.
    topic: String,
    /// Read this file instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Use the text before the first occurrence of this separator as the record's key.
    #[arg(short, long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Header of every record. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Maximum number of records in one batch.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_records: u32,
    /// Maximum size of the records in one batch; a longer line is sent alone.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = crate::config::parse_size)]
    batch_bytes: u64,
    /// Make the command safe to repeat: batches get the request ids PREFIX-<number of the first line>. Repeating the same
    /// input stores nothing twice, and another input is refused. Batches are then sent only when full.
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    request_id_prefix: Option<String>,
    /// Print neither a progress bar nor a summary.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Longest prefix, in bytes. With a dash and a line number it is a valid `request_id`.
const PREFIX_MAX: usize = 100;

fn parse_prefix(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("must not be empty".into()),
        1..=PREFIX_MAX => Ok(text.to_owned()),
        _ => Err(format!("must be at most {PREFIX_MAX} bytes")),
    }
}

/// Time that Ctrl-C or SIGTERM waits for the acknowledgement of what was sent.
const INTERRUPT_FLUSH: Duration = Duration::from_secs(2);

impl Publish {
    pub(super) async fn run(self, client: Client) -> Result<ExitCode, Failure> {
        let mut lines =
            Lines::open(self.file.as_deref()).map_err(|error| Failure::usage(error.to_string()))?;
        let progress = Arc::new(Progress::new(lines.len(), self.quiet));
        let observer = Arc::clone(&progress);
        let options = PublisherOptions {
            records_per_batch: self.batch_records,
            bytes_per_batch: usize::try_from(self.batch_bytes).unwrap_or(usize::MAX),
            retry: self.patience.policy(),
            on_stored: Some(Arc::new(move |stored| observer.stored(stored))),
            ..PublisherOptions::default()
        };
        let publisher = client.publisher(&self.topic, options)?;
        let mut signals = Signals::watch()?;
        let outcome = tokio::select! {
            outcome = self.publish(&publisher, &mut lines, &progress) => outcome,
            () = signals.next() => {
                tokio::select! {
                    _ = tokio::time::timeout(INTERRUPT_FLUSH, publisher.flush()) => {}
                    () = signals.next() => {}
                }
                Err(Failure { code: INTERRUPTED, message: "interrupted".into() })
            }
        };
        match outcome {
            Ok(()) => {
                let _ = publisher.close().await;
                progress.summary(&self.topic);
                Ok(ExitCode::SUCCESS)
            }
            Err(Failure { code, message }) => {
                progress.clear();
                Err(Failure { code, message: format!("{message}{}", self.how_far(&progress)) })
            }
        }
    }

    async fn publish(
        &self,
        publisher: &Publisher,
        lines: &mut Lines,
        progress: &Progress,
    ) -> Result<(), Failure> {
        match &self.request_id_prefix {
            None => self.publish_freely(publisher, lines, progress).await?,
            Some(prefix) => self.publish_repeatably(publisher, lines, progress, prefix).await?,
        }
        Ok(publisher.flush().await?)
    }

    async fn publish_freely(
        &self,
        publisher: &Publisher,
        lines: &mut Lines,
        progress: &Progress,
    ) -> Result<(), Failure> {
        while let Some(chunk) = lines.next().await? {
            for (number, line) in chunk.lines() {
                publisher.publish_nowait(&self.record(line, number)?).await?;
            }
            progress.read(chunk.len());
        }
        Ok(())
    }

    /// Publishes batches that are the same, with the same ids, whenever the input is the same.
    async fn publish_repeatably(
        &self,
        publisher: &Publisher,
        lines: &mut Lines,
        progress: &Progress,
        prefix: &str,
    ) -> Result<(), Failure> {
        let (mut batch, mut bytes, mut first_line) = (Vec::new(), 0, 1);
        let send = async |batch: &[Record], first_line: u64| {
            let id = format!("{prefix}-{first_line}");
            // The flush at the end waits until the batch is durable.
            publisher.publish_batch(batch, Some(&id)).await.map(drop)
        };
        while let Some(chunk) = lines.next().await? {
            for (number, line) in chunk.lines() {
                let record = self.record(line, number)?;
                let len = record.field_len() as u64;
                let full = batch.len() >= self.batch_records as usize
                    || (!batch.is_empty() && bytes + len > self.batch_bytes);
                if full {
                    send(&batch, first_line).await?;
                    (bytes, first_line) = (0, number);
                    batch.clear();
                }
                bytes += len;
                batch.push(record);
            }
            progress.read(chunk.len());
        }
        if !batch.is_empty() {
            send(&batch, first_line).await?;
        }
        Ok(())
    }

    fn record(&self, line: Bytes, number: u64) -> Result<Record, Failure> {
        let (key, value) = match &self.key_separator {
            None => (Bytes::new(), line),
            Some(separator) => {
                let at = line.windows(separator.len()).position(|part| part == separator.as_bytes());
                let at = at.ok_or_else(|| {
                    Failure::failed(format!("line {number} has no key separator {separator:?}"))
                })?;
                (line.slice(..at), line.slice(at + separator.len()..))
            }
        };
        Ok(Record { key, value, headers: self.headers.clone(), event_time: None })
    }

    /// Text on what was stored before a failure. Batches are stored in order.
    fn how_far(&self, progress: &Progress) -> String {
        match (progress.records(), &self.request_id_prefix) {
            (0, _) => "; nothing was acknowledged".into(),
            (stored, Some(_)) => {
                format!(
                    "; at least the first {stored} lines are stored, and repeating this command stores none of them twice"
                )
            }
            (stored, None) => format!(
                "; at least the first {stored} lines are stored; continue with line {next} (tail -n +{next}), but some \
                 of the lines from there on may be stored too: only --request-id-prefix makes repeating safe",
                next = stored + 1,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Publish;
    use clap::Parser;

    #[derive(Parser)]
    struct Outer {
        #[command(flatten)]
        publish: Publish,
    }

    fn parse(args: &[&str]) -> Result<Publish, clap::Error> {
        Outer::try_parse_from(["publish", "t"].iter().chain(args)).map(|outer| outer.publish)
    }

    #[test]
    fn keys_end_at_the_first_separator() {
        let publish = parse(&["-k", "::", "-H", "a=b=c"]).unwrap();
        let record = publish.record("user::x::y".into(), 1).unwrap();
        assert_eq!((&record.key[..], &record.value[..]), (&b"user"[..], &b"x::y"[..]));
        assert_eq!(record.headers, [("a".to_owned(), "b=c".to_owned())]);
        assert!(publish.record("no key".into(), 7).unwrap_err().message.contains("line 7"));
    }

    #[test]
    fn bad_arguments_are_refused() {
        for bad in [["-H", "x"], ["-k", ""], ["--batch-records", "0"], ["--request-id-prefix", ""]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
