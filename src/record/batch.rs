//! A batch to be stored. It is checked once, and handled as bytes from then on.

use bytes::{Buf, Bytes, BytesMut};

use super::walk::{self, Fields, Malformed, Value};
use super::{Offset, RequestId, Scope, content};

/// Tag of `records` in `PublishRequest` and in `RecordBatch` alike: field 3, length-delimited.
pub const RECORDS_TAG: u8 = 0x1a;

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Largest number of records.
    pub records_max: u32,
    /// Largest size of the encoded `records` fields, in bytes.
    pub bytes_max: u32,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { records_max: 1000, bytes_max: 1 << 20 }
    }
}

/// The reason why a batch is invalid. The client has to correct it; nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The batch has no records.
    #[error("batch is empty")]
    Empty,
    /// The batch has too many records.
    #[error("batch holds {records} records, more than {limit}")]
    TooManyRecords {
        /// Number found.
        records: u64,
        /// Largest number allowed.
        limit: u32,
    },
    /// The batch is too large.
    #[error("batch holds {bytes} bytes of records, more than {limit}")]
    TooManyBytes {
        /// Number found.
        bytes: u64,
        /// Largest number allowed.
        limit: u32,
    },
    /// The idempotency key is invalid.
    #[error("{0}")]
    RequestId(&'static str),
    /// A record is not a valid protobuf message.
    #[error("record {index}: {reason}")]
    Record {
        /// Index of the record, from 0.
        index: u64,
        /// Reason why it is invalid.
        reason: Malformed,
    },
}

/// A checked batch: its records as they were received, and the conditions of its publish.
#[derive(Clone, Debug)]
pub struct Batch {
    records: Bytes,
    count: u32,
    crc: u32,
    request_id: Option<RequestId>,
    expected_offset: Option<Offset>,
    traceparent: Option<Box<str>>,
    is_restored: bool,
}

impl Batch {
    /// Checks the encoded `records` fields of one publish.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(records: Bytes, limits: BatchLimits) -> Result<Self, Violation> {
        if records.is_empty() {
            return Err(Violation::Empty);
        }
        if records.len() > limits.bytes_max as usize {
            return Err(Violation::TooManyBytes { bytes: records.len() as u64, limit: limits.bytes_max });
        }
        let count = count_records(&records)?;
        if count > u64::from(limits.records_max) {
            return Err(Violation::TooManyRecords { records: count, limit: limits.records_max });
        }
        let crc = crc32c::crc32c(&records);
        let count = u32::try_from(count).expect("at most records_max, which is 32 bits");
        Ok(Self {
            records,
            count,
            crc,
            request_id: None,
            expected_offset: None,
            traceparent: None,
            is_restored: false,
        })
    }

    /// Sets the idempotency key; an empty one means none.
    ///
    /// # Errors
    /// The key is too long.
    pub fn with_request_id(mut self, id: &str) -> Result<Self, Violation> {
        if !id.is_empty() {
            self.request_id = Some(RequestId::parse(id).map_err(Violation::RequestId)?);
        }
        Ok(self)
    }

    /// Sets the scope of the idempotency key, if there is one.
    #[must_use]
    pub fn within(mut self, scope: Scope) -> Self {
        self.request_id = self.request_id.map(|id| id.within(scope));
        self
    }

    /// Sets the condition that the first record gets exactly this offset.
    #[must_use]
    pub fn expecting(mut self, offset: Option<Offset>) -> Self {
        self.expected_offset = offset;
        self
    }

    /// Marks a batch of a backup, whose first record must get this offset again.
    #[must_use]
    pub fn restored(self, offset: Offset) -> Self {
        Self { is_restored: true, ..self.expecting(Some(offset)) }
    }

    /// Sets the idempotency key that a batch of a backup was stored with.
    #[must_use]
    pub fn with_stored_id(self, id: RequestId) -> Self {
        Self { request_id: Some(id), ..self }
    }

    /// Returns true if the batch is of a backup.
    #[must_use]
    pub const fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// Sets the W3C traceparent. One that is not well-formed is ignored, as the standard requires.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = is_traceparent(traceparent).then(|| traceparent.into());
        self
    }

    /// The encoded `records` fields, as published.
    #[must_use]
    pub const fn records(&self) -> &Bytes {
        &self.records
    }

    /// Number of records, at least 1.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// CRC32C of [`Self::records`], computed when the batch was received.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc
    }

    /// Checksum of the records that does not depend on the order of their headers. It parses the records, so it is used
    /// only for batches with an idempotency key.
    #[must_use]
    pub fn content(&self) -> u32 {
        content::checksum(&self.records, self.crc)
    }

    /// The idempotency key.
    #[must_use]
    pub const fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// The offset the first record must get.
    #[must_use]
    pub const fn expected_offset(&self) -> Option<Offset> {
        self.expected_offset
    }

    /// The trace context of the publish.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Number of bytes that this batch counts as in every budget, at least the memory that it occupies: its records, a
    /// fixed overhead, and the rest of the message that their buffer may hold.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// Estimated upper bound of the memory of one batch besides its records, in bytes.
        const OVERHEAD: usize = 128;
        self.records.len() + OVERHEAD + EXCESS_MAX
    }
}

