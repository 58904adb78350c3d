//! Batches without offsets: the layout of [`super::block`] without its `first_offset` field. An engine whose
//! store assigns the offsets keeps batches in this form, and each reader inserts the offsets.

use bytes::{BufMut, Bytes};

use super::block::{BATCHES_TAG, FIRST_OFFSET_TAG, PUBLISH_TIME_TAG, rest_len, write_rest};
use super::protobuf::{field_len, put_varint, varint_len};
use super::walk::{Fields, Malformed, Value};
use super::{Batch, Offset, UnixMicros};

/// Encoded length of a batch without its offset, in bytes.
#[must_use]
pub fn encoded_len(time: UnixMicros, batch: &Batch) -> usize {
    field_len(rest_len(time, batch.records(), batch.traceparent().unwrap_or("").as_bytes()))
}

/// Appends a batch without its offset to `out`.
pub fn encode(time: UnixMicros, batch: &Batch, out: &mut impl BufMut) {
    let trace = batch.traceparent().unwrap_or("").as_bytes();
    put_varint(BATCHES_TAG, rest_len(time, batch.records(), trace) as u64, out);
    write_rest(time, batch.records(), trace, out);
}

/// Copies batches without offsets to `out` with another publish time, and returns the number of their records.
///
/// # Errors
/// `batches` is not a run of batches without offsets.
pub fn restamp(batches: &[u8], time: UnixMicros, out: &mut impl BufMut) -> Result<u64, Malformed> {
    let mut records = 0;
    for field in Fields::new(batches) {
        let field = field?;
        let (1, Value::Len(body)) = (field.number, field.value) else {
            return Err(Malformed("not a batch"));
        };
        let mut inner = Fields::within(batches, body.clone());
        let stamp = inner.next().ok_or(Malformed("an empty batch"))??;
        if batches.get(body.start) != Some(&PUBLISH_TIME_TAG) {
            return Err(Malformed("a batch without its time"));
        }
        let rest = &batches[stamp.at.end..body.end];
        for field in inner {
            records += u64::from(field?.number == 3);
        }
        put_varint(BATCHES_TAG, rest_len(time, rest, b"") as u64, out);
        write_rest(time, rest, b"", out);
    }
    Ok(records)
}

/// A run of blocks made by [`assign_offsets`].
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Encoded blocks, end to end.
    pub blocks: Bytes,
    /// Number of batches.
    pub batches: u32,
    /// Number of records.
    pub records: u64,
}

/// Makes blocks of batches without offsets: their records get the consecutive offsets from `first` on.
///
/// # Errors
/// `batches` is not a run of batches without offsets.
pub fn assign_offsets(batches: &[u8], first: Offset) -> Result<Assigned, Malformed> {
    /// Most bytes a batch grows by: its offset, and a longer length prefix.
    const GROWTH: usize = 12;
    /// Assumed size of a batch. It only determines the initial capacity.
    const BATCH_BYTES: usize = 256;
    let mut blocks = Vec::with_capacity(batches.len() + GROWTH * (1 + batches.len() / BATCH_BYTES));
    let (mut count, mut records) = (0, 0);
    for field in Fields::new(batches) {
        let field = field?;
        let (1, Value::Len(body)) = (field.number, field.value) else {
            return Err(Malformed("not a batch"));
        };
        if batches.get(body.start) != Some(&PUBLISH_TIME_TAG) {
            return Err(Malformed("a batch without its time"));
        }
        let offset = first.plus(records);
        let head = 1 + varint_len(offset.get());
        put_varint(BATCHES_TAG, (head + body.len()) as u64, &mut blocks);
        put_varint(FIRST_OFFSET_TAG, offset.get(), &mut blocks);
        blocks.put_slice(&batches[body.clone()]);
        for inner in Fields::within(batches, body) {
            records += u64::from(inner?.number == 3);
        }
        count += 1;
    }
    // The blocks may be cached for long: many small batches outgrow the assumed size, and a vector doubles.
    if blocks.capacity() > blocks.len() + blocks.len() / 8 {
        blocks.shrink_to_fit();
    }
    Ok(Assigned { blocks: blocks.into(), batches: count, records })
}

#[cfg(test)]
mod tests {
    use super::{assign_offsets, encode, encoded_len};
    use crate::record::block::{self, records_fields};
    use crate::record::{Batch, BatchLimits, Offset, UnixMicros};

    #[test]
    fn a_batch_that_is_assigned_an_offset_is_the_block_of_that_offset() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (mut encoded, mut blocks, mut next) = (Vec::new(), Vec::new(), Offset::new((5 << 10) - 3));
        let first = next;
        for (count, trace) in [(1_usize, ""), (3, trace), (200, "")] {
            let record = [0x12, 2, 7, 7];
            let fields = records_fields(std::iter::repeat_n(&record[..], count));
            let batch = Batch::check(fields, BatchLimits::default()).unwrap().with_traceparent(trace);
            let (time, before) = (UnixMicros(1_700_000_000_123_456), encoded.len());
            encode(time, &batch, &mut encoded);
            assert_eq!(encoded.len() - before, encoded_len(time, &batch));
            block::encode(next, time, &batch, &mut blocks);
            next = next.plus(count as u64);
        }
        let assigned = assign_offsets(&encoded, first).unwrap();
        assert_eq!((&assigned.blocks[..], assigned.batches, assigned.records), (&blocks[..], 3, 204));
        let (early, mut late) = (UnixMicros(1), Vec::new());
        assert_eq!(super::restamp(&encoded, early, &mut late), Ok(204));
        assert_ne!(late, encoded);
        let mut again = Vec::new();
        assert_eq!(super::restamp(&late, UnixMicros(1_700_000_000_123_456), &mut again), Ok(204));
        assert_eq!(again, encoded);
        assert!(super::restamp(&blocks, early, &mut late).is_err());
        assert!(assign_offsets(&encoded[..encoded.len() - 1], first).is_err());
        assert!(assign_offsets(&blocks, first).is_err());
    }
}
