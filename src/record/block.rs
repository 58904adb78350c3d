//! A stored batch as bytes: one `batches` field of a `SubscribeResponse`, tag included, so that
//! blocks laid end to end are what a subscriber is sent.
//!
//! ```text
//! 0A len │ 08 first_offset │ 12 len {08 seconds 10 nanos} │ 1A len record … │ 22 len traceparent
//!        └ RecordBatch.first_offset  └ publish_time          └ records as published  └ if any
//! ```
//! Never: accepts another layout than the one it writes; the bytes are ours, checksummed.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::RECORDS_TAG;
use super::walk::{Fields, Malformed, Value};
use super::{Batch, Offset, UnixMicros};

pub(super) const BATCHES_TAG: u8 = 0x0a;
pub(super) const FIRST_OFFSET_TAG: u8 = 0x08;
pub(super) const PUBLISH_TIME_TAG: u8 = 0x12;
const TRACEPARENT_TAG: u8 = 0x22;

pub(super) fn varint_len(value: u64) -> usize {
    prost::encoding::encoded_len_varint(value)
}

/// Bytes the block of this batch will take.
#[must_use]
pub fn encoded_len(first: Offset, time: UnixMicros, batch: &Batch) -> usize {
    let body = body_len(first, time, batch.records().len(), batch.traceparent().map_or(0, str::len));
    1 + varint_len(body as u64) + body
}

fn time_len(time: UnixMicros) -> usize {
    let (seconds, nanos) = time.parts();
    2 + varint_len(seconds) + varint_len(u64::from(nanos))
}

fn body_len(first: Offset, time: UnixMicros, records: usize, traceparent: usize) -> usize {
    1 + varint_len(first.get()) + rest_len(time, records, traceparent)
}

/// Bytes of [`write_rest`].
pub(super) fn rest_len(time: UnixMicros, records: usize, traceparent: usize) -> usize {
    let trace = if traceparent == 0 { 0 } else { 1 + varint_len(traceparent as u64) + traceparent };
    2 + time_len(time) + records + trace
}

/// Appends the block of a batch to `out`.
pub fn encode(first: Offset, time: UnixMicros, batch: &Batch, out: &mut impl BufMut) {
    write(first, time, batch.records(), batch.traceparent().unwrap_or("").as_bytes(), out);
}

fn write(first: Offset, time: UnixMicros, records: &[u8], traceparent: &[u8], out: &mut impl BufMut) {
    let varint = prost::encoding::encode_varint;
    out.put_u8(BATCHES_TAG);
    varint(body_len(first, time, records.len(), traceparent.len()) as u64, out);
    out.put_u8(FIRST_OFFSET_TAG);
    varint(first.get(), out);
    write_rest(time, records, traceparent, out);
}

/// What follows the offset.
pub(super) fn write_rest(time: UnixMicros, records: &[u8], traceparent: &[u8], out: &mut impl BufMut) {
    let varint = prost::encoding::encode_varint;
    out.put_u8(PUBLISH_TIME_TAG);
    varint(time_len(time) as u64, out);
    let (seconds, nanos) = time.parts();
    out.put_u8(0x08);
    varint(seconds, out);
    out.put_u8(0x10);
    varint(u64::from(nanos), out);
    out.put_slice(records);
    if !traceparent.is_empty() {
        out.put_u8(TRACEPARENT_TAG);
        varint(traceparent.len() as u64, out);
        out.put_slice(traceparent);
    }
}

/// One block seen in a run of blocks. Slices are into the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// The whole block, tag included.
    pub bytes: &'a [u8],
    /// Where the block begins in the run.
    pub at: usize,
    /// Offset of the first record.
    pub first: Offset,
    /// The encoded time it was stored.
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

    /// When the batch was stored; 0 where that cannot be read.
    #[must_use]
    pub fn time(&self) -> UnixMicros {
        parse_time(self.stored).unwrap_or_default()
    }

    /// How many records.
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

    /// Whether the block may end with a traceparent: a quick look, which records can fool.
    #[must_use]
    pub fn may_be_traced(&self) -> bool {
        /// `22 37`, and the 55 bytes of a traceparent.
        const FIELD: usize = 57;
        let at = self.rest.len().checked_sub(FIELD);
        at.is_some_and(|at| self.rest[at] == TRACEPARENT_TAG && self.rest[at + 1] == 55)
    }

    /// The traceparent; empty where there is none.
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

    /// The same batch, stored from `first` on instead.
    pub fn moved_to(&self, first: Offset, out: &mut impl BufMut) {
        write(first, self.time(), self.encoded_records(), self.traceparent(), out);
    }

    /// The same batch with only its records `from..to`, counted from 0; none where that leaves none.
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

/// Walks a run of blocks.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    run: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    /// Walks `run`.
    #[must_use]
    pub const fn new(run: &'a [u8]) -> Self {
        Self { run, at: 0 }
    }

    /// The block at hand. Its layout is the one [`encode`] writes, so it is read straight on.
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

/// Reads what [`encode`] wrote.
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

    /// Where the bytes whose length comes next stand.
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

fn parse_time(bytes: &[u8]) -> Result<UnixMicros, Malformed> {
    let mut micros = 0_u64;
    for field in Fields::new(bytes) {
        match field.map(|f| (f.number, f.value))? {
            (1, Value::Varint(seconds)) => micros = seconds.saturating_mul(1_000_000).saturating_add(micros),
            (2, Value::Varint(nanos)) => micros = micros.saturating_add(nanos / 1000),
            _ => return Err(Malformed("a time with another field")),
        }
    }
    Ok(UnixMicros(micros))
}