/// Counts and checks encoded `records` fields, between which there must not be other fields.
fn count_records(bytes: &[u8]) -> Result<u64, Violation> {
    let mut index = 0;
    let at = |index, reason| Violation::Record { index, reason };
    for field in Fields::new(bytes) {
        let field = field.map_err(|reason| at(index, reason))?;
        let (3, Value::Len(range)) = (field.number, field.value) else {
            return Err(at(index, Malformed("not a record")));
        };
        if bytes[field.at.start] != RECORDS_TAG {
            return Err(at(index, Malformed("overlong tag")));
        }
        walk::check_record(&bytes[range]).map_err(|reason| at(index, reason))?;
        index += 1;
    }
    Ok(index)
}

/// Largest part of a message that records may keep in memory besides themselves, in bytes. A topic name, a request id
/// and a trace context of usual lengths fit.
pub const EXCESS_MAX: usize = 256;

/// Collects the `records` fields of a message into one run of bytes. The run is a slice of the message if the fields are
/// adjacent, as every common encoder writes them, and are nearly all of it. Otherwise it is a copy, so that a small
/// record does not keep a large message in memory.
#[derive(Debug, Default)]
pub struct RecordsCollector {
    run: Option<std::ops::Range<usize>>,
    copied: Option<BytesMut>,
}

impl RecordsCollector {
    /// Adds the field at `at` (tag included) of `message`.
    pub fn push(&mut self, message: &Bytes, at: std::ops::Range<usize>) {
        match (&mut self.copied, &mut self.run) {
            (Some(copied), _) => copied.extend_from_slice(&message[at]),
            (None, Some(run)) if run.end == at.start => run.end = at.end,
            (None, Some(run)) => {
                let mut copied = BytesMut::from(&message[run.clone()]);
                copied.extend_from_slice(&message[at]);
                self.copied = Some(copied);
            }
            (None, None) => self.run = Some(at),
        }
    }

    /// Returns all records that were added.
    #[must_use]
    pub fn finish(self, mut message: Bytes) -> Bytes {
        match (self.copied, self.run) {
            (Some(copied), _) if copied.capacity() - copied.len() > EXCESS_MAX => {
                Bytes::copy_from_slice(&copied)
            }
            (Some(copied), _) => copied.freeze(),
            (None, Some(run)) if message.len() - run.len() > EXCESS_MAX => {
                Bytes::copy_from_slice(&message[run])
            }
            (None, Some(run)) => {
                message.truncate(run.end);
                message.advance(run.start);
                message
            }
            (None, None) => Bytes::new(),
        }
    }
}

