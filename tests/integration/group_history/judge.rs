//! The judge of a group's history. It goes by fences and by what was confirmed before a record came, and never by clocks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Event;

/// Numbers about a history that kept the promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: usize,
    /// Records that came, repeats included.
    pub leased: usize,
    pub settled: usize,
    /// Acknowledgements that were refused.
    pub lost: usize,
    /// Records that came with a lower fence, or from an earlier process, after they were confirmed.
    pub late: usize,
}

/// Judges a history. `topic` holds the offset and the key of each record that the group had to handle, in order; the key
/// is that of its order, and `None` if the record is in no order.
///
/// # Errors
/// The broken promise.
pub fn judge(events: &[Event], topic: &[(u64, Option<String>)]) -> Result<Summary, String> {
    let mut judge = Judge::new(topic);
    for event in events {
        judge.take(*event)?;
    }
    judge.end()
}

#[derive(Default)]
struct Record {
    key: Option<String>,
    /// Fence and process of the newest confirmation.
    confirmed: Option<(u64, u64)>,
    /// Acknowledgements that were sent and not refused.
    acks: usize,
    /// Fences of the leases that came, with their processes.
    leases: BTreeMap<u64, u64>,
    /// Fences whose acknowledgements were sent.
    acked: BTreeSet<u64>,
}

struct Judge {
    records: BTreeMap<u64, Record>,
    /// Offsets of each key for which no acknowledgement was sent.
    open: HashMap<String, BTreeSet<u64>>,
    /// Records that each session was leased.
    came: HashMap<u64, HashSet<u64>>,
    summary: Summary,
}

impl Judge {
    fn new(topic: &[(u64, Option<String>)]) -> Self {
        let mut open = HashMap::<String, BTreeSet<u64>>::new();
        for (offset, key) in topic {
            if let Some(key) = key {
                open.entry(key.clone()).or_default().insert(*offset);
            }
        }
        let record = |(offset, key): &(u64, Option<String>)| {
            (*offset, Record { key: key.clone(), ..Record::default() })
        };
        let summary = Summary { records: topic.len(), ..Summary::default() };
        Self { records: topic.iter().map(record).collect(), open, came: HashMap::new(), summary }
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Leased { session, process, fence, offset } => self.leased(session, process, fence, offset),
            Event::Held { session, offset } => {
                self.came.entry(session).or_default().insert(offset);
                Ok(())
            }
            Event::Acking { fence, offset } => {
                let record = self.record(offset)?;
                record.acks += 1;
                record.acked.insert(fence);
                if let Some(key) = record.key.clone() {
                    self.open.entry(key).or_default().remove(&offset);
                }
                Ok(())
            }
            Event::Settled { process, fence, offset } => self.settled(process, fence, offset),
            Event::Lost { offset, .. } => {
                self.summary.lost += 1;
                self.record(offset)?.acks -= 1;
                Ok(())
            }
        }
    }

    fn record(&mut self, offset: u64) -> Result<&mut Record, String> {
        self.records.get_mut(&offset).ok_or_else(|| format!("offset {offset} is no record of the topic"))
    }

    fn leased(&mut self, session: u64, process: u64, fence: u64, offset: u64) -> Result<(), String> {
        self.summary.leased += 1;
        let record = self.record(offset)?;
        if record.leases.insert(fence, process).is_some() {
            return Err(format!("P13: offset {offset} came twice with fence {fence}"));
        }
        let is_late = match record.confirmed {
            Some((settled, by)) if fence > settled && process >= by => {
                return Err(format!("P12: offset {offset}, settled at {settled}, was leased at {fence}"));
            }
            confirmed => confirmed.is_some(),
        };
        let key = record.key.clone();
        let before = key.and_then(|key| self.open.get(&key));
        let came = self.came.entry(session).or_default();
        came.insert(offset);
        if let Some(earlier) = before.and_then(|open| open.range(..offset).find(|open| !came.contains(open)))
        {
            return Err(format!(
                "P14: offset {offset} came to session {session} before {earlier} was settled"
            ));
        }
        self.summary.late += usize::from(is_late);
        Ok(())
    }

    fn settled(&mut self, process: u64, fence: u64, offset: u64) -> Result<(), String> {
        self.summary.settled += 1;
        let record = self.record(offset)?;
        // A newer lease of the same process refuses an older one, unless the record was acknowledged by then: a repeat of
        // what is settled is confirmed, whoever settled it.
        let is_repeat = record.acked.range(fence + 1..).next().is_some();
        let newer = record.leases.range(fence + 1..).find(|(_, by)| **by == process);
        if let Some((newer, _)) = newer.filter(|_| !is_repeat) {
            return Err(format!("P13: fence {fence} settled offset {offset}, which was leased at {newer}"));
        }
        let newest = record.confirmed.map_or(fence, |(settled, _)| settled.max(fence));
        record.confirmed = Some((newest, process));
        Ok(())
    }

    fn end(self) -> Result<Summary, String> {
        match self.records.iter().find(|(_, record)| record.acks == 0) {
            Some((offset, _)) => Err(format!("P11: offset {offset} was forgotten: nobody settled it")),
            None => Ok(self.summary),
        }
    }
}
