//! `streamway check`: verifies a backup, or the data directory of a stopped server, which it repairs on request.

mod json;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::backup::{Backup, DAMAGED, Saved};
use super::format::Format;
use super::{Failure, output};
use crate::client::printable;
use crate::proto::v1;
use crate::storage::embedded::OpenError;
use crate::storage::embedded::check::{self, Repaired, Report, TopicReport};

/// Verify a data directory or a backup offline.
///
/// Reads everything and verifies every checksum. Prints the topics, and each damage with its file and offset.
/// Nothing is changed without --repair. The server of a data directory must be stopped. Of a backup, TAIL is
/// the offset up to which it holds the topic: a restore keeps positions up to there. Groups are as they were when
/// the backup of their topic was begun.
#[derive(Debug, Args)]
#[command(after_help = "\
--repair writes a new catalog of everything that is intact. A topic that lost nothing is not \
changed. A topic that lost records, or may have, gets a new epoch: the records after a loss get \
lower offsets, earlier positions are refused (EPOCH_CHANGED), and the request ids of lost records \
are forgotten. Replaced files are kept in DIR/replaced-*; remove them once you no longer need them. \
The disk must have room for the topics that are rewritten. If there is a backup, restore that \
instead.

Exit codes: 0 intact (with --repair: repaired without a loss), 1 failed (neither a data directory \
nor a backup, in use by a server, no permission, a newer format), 2 invalid arguments, 3 damaged \
(with --repair: repaired, records or topics lost).

Examples:
  streamway check /var/lib/streamway
  streamway check --repair /var/lib/streamway
  streamway check all.backup")]
pub(super) struct Check {
    /// Data directory, or backup file.
    #[arg(value_name = "DIR|FILE", env = "STREAMWAY_DATA_DIR", default_value = "./data")]
    dir: PathBuf,
    /// Repair the data directory, and report what is lost.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    format: Format,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let failed = |error| refused(&self.dir, error);
        let (text, code) = if self.dir.is_file() {
            if self.repair {
                return Err(Failure::usage("--repair is for a data directory, not for a backup"));
            }
            backup(&self.dir, self.format)?
        } else if self.repair {
            let done = check::repair(&self.dir).map_err(failed)?;
            let text = if self.format.is_json() { json::repaired(&self.dir, &done) } else { repaired(&done) };
            (text, if lost_nothing(&done) { 0 } else { DAMAGED })
        } else {
            let report = check::check(&self.dir).map_err(failed)?;
            let text =
                if self.format.is_json() { json::directory(&self.dir, &report) } else { checked(&report) };
            (text, if report.damages.is_empty() { 0 } else { DAMAGED })
        };
        // A closed pipe does not change the result.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::from(code))
    }
}

/// Makes the failure of a data directory that cannot be opened. The errors of the engine name flags of `serve`.
fn refused(dir: &Path, error: OpenError) -> Failure {
    let dir = dir.display();
    Failure::failed(match error {
        OpenError::Locked(_) => format!("{dir} is locked by another process: stop the server first"),
        OpenError::NotADirectory(_) => format!("{dir} is neither a data directory nor a backup file"),
        OpenError::NoData(_) => format!(
            "{dir} is not a data directory: it has neither a catalog nor a journal. Name the data directory of a \
             server, or a backup file"
        ),
        error => error.to_string(),
    })
}

/// Checks a backup. Returns the report and the exit code.
fn backup(path: &Path, format: Format) -> Result<(String, u8), Failure> {
    let (topics, damage) = Backup::check(path)?;
    if format.is_json() {
        let code = if damage.is_none() { 0 } else { DAMAGED };
        return Ok((json::backup(path, &topics, damage), code));
    }
    let row = |saved: &Saved| {
        let epoch = saved.topic.epoch.clone();
        let numbers = [saved.first(), saved.end(), saved.records, saved.batches];
        let mut row = vec![saved.topic.name.clone(), epoch];
        row.extend(numbers.map(|number| number.to_string()));
        row
    };
    let rows: Vec<_> = topics.iter().map(row).collect();
    let mut out = output::table(&["TOPIC", "EPOCH", "FIRST", "TAIL", "RECORDS", "BATCHES"], &rows);
    out += &format!("{} topics\n", rows.len());
    out += &groups(&topics);
    match damage {
        None => Ok((out + "whole: every checksum matches\n", 0)),
        Some((at, what)) => {
            let line = format!("damage: {} at byte {at}: {what}", path.display());
            Ok((out + &format!("{}\nnothing after that can be read\n", printable(&line)), DAMAGED))
        }
    }
}

/// Lists the groups of a backup; nothing if there are none.
fn groups(topics: &[Saved]) -> String {
    let row = |group: &v1::Group| {
        let status = group.status.clone().unwrap_or_default();
        let numbers = [status.oldest_unsettled_offset, status.lag_records, status.parked_records];
        let mut row = vec![group.topic.clone(), group.name.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    };
    let rows: Vec<_> = topics.iter().flat_map(|saved| &saved.groups).map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let table = output::table(&["TOPIC", "GROUP", "OLDEST UNSETTLED", "UNSETTLED", "PARKED"], &rows);
    format!("\n{table}{} groups\n", rows.len())
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
