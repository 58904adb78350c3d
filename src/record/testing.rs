//! Records and batches for tests.

use bytes::Bytes;

use super::{Batch, BatchLimits, block};

/// A checked batch of records of these values.
pub(crate) fn batch_of(values: &[&str]) -> Batch {
    Batch::check(records_of(values), BatchLimits::default()).expect("well-formed")
}

/// The `records` fields of records of these values.
pub(crate) fn records_of(values: &[&str]) -> Bytes {
    let records: Vec<Vec<u8>> = values
        .iter()
        .map(|value| {
            let mut record = Vec::new();
            prost::encoding::bytes::encode(2, &value.as_bytes().to_vec(), &mut record);
            record
        })
        .collect();
    block::records_fields(records.iter().map(Vec::as_slice))
}
