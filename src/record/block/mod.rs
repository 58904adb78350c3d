//! A stored batch as bytes: one `batches` field of a `SubscribeResponse`, tag included, so that consecutive blocks
//! are what a subscriber is sent.
//!
//! ```text
//! 0A len │ 08 first_offset │ 12 len {08 seconds 10 nanos} │ 1A len record … │ 22 len traceparent
//!        └ RecordBatch.first_offset  └ publish_time          └ records as published  └ if any
//! ```
//! Only this exact layout is read: blocks are written by this module, and stored with a checksum.

mod blocks;
mod cut;
mod encode;

pub use blocks::{Block, Blocks};
pub use cut::{ending_at, runs_starting_at, starting_at};
pub(super) use encode::{BATCHES_TAG, FIRST_OFFSET_TAG, PUBLISH_TIME_TAG, rest_len, write_rest};
pub use encode::{encode, encoded_len, records_fields};
