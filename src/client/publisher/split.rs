//! Splitting of batches that a server refuses as too large, because its limits are lower than the publisher's.

use std::ops::Range;

use bytes::Bytes;

use crate::client::error::{Error, Origin};
use crate::record::walk::Fields;

/// The refusal of a batch by a server, which has stored nothing of it and of those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Number of the publish in its call.
    pub(super) number: u64,
    /// Largest number of records that the server accepts, where the batch had more.
    pub(super) records_max: u32,
    /// Largest size that the server accepts, in bytes, where the batch was larger.
    pub(super) bytes_max: usize,
}

impl TooLarge {
    /// Reads the error of a call; none where it is another one, or where it does not name the limit.
    pub(super) fn of(error: &Error) -> Option<Self> {
        let metadata = error.metadata();
        let is_none = metadata.get("side_effects").is_some_and(|effects| effects == "none");
        if error.origin() != Origin::Server || error.reason() != Some("BATCH_TOO_LARGE") || !is_none {
            return None;
        }
        let limit = |key: &str| metadata.get(key).and_then(|limit| limit.parse::<u32>().ok());
        let (records_max, bytes_max) = (limit("records_max"), limit("bytes_max"));
        records_max.or(bytes_max)?;
        Some(Self {
            number: metadata.get("number")?.parse().ok()?,
            records_max: records_max.unwrap_or(u32::MAX).max(1),
            bytes_max: bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
        })
    }
}

/// Cuts encoded records into parts of at most so many records and bytes, each with its number of records. A record that is
/// larger is a part of its own.
pub(super) fn cut(records: &Bytes, records_max: u32, bytes_max: usize) -> Vec<(Bytes, u32)> {
    let (mut parts, mut part, mut count) = (Vec::new(), Range { start: 0, end: 0 }, 0);
    // Each field is a record, as this publisher has encoded them.
    for field in Fields::new(records).map_while(Result::ok) {
        let is_full = count >= records_max || field.at.end - part.start > bytes_max;
        if count > 0 && is_full {
            parts.push((records.slice(part), count));
            (part, count) = (field.at.start..field.at.start, 0);
        }
        part.end = field.at.end;
        count += 1;
    }
    if count > 0 {
        parts.push((records.slice(part), count));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{TooLarge, cut};
    use crate::client::publisher::queue::{Encoded, Limits, Queue, Want};
    use crate::client::{Error, Record};
    use bytes::{Bytes, BytesMut};
    use std::collections::HashMap;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    const LIMITS: Limits =
        Limits { records_per_batch: 8, bytes_per_batch: 1000, batches_max: 4, bytes_max: 4000 };

    fn refused(number: u64, records_max: u32) -> TooLarge {
        TooLarge { number, records_max, bytes_max: usize::MAX }
    }

    fn filled(records: usize) -> Queue {
        let mut queue = Queue::new(LIMITS);
        queue.begin_call();
        for _ in 0..records {
            queue.push(&Record::new("x"), Want::Nothing);
        }
        queue
    }

    fn counts(queue: &mut Queue) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| queue.take().map(|(_, batch, pending)| (batch, pending.count))).collect()
    }

    #[test]
    fn parts_are_within_the_limits_and_together_the_whole() {
        let mut encoded = BytesMut::new();
        let sizes = [10, 10, 300, 10, 90, 90, 10];
        sizes.iter().for_each(|size| Record::new(vec![b'x'; *size]).put_field(&mut encoded));
        let encoded = encoded.freeze();
        let parts = cut(&encoded, 3, 200);
        assert_eq!(parts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 2, 2]);
        assert_eq!(parts.iter().flat_map(|(part, _)| part.to_vec()).collect::<Bytes>(), encoded);
    }

    #[test]
    fn the_refused_batch_and_later_ones_are_split_and_earlier_ones_keep_their_index() {
        let mut queue = filled(24);
        assert_eq!(counts(&mut queue), [(0, 8), (1, 8), (2, 8)]);
        queue.acknowledge(1).unwrap();
        // The second is stored, though its receipt has not come.
        assert!(queue.split(refused(3, 5)));
        queue.begin_call();
        assert_eq!(counts(&mut queue), [(1, 8), (2, 5), (3, 3)]);
        for number in 1..=3 {
            queue.acknowledge(number).unwrap();
        }
        assert!(queue.is_empty() && queue.acknowledged() == queue.queued());
        // What is filled from now on has the lower limit.
        for _ in 0..6 {
            queue.push(&Record::new("x"), Want::Nothing);
        }
        assert_eq!(counts(&mut queue), [(4, 5), (5, 1)]);
    }

    #[test]
    fn what_may_be_stored_or_was_given_as_a_batch_is_not_split() {
        let mut queue = filled(8);
        counts(&mut queue);
        for wrong in [0, 2, u64::MAX / 2] {
            assert!(!queue.split(refused(wrong, 5)), "number {wrong}");
        }
        assert!(!queue.split(refused(1, 8)), "it is not smaller then");
        queue.begin_call();
        counts(&mut queue);
        assert!(!queue.split(refused(1, 5)), "the call before may have stored it");
        let mut queue = filled(0);
        let mut records = BytesMut::new();
        (0..2).for_each(|_| Record::new("x").put_field(&mut records));
        queue.push_batch(Encoded { records: records.freeze(), count: 2, ..Encoded::default() });
        counts(&mut queue);
        assert!(!queue.split(refused(1, 1)));
    }

    #[test]
    fn no_more_batches_are_sent_than_the_window_has_room_for() {
        let mut queue = filled(8);
        counts(&mut queue);
        assert!(queue.split(refused(1, 1)));
        queue.begin_call();
        assert_eq!(counts(&mut queue).len(), LIMITS.batches_max);
        assert!(!queue.has_work() && !queue.has_room());
        queue.acknowledge(1).unwrap();
        assert_eq!(counts(&mut queue), [(4, 1)]);
    }

    #[test]
    fn only_a_refusal_that_names_its_limit_counts() {
        let of = |reason: &str, metadata: &[(&str, &str)]| {
            let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let details =
                ErrorDetails::with_error_info(reason, "streamway", metadata.collect::<HashMap<_, _>>());
            let status = Status::with_error_details(Code::InvalidArgument, "no", details);
            TooLarge::of(&Error::from_status(&status, "http://x"))
        };
        let whole = [("side_effects", "none"), ("number", "3"), ("records_max", "0")];
        assert_eq!(of("BATCH_TOO_LARGE", &whole), Some(refused(3, 1)));
        assert_eq!(of("INVALID_FIELD", &whole), None);
        for left_out in 0..3 {
            let mut part = whole.to_vec();
            part.remove(left_out);
            assert_eq!(of("BATCH_TOO_LARGE", &part), None, "{part:?}");
        }
    }
}
