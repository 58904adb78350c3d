//! Writing of blocks.

use bytes::{BufMut, Bytes, BytesMut};

use crate::record::batch::RECORDS_TAG;
use crate::record::protobuf::{bytes_len, field_len, put_bytes, put_time, put_varint, time_len, varint_len};
use crate::record::{Batch, Offset, UnixMicros};

pub(in crate::record) const BATCHES_TAG: u8 = 0x0a;
pub(in crate::record) const FIRST_OFFSET_TAG: u8 = 0x08;
pub(in crate::record) const PUBLISH_TIME_TAG: u8 = 0x12;
pub(super) const TRACEPARENT_TAG: u8 = 0x22;

/// Encoded length of the block of this batch, in bytes.
#[must_use]
pub fn encoded_len(first: Offset, time: UnixMicros, batch: &Batch) -> usize {
    let trace = batch.traceparent().unwrap_or("").as_bytes();
    field_len(body_len(first, time, batch.records(), trace))
}

fn body_len(first: Offset, time: UnixMicros, records: &[u8], traceparent: &[u8]) -> usize {
    1 + varint_len(first.get()) + rest_len(time, records, traceparent)
}

/// Length of what [`write_rest`] writes.
pub(in crate::record) fn rest_len(time: UnixMicros, records: &[u8], traceparent: &[u8]) -> usize {
    2 + time_len(time) + records.len() + bytes_len(traceparent)
}

/// Appends the block of a batch to `out`.
pub fn encode(first: Offset, time: UnixMicros, batch: &Batch, out: &mut impl BufMut) {
    write(first, time, batch.records(), batch.traceparent().unwrap_or("").as_bytes(), out);
}

pub(super) fn write(
    first: Offset,
    time: UnixMicros,
    records: &[u8],
    traceparent: &[u8],
    out: &mut impl BufMut,
) {
    put_varint(BATCHES_TAG, body_len(first, time, records, traceparent) as u64, out);
    put_varint(FIRST_OFFSET_TAG, first.get(), out);
    write_rest(time, records, traceparent, out);
}

/// Writes the fields of a block after its offset.
pub(in crate::record) fn write_rest(
    time: UnixMicros,
    records: &[u8],
    traceparent: &[u8],
    out: &mut impl BufMut,
) {
    put_time(PUBLISH_TIME_TAG, time, out);
    out.put_slice(records);
    put_bytes(TRACEPARENT_TAG, traceparent, out);
}

/// Encodes the `records` fields of these encoded `Record` messages.
#[must_use]
pub fn records_fields<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    for record in records {
        put_varint(RECORDS_TAG, record.len() as u64, &mut out);
        out.put_slice(record);
    }
    out.freeze()
}
