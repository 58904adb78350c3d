//! The stamp at the beginning of each record of a benchmark. It tells a reader when the record was due, who published it,
//! and if one before it is missing.

use bytes::Bytes;

/// Size of a stamp in bytes, and so of the smallest record.
pub(super) const LEN: usize = 24;
/// Size of a stamp as text.
const TEXT_LEN: usize = 2 * LEN;
/// Digits of a stamp as text.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The stamp of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Distinguishes the records of this run from others in the topic.
    pub(super) run: u32,
    pub(super) publisher: u32,
    /// Counted from 0 by each publisher.
    pub(super) sequence: u64,
    /// Time when the record was due, in nanoseconds since the start of the run.
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

    /// A record of text of `size` characters, at least [`TEXT_LEN`], that begins with the stamp.
    pub(super) fn text(self, size: usize) -> String {
        let mut text = String::with_capacity(size.max(TEXT_LEN));
        for byte in &self.record(LEN) {
            text.extend([byte >> 4, byte & 0xf].map(|digit| char::from(DIGITS[usize::from(digit)])));
        }
        text.extend(std::iter::repeat_n('.', size.saturating_sub(TEXT_LEN)));
        text
    }

    /// The stamp that a record of text begins with; none where it is too short for one, or begins otherwise.
    pub(super) fn read_text(value: &[u8]) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut stamp = [0; LEN];
        for (byte, digits) in stamp.iter_mut().zip(value.get(..TEXT_LEN)?.chunks_exact(2)) {
            *byte = (digit(digits[0])? << 4) | digit(digits[1])?;
        }
        Self::read(&stamp)
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
        let text = stamp.text(60);
        assert_eq!((Stamp::read_text(text.as_bytes()), text.len()), (Some(stamp), 60));
        assert_eq!(Stamp::read_text(&[b'x'; 60]), None);
    }
}
