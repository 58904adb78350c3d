//! `streamway publish`: publishes values, the lines of a file or of standard input, or JSON.

mod input;
mod json;
mod lines;
mod progress;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use self::input::{Form, Input, Template};
use self::progress::Progress;
use super::format::Format;
use super::interrupt::Signals;
use super::remote::Remote;
use super::{Failure, INTERRUPTED, Patience, output};
use crate::client::{Publisher, PublisherOptions, Record};

/// Publish records.
///
/// Every VALUE becomes one record; without one, every line of standard input or of a file, without its newline. The command
/// ends when all records are durable. It cuts the input into batches, each of which is stored whole or not at all. Where
/// the server accepts only smaller ones, they are cut smaller, except with --request-id-prefix.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway publish greetings hello world
  streamway publish orders --file orders.txt
  streamway publish users --file users.tsv --key-separator $'\\t' --header source=import
  streamway publish images --file cat.png --input raw --key cat --event-time now
  streamway subscribe orders --output json | streamway publish copy --input json

A command that fails reports how many records are stored at least; records after those may be stored too. To \
make it safe to repeat, give the input a name: --request-id-prefix import-42 stores no record twice, as long \
as the server remembers the ids (10 minutes by default) and the --batch options are the same.")]
pub(super) struct Publish {
    /// Name of the topic. It is created if it does not exist, unless the server is configured otherwise.
    topic: String,
    /// Values of the records, instead of an input.
    #[arg(value_name = "VALUE", conflicts_with = "file", allow_negative_numbers = true)]
    values: Vec<OsString>,
    /// Read this file instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Form of the input.
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Form::Lines)]
    input: Form,
    #[command(flatten)]
    template: Template,
    /// Maximum number of records in one batch.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_records: u32,
    /// Maximum size of the records in one batch; a larger record is sent alone.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = crate::config::parse_size)]
    batch_bytes: u64,
    /// Make the command safe to repeat: batches get the request ids PREFIX-<number of the first record>. Repeating the same
    /// input stores nothing twice, and another input is refused. Batches are then sent only when full.
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    request_id_prefix: Option<String>,
    /// Print neither a progress bar nor a summary.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) remote: Remote,
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
    pub(super) async fn run(mut self) -> Result<ExitCode, Failure> {
        let client = self.remote.client()?;
        let values = std::mem::take(&mut self.values);
        let mut input = Input::open(self.input, self.template.clone(), values, self.file.as_deref())?;
        let is_lines = input.is_lines();
        let progress = Arc::new(Progress::new(input.len, self.quiet || self.format.is_json()));
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
            outcome = self.publish(&publisher, &mut input, &progress) => outcome,
            () = signals.next() => {
                tokio::select! {
                    _ = tokio::time::timeout(INTERRUPT_FLUSH, publisher.flush()) => {}
                    () = signals.next() => {}
                }
                Err(Failure::with_code(INTERRUPTED, "interrupted"))
            }
        };
        match outcome {
            Ok(()) => {
                let _ = publisher.close().await;
                progress.summary(&self.topic);
                if self.format.is_json() {
                    output::print(&output::json_line(&progress.json(&self.topic)))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(failure) => {
                progress.clear();
                Err(failure.adding(&self.how_far(&progress, is_lines)))
            }
        }
    }

    async fn publish(
        &self,
        publisher: &Publisher,
        input: &mut Input,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let read = match &self.request_id_prefix {
            None => publish_all(publisher, input, progress).await,
            Some(prefix) => self.publish_repeatably(publisher, input, progress, prefix).await,
        };
        // What was sent before a mistake in the input is stored too, so that the failure can say how far it came.
        let stored = publisher.flush().await;
        read?;
        Ok(stored?)
    }

    /// Publishes batches that are the same, with the same ids, whenever the input is the same.
    async fn publish_repeatably(
        &self,
        publisher: &Publisher,
        input: &mut Input,
        progress: &Progress,
        prefix: &str,
    ) -> Result<(), Failure> {
        let (mut batch, mut bytes, mut number, mut first) = (Vec::new(), 0, 0, 1);
        let send = async |batch: &[Record], first: u64| {
            let id = format!("{prefix}-{first}");
            // The flush at the end waits until the batch is durable.
            publisher.publish_batch(batch, Some(&id)).await.map(drop)
        };
        while let Some((records, read)) = input.next().await? {
            for record in records {
                number += 1;
                let len = record.field_len() as u64;
                let full = batch.len() >= self.batch_records as usize
                    || (!batch.is_empty() && bytes + len > self.batch_bytes);
                if full {
                    send(&batch, first).await?;
                    (bytes, first) = (0, number);
                    batch.clear();
                }
                bytes += len;
                batch.push(record);
            }
            progress.read(read);
        }
        if !batch.is_empty() {
            send(&batch, first).await?;
        }
        Ok(())
    }

    /// Text on what was stored before a failure. Batches are stored in order.
    fn how_far(&self, progress: &Progress, is_lines: bool) -> String {
        let (stored, what) = (progress.records(), if is_lines { "lines" } else { "records" });
        if stored == 0 {
            return "; nothing was acknowledged".into();
        }
        let first = format!("; at least the first {stored} {what} are stored");
        if self.request_id_prefix.is_some() {
            return format!("{first}, and repeating this command stores none of them twice");
        }
        let next = stored + 1;
        let on =
            if is_lines { format!("; continue with line {next} (tail -n +{next})") } else { String::new() };
        format!(
            "{first}{on}, but some of the {what} from there on may be stored too: only --request-id-prefix makes \
             repeating safe"
        )
    }
}

async fn publish_all(publisher: &Publisher, input: &mut Input, progress: &Progress) -> Result<(), Failure> {
    while let Some((records, bytes)) = input.next().await? {
        for record in &records {
            publisher.publish_nowait(record).await?;
        }
        progress.read(bytes);
    }
    Ok(())
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
        let record = publish.template.record("user::x::y".into(), 1).unwrap();
        assert_eq!((&record.key[..], &record.value[..]), (&b"user"[..], &b"x::y"[..]));
        assert_eq!(record.headers, [("a".to_owned(), "b=c".to_owned())]);
        assert!(publish.template.record("no key".into(), 7).unwrap_err().message.contains("line 7"));
    }

    #[test]
    fn bad_arguments_are_refused() {
        for bad in [["-H", "x"], ["-k", ""], ["--batch-records", "0"], ["--request-id-prefix", ""]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
