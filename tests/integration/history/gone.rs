//! Decides which records may be gone at the end: those before a trim, those beyond retention, and those of a deleted
//! incarnation of the topic. Any other record that cannot be read is lost, and so is one behind a record still there.

use std::time::Duration;

use super::{Attempt, History, Outcome};

/// A call of TrimTopic.
#[derive(Clone, Debug)]
pub struct Trim {
    /// Tick of the clients' shared clock.
    pub returned: Option<u64>,
    pub before: u64,
    /// Earliest offset according to the answer.
    pub earliest: Option<u64>,
    /// The trim was refused, so it deleted nothing.
    pub refused: bool,
}

/// A call of DeleteTopic; the next use creates the topic again.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Tick of the clients' shared clock.
    pub returned: Option<u64>,
    /// Epoch of the deleted incarnation.
    pub epoch: String,
}

/// Retention of the topic, constant since its creation; `None` if it keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    pub records: Option<u64>,
    pub bytes: Option<u64>,
    pub age: Option<Duration>,
}

/// Everything done to a topic other than publishing.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    pub trims: Vec<Trim>,
    pub deletions: Vec<Deletion>,
    pub retention: Retention,
    /// Epoch of the incarnation that was read at the end; empty if it was not queried.
    pub epoch: String,
    /// Time at which the topic had been read, since the history began.
    pub read: Duration,
}

/// Upper bound of what the encoding adds to a record's value, and to a batch, so that retention by bytes does not excuse
/// a record too early.
const RECORD_OVERHEAD: u64 = 64;
const BATCH_OVERHEAD: u64 = 256;

impl Gone {
    /// True if no record may be gone.
    pub fn is_nothing(&self) -> bool {
        let Retention { records, bytes, age } = self.retention;
        let kept = records.is_none() && bytes.is_none() && age.is_none();
        kept && self.trims.is_empty() && self.deletions.is_empty()
    }

    /// Offset before which everything may have been trimmed by a call.
    fn trimmed(&self) -> u64 {
        self.trims.iter().filter(|trim| !trim.refused).map(|trim| trim.before).max().unwrap_or(0)
    }

    /// True if the incarnation in which an attempt was stored may have been deleted since.
    pub fn may_be_deleted(&self, attempt: &Attempt) -> bool {
        self.deletions.iter().any(|deletion| deletion.returned.is_none_or(|at| at > attempt.called))
    }

    /// True if an attempt belongs to an incarnation other than the one that was read.
    ///
    /// # Errors
    /// That incarnation was never deleted, or the attempt was acknowledged in it after its deletion.
    pub fn is_of_another(&self, attempt: &Attempt) -> Result<bool, String> {
        if self.epoch.is_empty() || attempt.epoch.is_empty() || attempt.epoch == self.epoch {
            return Ok(false);
        }
        let name = &attempt.values[0];
        let mut deletions = self.deletions.iter().filter(|deletion| deletion.epoch == attempt.epoch);
        let Some(deletion) = deletions.next() else {
            return Err(format!("the topic was wiped: {name} is of {}, which nobody deleted", attempt.epoch));
        };
        if deletion.returned.is_some_and(|returned| returned < attempt.called) {
            return Err(format!("acknowledged in {}, which had been deleted: {name}", attempt.epoch));
        }
        Ok(true)
    }
}

/// Content of a topic at the end, reconstructed from its records and receipts.
pub struct Kept<'a> {
    gone: &'a Gone,
    /// Offset of the oldest record left; the tail if there is none.
    pub start: u64,
    tail: u64,
    /// Upper bound of the bytes of all batches from an offset on, ordered by offset.
    bytes_from: Vec<(u64, u64)>,
}

