//! Lengths and encodings of the protobuf fields that hand-written messages share. Every tag takes one byte.

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::UnixMicros;

/// Encoded length of a varint, in bytes.
#[inline]
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    encoded_len_varint(value)
}

/// Encoded length of a length-delimited field with `len` bytes of content.
#[inline]
#[must_use]
pub const fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Encoded length of a length-delimited field with fewer than 128 bytes of content.
#[inline]
#[must_use]
pub const fn short_field_len(len: usize) -> usize {
    2 + len
}

/// Encoded length of a `bytes` or `string` field, which is left out when empty.
#[inline]
#[must_use]
pub const fn bytes_len(content: &[u8]) -> usize {
    if content.is_empty() { 0 } else { field_len(content.len()) }
}

/// Writes a varint field.
#[inline]
pub fn put_varint(tag: u8, value: u64, out: &mut impl BufMut) {
    out.put_u8(tag);
    encode_varint(value, out);
}

/// Writes the tag and the length of a length-delimited field with fewer than 128 bytes of content.
#[inline]
pub fn put_short_len(tag: u8, len: usize, out: &mut impl BufMut) {
    debug_assert!(len < 128, "the length takes one byte");
    out.put_slice(&[tag, len as u8]);
}

/// Writes a `bytes` or `string` field unless it is empty.
#[inline]
pub fn put_bytes(tag: u8, content: &[u8], out: &mut impl BufMut) {
    if !content.is_empty() {
        put_varint(tag, content.len() as u64, out);
        out.put_slice(content);
    }
}

/// Encoded length of a `Timestamp` message without its tag and length. It holds both fields, even where one is 0.
#[inline]
#[must_use]
pub const fn time_len(time: UnixMicros) -> usize {
    let (seconds, nanos) = time.parts();
    2 + varint_len(seconds) + varint_len(nanos as u64)
}

/// Writes a `Timestamp` field.
#[inline]
pub fn put_time(tag: u8, time: UnixMicros, out: &mut impl BufMut) {
    let (seconds, nanos) = time.parts();
    put_short_len(tag, time_len(time), out);
    put_varint(0x08, seconds, out);
    put_varint(0x10, u64::from(nanos), out);
}
