//! Reading of blocks, without copying them.

use bytes::{BufMut, Bytes, BytesMut};

use super::encode::{BATCHES_TAG, FIRST_OFFSET_TAG, PUBLISH_TIME_TAG, TRACEPARENT_TAG, write};
use crate::record::batch::RECORDS_TAG;
use crate::record::walk::{Fields, Malformed, Timestamp, Value};
use crate::record::{Offset, UnixMicros};

/// One block of a run. Its slices point into the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// The whole block, tag included.
    pub bytes: &'a [u8],
    /// Index of the block's first byte in the run.
    pub at: usize,
    /// Offset of the first record.
    pub first: Offset,
    /// The encoded publish time.
    stored: &'a [u8],
    /// The encoded records, followed by the traceparent field if there is one.
    rest: &'a [u8],
}

impl<'a> Block<'a> {
    /// The records one by one, as encoded `Record` messages.
    pub fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let rest = self.rest;
        Fields::new(rest).map_while(move |field| match field {
            Ok(field) if field.number == 3 => match field.value {
                Value::Len(range) => Some(&rest[range]),
                _ => None,
            },
            _ => None,
        })
    }

    /// All of its `records` fields, tags included, as they were published.
    #[must_use]
    pub fn encoded_records(&self) -> &'a [u8] {
        &self.rest[..self.records_len()]
    }

    /// The publish time of the batch; 0 where it cannot be read.
    #[must_use]
    pub fn time(&self) -> UnixMicros {
        Timestamp::parse(self.stored).map(Timestamp::micros).unwrap_or_default()
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u64 {
        let mut cursor = Cursor { bytes: self.rest, at: 0 };
        let mut count = 0;
        while cursor.tag(RECORDS_TAG).is_ok() {
            let Ok(span) = cursor.span() else { break };
            cursor.at = span.end;
            count += 1;
        }
        count
    }

    /// Returns true if the block may have a traceparent. This is a cheap test of two bytes, which a record can pass
    /// by chance.
    #[must_use]
    pub fn may_be_traced(&self) -> bool {
        /// `22 37`, and the 55 bytes of a traceparent.
        const FIELD: usize = 57;
        let at = self.rest.len().checked_sub(FIELD);
        at.is_some_and(|at| self.rest[at] == TRACEPARENT_TAG && self.rest[at + 1] == 55)
    }

    /// The traceparent; empty where the batch has none.
    #[must_use]
    pub fn traceparent(&self) -> &'a [u8] {
        let records = self.records_len();
        Fields::within(self.rest, records..self.rest.len())
            .next()
            .and_then(Result::ok)
            .and_then(
                |field| if let Value::Len(range) = field.value { Some(&self.rest[range]) } else { None },
            )
            .unwrap_or_default()
    }

    fn records_len(&self) -> usize {
        Fields::new(self.rest)
            .map_while(Result::ok)
            .take_while(|field| field.number == 3)
            .last()
            .map_or(0, |field| field.at.end)
    }

    /// Appends the same batch with other offsets to `out`: `first` and the ones after it.
    pub fn moved_to(&self, first: Offset, out: &mut impl BufMut) {
        write(first, self.time(), self.encoded_records(), self.traceparent(), out);
    }

    /// A block of the records with the indexes `from..to` in this batch; none where there are no such records.
    #[must_use]
    pub fn part(&self, from: u64, to: u64) -> Option<Bytes> {
        let fields = Fields::new(self.rest).map_while(Result::ok).take_while(|field| field.number == 3);
        let mut kept: Option<std::ops::Range<usize>> = None;
        for field in fields.skip(from as usize).take(to.saturating_sub(from) as usize) {
            let start = kept.map_or(field.at.start, |range| range.start);
            kept = Some(start..field.at.end);
        }
        let kept = kept?;
        let mut out = BytesMut::with_capacity(self.bytes.len() + 8);
        write(self.first.plus(from), self.time(), &self.rest[kept], self.traceparent(), &mut out);
        Some(out.freeze())
    }
}

/// An iterator over the blocks of a run. It ends after an error.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    run: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    /// Iterates over `run`.
    #[must_use]
    pub const fn new(run: &'a [u8]) -> Self {
        Self { run, at: 0 }
    }

    /// Reads the next block, whose layout is fixed.
    #[inline]
    fn block(&mut self) -> Result<Block<'a>, Malformed> {
        let start = self.at;
        let mut cursor = Cursor { bytes: self.run, at: start };
        cursor.tag(BATCHES_TAG)?;
        let body = cursor.span()?;
        cursor.tag(FIRST_OFFSET_TAG)?;
        let first = Offset::new(cursor.varint()?);
        cursor.tag(PUBLISH_TIME_TAG)?;
        let span = cursor.span()?;
        if span.end > body.end {
            return Err(Malformed("a batch shorter than its head"));
        }
        self.at = body.end;
        Ok(Block {
            bytes: &self.run[start..body.end],
            at: start,
            first,
            stored: &self.run[span.clone()],
            rest: &self.run[span.end..body.end],
        })
    }
}

/// A cursor over the fixed layout of blocks.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn tag(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.bytes.get(self.at) != Some(&tag) {
            return Err(Malformed("not a batch"));
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed("truncated"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (shift.min(63));
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("varint over 64 bits"))
    }

    /// Reads a length, and returns the range of the bytes after it.
    #[inline]
    fn span(&mut self) -> Result<std::ops::Range<usize>, Malformed> {
        let len = self.varint()?;
        if len > (self.bytes.len() - self.at) as u64 {
            return Err(Malformed("truncated"));
        }
        Ok(self.at..self.at + len as usize)
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.run.len() {
            return None;
        }
        let block = self.block();
        if block.is_err() {
            self.at = self.run.len();
        }
        Some(block)
    }
}