/// The part of a run of blocks from the record at `from` on: a slice where a block begins there,
/// one block encoded anew where `from` lies inside it. Empty pieces are left out.
///
/// # Errors
/// The run is not made of blocks.
pub fn starting_at(run: &Bytes, from: Offset) -> Result<Vec<Bytes>, Malformed> {
    // The block that holds `from` is the last one that begins at or before it.
    let mut holding: Option<Block<'_>> = None;
    for block in Blocks::new(run) {
        let block = block?;
        if block.first > from {
            break;
        }
        holding = Some(block);
    }
    let Some(block) = holding else { return Ok(vec![run.clone()]) };
    if block.first == from {
        return Ok(vec![run.slice(block.at..)]);
    }
    let part = block.part(from.since(block.first), u64::MAX);
    let rest = run.slice(block.at + block.bytes.len()..);
    Ok(part.into_iter().chain((!rest.is_empty()).then_some(rest)).collect())
}

/// Splits off what stands before the record at `to`, where `to` cuts through the run.
///
/// # Errors
/// The run is not made of blocks.
pub fn ending_at(run: &Bytes, to: Offset) -> Result<Vec<Bytes>, Malformed> {
    let mut whole = 0;
    for block in Blocks::new(run) {
        let block = block?;
        if block.first >= to {
            break;
        }
        if block.first.plus(block.count()) > to {
            let part = block.part(0, to.since(block.first));
            let before = run.slice(..block.at);
            return Ok((!before.is_empty()).then_some(before).into_iter().chain(part).collect());
        }
        whole = block.at + block.bytes.len();
    }
    let kept = run.slice(..whole);
    Ok((!kept.is_empty()).then_some(kept).into_iter().collect())
}

/// Encodes records for tests and clients: the `records` fields of these encoded `Record` messages.
#[must_use]
pub fn records_fields<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    for record in records {
        out.put_u8(RECORDS_TAG);
        prost::encoding::encode_varint(record.len() as u64, &mut out);
        out.put_slice(record);
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::{Blocks, encode, encoded_len, ending_at, records_fields, starting_at};
    use crate::record::{Batch, BatchLimits, Offset, UnixMicros};
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A run of batches of the given record counts; record i is the number i.
    fn run(start: u64, counts: &[u8], trace: &str) -> Bytes {
        let (mut out, mut next) = (BytesMut::new(), start);
        for &count in counts {
            let payloads: Vec<Vec<u8>> = (0..u64::from(count))
                .map(|i| {
                    let mut record = Vec::new();
                    prost::encoding::bytes::encode(2, &(next + i).to_le_bytes().to_vec(), &mut record);
                    record
                })
                .collect();
            let fields = records_fields(payloads.iter().map(Vec::as_slice));
            let batch = Batch::check(fields, BatchLimits::default()).unwrap().with_traceparent(trace);
            let (first, time) = (Offset::new(next), UnixMicros(1_700_000_000_123_456 + next));
            let before = out.len();
            encode(first, time, &batch, &mut out);
            assert_eq!(out.len() - before, encoded_len(first, time, &batch));
            next += u64::from(count);
        }
        out.freeze()
    }

    /// Every record of these pieces as (offset by position, payload).
    fn flatten(pieces: &[Bytes]) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        for piece in pieces {
            for block in Blocks::new(piece) {
                let block = block.unwrap();
                for (i, record) in block.records().enumerate() {
                    let payload = u64::from_le_bytes(record[2..10].try_into().unwrap());
                    out.push((block.first.get() + i as u64, payload));
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_cut_holds_exactly_the_records_from_there_on(
            start in prop_oneof![Just(0_u64), 100..200_u64, Just(u64::from(u32::MAX))],
            counts in proptest::collection::vec(1..5_u8, 1..6),
            at in 0..20_u64, traced: bool,
        ) {
            let run = run(start, &counts, if traced { TRACE } else { "" });
            let end = start + counts.iter().map(|&c| u64::from(c)).sum::<u64>();
            let cut = Offset::new((start + at).min(end - 1));
            let tail = flatten(&starting_at(&run, cut).unwrap());
            prop_assert_eq!(tail, (cut.get()..end).map(|i| (i, i)).collect::<Vec<_>>());
            let head = flatten(&ending_at(&run, cut).unwrap());
            prop_assert_eq!(head, (start..cut.get()).map(|i| (i, i)).collect::<Vec<_>>());
            prop_assert_eq!(flatten(&ending_at(&run, Offset::new(end)).unwrap()).len() as u64, end - start);
        }
    }

    #[test]
    fn blocks_are_a_subscribe_response() {
        use prost::Message;
        let bytes = run(7, &[2, 1], TRACE);
        let message = crate::proto::v1::SubscribeResponse::decode(&bytes[..]).unwrap();
        assert_eq!(message.batches.len(), 2);
        assert_eq!(message.batches[0].first_offset, 7);
        assert_eq!(message.batches[0].records.len(), 2);
        assert_eq!(message.batches[1].traceparent, TRACE);
        let time = message.batches[1].publish_time.unwrap();
        assert_eq!((time.seconds, time.nanos), (1_700_000_000, 123_465_000));
    }

    #[test]
    fn a_part_of_a_batch_keeps_its_trace_and_time() {
        let bytes = run(7, &[3], TRACE);
        let pieces = starting_at(&bytes, Offset::new(8)).unwrap();
        let block = Blocks::new(&pieces[0]).next().unwrap().unwrap();
        assert_eq!((block.first.get(), block.traceparent()), (8, TRACE.as_bytes()));
        assert_eq!(block.time(), UnixMicros(1_700_000_000_123_463));
    }
}
