//! Progress of a copy: a bar while it runs on a terminal, and a summary after it. Both go to standard error; a summary in
//! JSON goes to standard output.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::output;
use crate::client::printable;

/// Redraws of the bar per second.
const REDRAWS: u8 = 5;

/// Counters of a copy, and the bar that shows them.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    quiet: bool,
    records: AtomicU64,
    bytes: AtomicU64,
    /// Records that an earlier run had copied.
    there: AtomicU64,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(REDRAWS) };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{bar:30} {percent:>3}%  {msg}  {binary_bytes_per_sec}  eta {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        let [records, bytes, there] = Default::default();
        Self { bar, started: Instant::now(), quiet, records, bytes, there }
    }

    /// Starts a stage of the given number of bytes.
    pub(super) fn stage(&self, what: &str, bytes: u64) {
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_message(what.to_owned());
    }

    pub(super) fn topic(&self, name: &str) {
        self.bar.set_message(printable(name).into_owned());
    }

    /// Advances the bar by a number of bytes.
    pub(super) fn pass(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Counts the records of a batch that an earlier run copied.
    pub(super) fn there(&self, records: u64) {
        self.there.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts records and bytes that were copied.
    pub(super) fn copied(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// The summary as JSON.
    pub(super) fn json(&self, topics: usize) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        json!({
            "topics": topics.to_string(),
            "copiedRecords": count(&self.records),
            "copiedBytes": count(&self.bytes),
            "presentRecords": count(&self.there),
        })
    }

    /// Prints the summary, one line, on standard error.
    pub(super) fn summary(&self, topics: usize, destination: &str) {
        self.clear();
        if self.quiet {
            return;
        }
        let mut line = format!(
            "copied {} records ({}) of {topics} topics to {destination} in {}",
            HumanCount(self.records.load(Ordering::Relaxed)),
            BinaryBytes(self.bytes.load(Ordering::Relaxed)),
            output::elapsed(self.started.elapsed()),
        );
        let there = self.there.load(Ordering::Relaxed);
        if there > 0 {
            line.push_str(&format!("; {} were there already", HumanCount(there)));
        }
        output::complain(&line);
    }
}
