//! A batch that does not know its place yet: what [`super::block`] writes, but for the offset. An
//! engine whose store gives the offset keeps batches so, and each reader puts the offset before them.
//! Never: accepts another layout than the one it writes.

use bytes::{BufMut, Bytes};

use super::block::{BATCHES_TAG, FIRST_OFFSET_TAG, PUBLISH_TIME_TAG, rest_len, varint_len, write_rest};
use super::walk::{Fields, Malformed, Value};
use super::{Batch, Offset, UnixMicros};

/// Bytes of a batch without its place.
#[must_use]
pub fn encoded_len(time: UnixMicros, batch: &Batch) -> usize {
    let rest = rest_len(time, batch.records().len(), batch.traceparent().map_or(0, str::len));
    1 + varint_len(rest as u64) + rest
}

/// Appends a batch without its place to `out`.
pub fn encode(time: UnixMicros, batch: &Batch, out: &mut impl BufMut) {
    let trace = batch.traceparent().unwrap_or("").as_bytes();
    out.put_u8(BATCHES_TAG);
    prost::encoding::encode_varint(rest_len(time, batch.records().len(), trace.len()) as u64, out);
    write_rest(time, batch.records(), trace, out);
}

/// Appends batches without their place once more, as stored at another time. Answers how many records.
///
/// # Errors
/// They are not batches without their place.
pub fn restamp(unplaced: &[u8], time: UnixMicros, out: &mut impl BufMut) -> Result<u64, Malformed> {
    let mut records = 0;
    for field in Fields::new(unplaced) {
        let field = field?;
        let (1, Value::Len(body)) = (field.number, field.value) else {
            return Err(Malformed("not a batch"));
        };
        let mut inner = Fields::within(unplaced, body.clone());
        let stamp = inner.next().ok_or(Malformed("an empty batch"))??;
        if unplaced.get(body.start) != Some(&PUBLISH_TIME_TAG) {
            return Err(Malformed("a batch without its time"));
        }
        let rest = &unplaced[stamp.at.end..body.end];
        for field in inner {
            records += u64::from(field?.number == 3);
        }
        out.put_u8(BATCHES_TAG);
        prost::encoding::encode_varint(rest_len(time, rest.len(), 0) as u64, out);
        write_rest(time, rest, b"", out);
    }
    Ok(records)
}

/// Batches that were given their place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The blocks.
    pub blocks: Bytes,
    /// How many batches.
    pub batches: u32,
    /// How many records.
    pub records: u64,
}

/// Gives batches their place: the first record of the first gets `first`, and so on without a gap.
///
/// # Errors
/// They are not batches without their place.
pub fn place(unplaced: &[u8], first: Offset) -> Result<Placed, Malformed> {
    /// Bytes a head grows by at most: an offset, and a length that got longer.
    const GROWTH: usize = 12;
    /// A guess, for capacity alone.
    const BATCH_BYTES: usize = 256;
    let mut blocks = Vec::with_capacity(unplaced.len() + GROWTH * (1 + unplaced.len() / BATCH_BYTES));
    let (mut batches, mut records) = (0, 0);
    for field in Fields::new(unplaced) {
        let field = field?;
        let (1, Value::Len(body)) = (field.number, field.value) else {
            return Err(Malformed("not a batch"));
        };
        if unplaced.get(body.start) != Some(&PUBLISH_TIME_TAG) {
            return Err(Malformed("a batch without its time"));
        }
        let offset = first.plus(records);
        let head = 1 + varint_len(offset.get());
        blocks.put_u8(BATCHES_TAG);
        prost::encoding::encode_varint((head + body.len()) as u64, &mut blocks);
        blocks.put_u8(FIRST_OFFSET_TAG);
        prost::encoding::encode_varint(offset.get(), &mut blocks);
        blocks.put_slice(&unplaced[body.clone()]);
        for inner in Fields::within(unplaced, body) {
            records += u64::from(inner?.number == 3);
        }
        batches += 1;
    }
    // It may be kept: many small batches outgrow the guess, and a vector doubles.
    if blocks.capacity() > blocks.len() + blocks.len() / 8 {
        blocks.shrink_to_fit();
    }
    Ok(Placed { blocks: blocks.into(), batches, records })
}

#[cfg(test)]
mod tests {
    use super::{encode, encoded_len, place};
    use crate::record::block::{self, records_fields};
    use crate::record::{Batch, BatchLimits, Offset, UnixMicros};

    #[test]
    fn a_placed_batch_is_the_block_of_its_offset() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (mut unplaced, mut blocks, mut next) = (Vec::new(), Vec::new(), Offset::new((5 << 10) - 3));
        let first = next;
        for (count, trace) in [(1_usize, ""), (3, trace), (200, "")] {
            let record = [0x12, 2, 7, 7];
            let fields = records_fields(std::iter::repeat_n(&record[..], count));
            let batch = Batch::check(fields, BatchLimits::default()).unwrap().with_traceparent(trace);
            let (time, before) = (UnixMicros(1_700_000_000_123_456), unplaced.len());
            encode(time, &batch, &mut unplaced);
            assert_eq!(unplaced.len() - before, encoded_len(time, &batch));
            block::encode(next, time, &batch, &mut blocks);
            next = next.plus(count as u64);
        }
        let placed = place(&unplaced, first).unwrap();
        assert_eq!((&placed.blocks[..], placed.batches, placed.records), (&blocks[..], 3, 204));
        let (early, mut late) = (UnixMicros(1), Vec::new());
        assert_eq!(super::restamp(&unplaced, early, &mut late), Ok(204));
        assert_ne!(late, unplaced);
        let mut again = Vec::new();
        assert_eq!(super::restamp(&late, UnixMicros(1_700_000_000_123_456), &mut again), Ok(204));
        assert_eq!(again, unplaced);
        assert!(super::restamp(&blocks, early, &mut late).is_err());
        assert!(place(&unplaced[..unplaced.len() - 1], first).is_err());
        assert!(place(&blocks, first).is_err());
    }
}