/// Returns true if `text` is a traceparent of version 00 (W3C Trace Context, section 3.2).
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let not_zero = |part: &str| part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let (Some(version), Some(trace), Some(span), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && not_zero(trace) && not_zero(span)
}

#[cfg(test)]
mod tests {
    use super::{Batch, BatchLimits, EXCESS_MAX, RecordsCollector, Violation};
    use bytes::Bytes;

    fn records(count: usize, value: usize) -> Bytes {
        let mut out = Vec::new();
        for _ in 0..count {
            let mut record = Vec::new();
            prost::encoding::bytes::encode(2, &vec![1_u8; value], &mut record);
            out.push(super::RECORDS_TAG);
            prost::encoding::encode_varint(record.len() as u64, &mut out);
            out.extend_from_slice(&record);
        }
        out.into()
    }

    #[test]
    fn limits_are_exact() {
        let limits = BatchLimits::default();
        assert_eq!(Batch::check(records(1000, 10), limits).unwrap().count(), 1000);
        assert!(matches!(
            Batch::check(records(1001, 10), limits),
            Err(Violation::TooManyRecords { records: 1001, limit: 1000 })
        ));
        assert!(matches!(Batch::check(records(1, 1 << 20), limits), Err(Violation::TooManyBytes { .. })));
        assert_eq!(Batch::check(Bytes::new(), limits).unwrap_err(), Violation::Empty);
    }

    #[test]
    fn fields_that_are_not_records_are_refused() {
        let limits = BatchLimits::default();
        let mut bytes = records(2, 3).to_vec();
        bytes.extend_from_slice(&[0x08, 1]);
        assert!(matches!(Batch::check(bytes.into(), limits), Err(Violation::Record { index: 2, .. })));
        // The same tag in two bytes.
        assert!(Batch::check(Bytes::from_static(&[0x9a, 0, 0]), limits).is_err());
        let cut = records(1, 3);
        assert!(matches!(Batch::check(cut.slice(..4), limits), Err(Violation::Record { index: 0, .. })));
    }

    #[test]
    fn adjacent_records_are_sliced_and_scattered_ones_are_copied() {
        let message = Bytes::from_static(b"aabbxxcc");
        let mut together = RecordsCollector::default();
        together.push(&message, 0..2);
        together.push(&message, 2..4);
        let run = together.finish(message.clone());
        assert_eq!((&run[..], run.as_ptr()), (&b"aabb"[..], message.as_ptr()));
        let mut apart = RecordsCollector::default();
        for at in [0..2, 2..4, 6..8] {
            apart.push(&message, at);
        }
        assert_eq!(&apart.finish(message)[..], b"aabbcc");
    }

    #[test]
    fn the_rest_of_a_message_is_not_kept_in_memory() {
        for (beside, shared) in [(EXCESS_MAX, true), (EXCESS_MAX + 1, false), (1 << 20, false)] {
            let message = Bytes::from(vec![7; 10 + beside]);
            let mut collector = RecordsCollector::default();
            collector.push(&message, 4..14);
            let run = collector.finish(message.clone());
            assert_eq!((run.len(), message.as_ptr_range().contains(&run.as_ptr())), (10, shared), "{beside}");
        }
        let (message, mut apart) = (Bytes::from(vec![7; 1 << 20]), RecordsCollector::default());
        for at in (0..1 << 20).step_by(2) {
            apart.push(&message, at..at + 1);
        }
        let run = apart.finish(message).try_into_mut().expect("of its own");
        assert!(run.capacity() <= run.len() + EXCESS_MAX);
    }

    #[test]
    fn traceparents_are_kept_only_when_well_formed() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let batch = Batch::check(records(1, 1), BatchLimits::default()).unwrap();
        assert_eq!(batch.clone().with_traceparent(good).traceparent(), Some(good));
        for bad in
            ["", "00-0-0-0", &good.to_uppercase(), &good.replace("b7ad6b7169203331", "0000000000000000")]
        {
            assert_eq!(batch.clone().with_traceparent(bad).traceparent(), None, "{bad}");
        }
    }
}
