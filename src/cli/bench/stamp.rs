//! What a benchmark writes into each record, so that whoever reads it back knows when it was due, who
//! published it, and whether one is missing.
//! Never: more than [`LEN`] bytes; the rest of a record is filling.

use bytes::Bytes;

/// Bytes of a stamp, and so of the smallest record.
pub(super) const LEN: usize = 24;

/// The stamp of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Tells this run's records from whatever else the topic holds.
    pub(super) run: u32,
    pub(super) publisher: u32,
    /// Counted from 0 by each publisher.
    pub(super) sequence: u64,
    /// When it was due to be sent, in nanoseconds since the run began.
    pub(super) due_nanos: u64,
}

impl Stamp {
    /// A record of `size` bytes that begins with the stamp.
    pub(super) fn record(self, size: usize) -> Bytes {
        let mut value = Vec::with_capacity(size.max(LEN));
        value.extend_from_slice(&self.run.to_le_bytes());
        value.extend_from_slice(&self.publisher.to_le_bytes());
        value.extend_from_slice(&self.sequence.to_le_bytes());
        value.extend_from_slice(&self.due_nanos.to_le_bytes());
        value.resize(size.max(LEN), b'.');
        value.into()
    }

    /// The stamp that a record begins with; none where it is too short for one.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let (run, rest) = value.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due_nanos, _) = rest.split_first_chunk()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            due_nanos: u64::from_le_bytes(*due_nanos),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{LEN, Stamp};

    #[test]
    fn stamps_are_read_back() {
        let stamp = Stamp { run: 7, publisher: 3, sequence: u64::MAX - 1, due_nanos: 12_345 };
        for size in [0, LEN, 1000] {
            let record = stamp.record(size);
            assert_eq!((Stamp::read(&record), record.len()), (Some(stamp), size.max(LEN)));
        }
        assert_eq!(Stamp::read(&[0; LEN - 1]), None);
    }
}
