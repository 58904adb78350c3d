//! `streamway check`: verifies, and on request repairs, the data directory of a stopped server.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, output};
use crate::client::printable;
use crate::storage::embedded::check::{self, Repaired, Report, TopicReport};

/// Exit code for a damaged data directory, and for one that lost something in its repair.
const DAMAGED: u8 = 3;

/// Verify a data directory offline.
///
/// Reads every file and verifies every checksum. Prints the topics, and each damage with its file and offset.
/// Nothing is changed without --repair. The server must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
--repair writes a new catalog of everything that is intact. A topic that lost nothing is not changed. A
topic that lost records, or may have, gets a new epoch: the records after a loss get lower offsets,
earlier positions are refused (EPOCH_CHANGED), and the request ids of lost records are forgotten.
Replaced files are kept in DIR/replaced-*; remove them once you no longer need them. The disk must have
room for the topics that are rewritten. If there is a backup, restore that instead.

Exit codes: 0 intact (with --repair: repaired without a loss), 1 failed (not a data directory, in use by
a server, no permission, a newer format), 2 invalid arguments, 3 damaged (with --repair: repaired, records
or topics lost).

Examples:
  streamway check /var/lib/streamway
  streamway check --repair /var/lib/streamway")]
pub(super) struct Check {
    /// Data directory.
    #[arg(value_name = "DIR", env = "STREAMWAY_DATA_DIR", default_value = "./data")]
    dir: PathBuf,
    /// Repair the data directory, and report what is lost.
    #[arg(long)]
    repair: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let failed = |error: crate::storage::embedded::OpenError| Failure::failed(error.to_string());
        let (text, code) = if self.repair {
            let done = check::repair(&self.dir).map_err(failed)?;
            (repaired(&done), if lost_nothing(&done) { 0 } else { DAMAGED })
        } else {
            let report = check::check(&self.dir).map_err(failed)?;
            (checked(&report), if report.damages.is_empty() { 0 } else { DAMAGED })
        };
        // A closed pipe does not change the result.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::from(code))
    }
}

fn lost_nothing(done: &Repaired) -> bool {
    done.renewed.is_empty() && done.after.damages.is_empty()
}

fn checked(report: &Report) -> String {
    let mut out = contents(report);
    out += &findings(report);
    out += &match report.damages.len() {
        0 => "whole: every checksum matches\n".to_owned(),
        1 => "damaged in 1 place\n".to_owned(),
        n => format!("damaged in {n} places\n"),
    };
    out
}

fn repaired(done: &Repaired) -> String {
    let Some(kept) = &done.kept else { return checked(&done.before) + "nothing to repair\n" };
    let mut out = findings(&done.before);
    for (before, after) in &done.renewed {
        out += &renewed(before, after);
    }
    out += &contents(&done.after);
    out += &findings(&done.after);
    out += &format!("replaced files are in {}\n", printable(&kept.display().to_string()));
    out += if lost_nothing(done) {
        "repaired: no record was lost\n"
    } else {
        "repaired: what is listed as lost is lost\n"
    };
    out
}

fn renewed(before: &TopicReport, after: &TopicReport) -> String {
    let mut out = String::new();
    for (first, end) in &before.lost {
        out += &format!(
            "lost: topic {}, offsets {first} to {} ({} records)\n",
            printable(&before.name),
            end - 1,
            end - first
        );
    }
    if before.doubt {
        out += &format!(
            "perhaps lost: records of topic {} that nothing left tells of\n",
            printable(&before.name)
        );
    }
    out + &format!(
        "topic {} is now {} with epoch {}, offsets {} to {}\n",
        printable(&before.name),
        printable(&after.name),
        after.epoch,
        after.earliest,
        after.tail
    )
}

fn contents(report: &Report) -> String {
    let row = |topic: &TopicReport| {
        vec![
            topic.name.clone(),
            topic.epoch.to_string(),
            topic.earliest.to_string(),
            topic.tail.to_string(),
            topic.lost.iter().map(|(first, end)| end - first).sum::<u64>().to_string(),
        ]
    };
    let rows: Vec<_> = report.topics.iter().map(row).collect();
    let mut out = output::table(&["TOPIC", "EPOCH", "EARLIEST", "TAIL", "LOST"], &rows);
    let (segments, bytes) = report.segments;
    out += &format!(
        "{} topics, {segments} segments of {}, {} journals, {} files of request ids\n",
        report.topics.len(),
        crate::config::format_size(bytes),
        report.journals,
        report.ids
    );
    out
}

fn findings(report: &Report) -> String {
    let notes = report.notes.iter().map(|note| format!("note: {}\n", printable(note)));
    let damages = report.damages.iter().map(|damage| {
        let line = format!("damage: {} at byte {}: {}", damage.file.display(), damage.at, damage.what);
        format!("{}\n", printable(&line))
    });
    notes.chain(damages).collect()
}