impl<'a> Kept<'a> {
    pub fn of(history: &'a History, attempts: &[&Attempt]) -> Self {
        let mut batches: Vec<(u64, u64, u64)> = attempts
            .iter()
            .filter_map(|attempt| match attempt.outcome {
                Outcome::Acknowledged { first, next, duplicate: false } => {
                    Some((first, next, weight(attempt.values.iter().map(String::as_str))))
                }
                _ => None,
            })
            .collect();
        let read =
            history.topic.iter().map(|(offset, _, value)| (*offset, offset + 1, weight([value.as_str()])));
        let (start, receipts) = (history.topic.first().map(|first| first.0), batches.len());
        batches.extend(read);
        // The answer to a trim of everything also covers records that nobody acknowledged.
        let trims = history.gone.trims.iter().filter_map(|trim| trim.earliest);
        let tail = batches.iter().map(|(_, end, _)| *end).chain(trims).max().unwrap_or(0);
        // A batch reported twice counts twice, which keeps this an upper bound; receipts of batches that were read are left out.
        let start = start.unwrap_or(tail);
        let read = batches.split_off(receipts);
        batches.retain(|(first, ..)| *first < start);
        batches.extend(read);
        batches.sort_unstable();
        let mut bytes = 0;
        let mut bytes_from: Vec<(u64, u64)> = Vec::with_capacity(batches.len());
        for (first, _, weight) in batches.into_iter().rev() {
            bytes += weight;
            bytes_from.push((first, bytes));
        }
        bytes_from.reverse();
        Self { gone: &history.gone, start, tail, bytes_from }
    }

    /// True if a stored batch may be gone.
    ///
    /// # Errors
    /// Says why it must still be there.
    pub fn excuses(&self, first: u64, end: u64, sent: Duration) -> Result<(), String> {
        if first >= self.start && self.start < self.tail {
            return Err(format!("although the older {} is there", self.start));
        }
        let Retention { records, bytes, age } = self.gone.retention;
        let by_trim = end <= self.gone.trimmed();
        let by_records = records.is_some_and(|records| end <= self.tail.saturating_sub(records));
        let by_bytes = bytes.is_some_and(|bytes| self.bytes_from(first) > bytes);
        let by_age = age.is_some_and(|age| self.gone.read.saturating_sub(sent) >= age);
        if by_trim || by_records || by_bytes || by_age {
            return Ok(());
        }
        Err("neither trimmed by a call nor beyond retention".into())
    }

    fn bytes_from(&self, first: u64) -> u64 {
        let at = self.bytes_from.partition_point(|(offset, _)| *offset < first);
        self.bytes_from.get(at).map_or(0, |(_, bytes)| *bytes)
    }

    /// True if everything before the oldest record, acknowledged or not, may be gone.
    ///
    /// # Errors
    /// No trim reached that offset.
    pub fn excuses_the_start(&self, is_empty: bool) -> Result<(), String> {
        if is_empty || self.start <= self.gone.trimmed() || !self.gone.retention_is_none() {
            return Ok(());
        }
        Err(format!("the topic begins at {}, and nobody trimmed it there", self.start))
    }

    /// Checks the answers to trims: batches are not split, and trimmed records do not come back.
    ///
    /// # Errors
    /// Describes the first wrong answer.
    pub fn trims(&self, batches: impl Iterator<Item = (u64, u64)> + Clone) -> Result<(), String> {
        for trim in &self.gone.trims {
            let Some(earliest) = trim.earliest else { continue };
            if earliest > trim.before.max(self.gone.trimmed()) && self.gone.retention_is_none() {
                return Err(format!("a trim before {} was answered with {earliest}", trim.before));
            }
            if self.start < earliest {
                return Err(format!("trimmed to {earliest}, and {} is there again", self.start));
            }
            if let Some((first, _)) =
                batches.clone().find(|(first, end)| *first < earliest && earliest < *end)
            {
                return Err(format!("a trim to {earliest} cut the batch at {first}"));
            }
        }
        Ok(())
    }
}

impl Gone {
    fn retention_is_none(&self) -> bool {
        let Retention { records, bytes, age } = self.retention;
        records.is_none() && bytes.is_none() && age.is_none()
    }
}

fn weight<'a>(values: impl IntoIterator<Item = &'a str>) -> u64 {
    values.into_iter().map(|value| value.len() as u64 + RECORD_OVERHEAD).sum::<u64>() + BATCH_OVERHEAD
}
