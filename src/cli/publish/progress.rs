//! The progress of a publish on standard error: a bar while it runs on a terminal, and a summary after it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::super::output;
use crate::client::Stored;
use crate::record::{Offset, Position};

#[derive(Debug, Default)]
struct Totals {
    batches: u64,
    stored: u64,
    duplicates: u64,
    first: Option<Offset>,
    /// Offset of the last record.
    last: Option<Offset>,
    next: Option<Position>,
}

/// Counts records, and draws the progress bar.
#[derive(Debug)]
pub(super) struct Progress {
    totals: Mutex<Totals>,
    bar: ProgressBar,
    started: Instant,
    quiet: bool,
}

/// Redraws per second.
const REDRAWS: u8 = 5;

impl Progress {
    /// A progress bar for an input of `len` bytes, or for one of unknown length.
    pub(super) fn new(len: Option<u64>, quiet: bool) -> Self {
        // Nothing is drawn where standard error is not a terminal.
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(REDRAWS) };
        let bar = ProgressBar::with_draw_target(len, target);
        let template = match len {
            Some(_) => "{bar:30} {percent:>3}%  {msg}  {binary_bytes_per_sec}  eta {eta}",
            None => "{spinner} {msg}  {binary_bytes_per_sec}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        Self { totals: Mutex::default(), bar, started: Instant::now(), quiet }
    }

    fn rate(&self, records: u64, elapsed: Duration) -> String {
        format!("{}/s", HumanCount((records as f64 / elapsed.as_secs_f64().max(1e-3)) as u64))
    }

    /// Notes that bytes of the input were handed to the publisher.
    pub(super) fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
        if !self.bar.is_hidden() {
            let stored = self.records();
            let rate = self.rate(stored, self.started.elapsed());
            self.bar.set_message(format!("{} records stored, {rate}", HumanCount(stored)));
        }
    }

    /// Notes that a batch became durable.
    pub(super) fn stored(&self, stored: &Stored) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.batches += 1;
        totals.stored += u64::from(stored.records);
        if stored.receipt.duplicate {
            totals.duplicates += u64::from(stored.records);
        }
        totals.first.get_or_insert(stored.receipt.first);
        // The `next` of the receipt may be larger than the offset after the last record.
        totals.last = Some(stored.receipt.first.plus(u64::from(stored.records).saturating_sub(1)));
        totals.next = Some(stored.receipt.next);
    }

    /// Number of durable records. As batches are stored in order, these are the first ones of the input.
    pub(super) fn records(&self) -> u64 {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).stored
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a summary of one line.
    pub(super) fn summary(&self, topic: &str) {
        self.clear();
        if self.quiet {
            return;
        }
        let elapsed = self.started.elapsed();
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = format!(
            "published {} records ({}) to {topic} in {} ({})",
            HumanCount(totals.stored),
            BinaryBytes(self.bar.position()),
            output::elapsed(elapsed),
            self.rate(totals.stored, elapsed),
        );
        if let (Some(first), Some(last)) = (totals.first, totals.last) {
            line.push_str(&format!(", offsets {first} to {last}"));
        }
        if totals.duplicates > 0 {
            line.push_str(&format!("; {} of them had been stored before", HumanCount(totals.duplicates)));
        }
        output::complain(&line);
    }

    /// The summary as JSON, in the form of protobuf: 64-bit numbers as strings.
    pub(super) fn json(&self, topic: &str) -> Value {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut json = json!({
            "topic": topic,
            "records": totals.stored.to_string(),
            "batches": totals.batches.to_string(),
            "duplicates": totals.duplicates.to_string(),
        });
        if let (Some(first), Some(next)) = (totals.first, totals.next) {
            json["firstOffset"] = first.to_string().into();
            json["next"] = json!({ "epoch": next.epoch.to_string(), "offset": next.offset.to_string() });
        }
        json
    }
}
