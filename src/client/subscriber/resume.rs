//! The progress of a subscription: what it has received, and what to request when it resumes.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use super::options::{Start, SubscriberOptions};
use crate::client::damaged::damaged;
use crate::client::error::Error;
use crate::proto::v1;
use crate::record::block::Blocks;
use crate::record::{Offset, Position};
use crate::wire::SubscribeResponse;

/// The original request, and how much of it has been received.
#[derive(Debug)]
pub(super) struct Cursor {
    request: v1::SubscribeRequest,
    next: Option<Position>,
    /// The tail in the first message, at which a subscription with `stop_at_tail` ends.
    first_tail: Option<Offset>,
    /// True until the first message of a call. A topic that was restored from a backup meanwhile has another epoch, in
    /// which the server has found the position to be valid.
    is_resuming: bool,
}

impl Cursor {
    pub(super) fn new(options: &SubscriberOptions) -> Self {
        // The largest number stands for a used-up limit; one less is as good as no limit.
        let limit = options.limit.map(|asked| v1::ReadLimit {
            max_records: asked.max_records.min(USED_UP - 1),
            max_bytes: asked.max_bytes.min(USED_UP - 1),
            ..asked
        });
        let request = v1::SubscribeRequest {
            topic: options.topic.clone(),
            out_of_range: options.out_of_range.into(),
            limit,
            heartbeat_interval: Some(proto_duration(options.heartbeat_interval)),
            start: Some(proto_start(options.start)),
        };
        Self { request, next: None, first_tail: None, is_resuming: false }
    }

    /// The position to resume at; none before the first message.
    pub(super) const fn position(&self) -> Option<Position> {
        self.next
    }

    /// The request to send now.
    pub(super) fn request(&mut self) -> v1::SubscribeRequest {
        self.is_resuming = true;
        let mut request = self.request.clone();
        if let Some(next) = self.next {
            request.start = Some(proto_start(Start::Position(next)));
        }
        request
    }

    /// Returns true if the subscription has a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.request.limit.is_some_and(|limit| limit != v1::ReadLimit::default())
    }

    /// Returns true if everything requested has been received, however the call ended.
    pub(super) fn is_complete(&self) -> bool {
        let Some(limit) = &self.request.limit else { return false };
        let at_tail = match (self.next, self.first_tail) {
            (Some(next), Some(tail)) => next.offset >= tail,
            _ => false,
        };
        (limit.stop_at_tail && at_tail) || limit.max_records == USED_UP || limit.max_bytes == USED_UP
    }

    /// Returns true for a heartbeat of a server that has records and does not deliver them.
    pub(super) fn is_stalled(&self, message: &SubscribeResponse) -> bool {
        let bare = message.batches.is_empty() && message.notice == v1::Notice::Unspecified;
        bare && self.next == Some(message.next) && message.next.offset < message.tail
    }

    /// Accepts a message, which must continue exactly where the last one ended.
    pub(super) fn accept(&mut self, message: &SubscribeResponse) -> Result<(), Error> {
        if message.notice != v1::Notice::Gap {
            self.check_order(message)?;
        }
        self.is_resuming = false;
        self.first_tail.get_or_insert(message.tail);
        self.next = Some(message.next);
        let Some(limit) = &mut self.request.limit else { return Ok(()) };
        if limit.max_records > 0 {
            let mut records = 0;
            for block in message.batches.iter().flat_map(|run| Blocks::new(run)) {
                records += block.map_err(|why| damaged(message.next.offset, why))?.count();
            }
            spend(&mut limit.max_records, records);
        }
        if limit.max_bytes > 0 {
            spend(&mut limit.max_bytes, message.batches.iter().map(|run| run.len() as u64).sum());
        }
        Ok(())
    }

    fn check_order(&self, message: &SubscribeResponse) -> Result<(), Error> {
        let Some(expected) = self.next else { return Ok(()) };
        let wrong = |what: &str, found: Offset| {
            let message = format!("the server {what}: expected offset {}, got {found}", expected.offset);
            Err(Error::local(Code::DataLoss, message))
        };
        if message.next.epoch != expected.epoch && !self.is_resuming {
            return wrong("changed the topic's epoch within a subscription", message.next.offset);
        }
        // The order of the runs is checked. The order inside a run is as stored.
        let mut last = None;
        for run in &message.batches {
            let Some(first) = first_offset(run)? else { continue };
            if first < expected.offset || last.is_some_and(|last| first <= last) {
                return wrong("repeated records", first);
            }
            last = Some(first);
        }
        if message.next.offset < expected.offset {
            return wrong("went back", message.next.offset);
        }
        Ok(())
    }
}

/// A limit of which nothing is left; 0 would mean no limit.
const USED_UP: u64 = u64::MAX;

fn spend(limit: &mut u64, used: u64) {
    if *limit != USED_UP {
        *limit = if used >= *limit { USED_UP } else { *limit - used };
    }
}

fn first_offset(run: &Bytes) -> Result<Option<Offset>, Error> {
    let block = Blocks::new(run).next().transpose();
    Ok(block.map_err(|why| damaged(Offset::ZERO, why))?.map(|block| block.first))
}

fn proto_duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

fn proto_start(start: Start) -> v1::subscribe_request::Start {
    use v1::subscribe_request::Start as Proto;
    match start {
        Start::Earliest => Proto::Boundary(v1::Boundary::Earliest.into()),
        Start::Latest => Proto::Boundary(v1::Boundary::Latest.into()),
        Start::Offset(offset) => Proto::Offset(offset.get()),
        Start::Last(records) => Proto::LastRecords(records),
        Start::Time(time) => {
            let (seconds, nanos) = time.parts();
            Proto::Time(prost_types::Timestamp { seconds: seconds as i64, nanos: nanos as i32 })
        }
        Start::Position(position) => {
            Proto::Position(v1::Position { epoch: position.epoch.to_string(), offset: position.offset.get() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cursor;
    use crate::client::subscriber::{Start, SubscriberOptions};
    use crate::proto::v1::{self, Notice, subscribe_request::Start as Proto};
    use crate::record::{Batch, BatchLimits, Epoch, Offset, Position, UnixMicros, block};
    use crate::wire::SubscribeResponse;
    use bytes::BytesMut;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::new(5), offset: Offset::new(offset) }
    }

    /// A delivery of the records `first..next`, one batch.
    fn delivery(first: u64, next: u64, tail: u64) -> SubscribeResponse {
        let records = block::records_fields((first..next).map(|_| &[0x12_u8, 1, 7][..]));
        let batch = Batch::check(records, BatchLimits::default()).unwrap();
        let mut out = BytesMut::new();
        block::encode(Offset::new(first), UnixMicros(1), &batch, &mut out);
        let (next, tail) = (at(next), Offset::new(tail));
        SubscribeResponse { batches: vec![out.freeze()], next, tail, notice: Notice::Unspecified }
    }

    fn cursor(limit: v1::ReadLimit) -> Cursor {
        Cursor::new(&SubscriberOptions { limit: Some(limit), ..SubscriberOptions::new("t", Start::Earliest) })
    }

    #[test]
    fn the_start_is_requested_until_the_first_message_and_a_position_after_it() {
        let mut cursor = Cursor::new(&SubscriberOptions::new("t", Start::Last(9)));
        assert_eq!(cursor.request().start, Some(Proto::LastRecords(9)));
        cursor.accept(&delivery(3, 5, 9)).unwrap();
        let resumed = Proto::Position(v1::Position { epoch: Epoch::new(5).to_string(), offset: 5 });
        assert_eq!(cursor.request().start, Some(resumed));
    }

    #[test]
    fn repeats_and_steps_back_are_refused_unless_there_is_a_gap() {
        let mut cursor = Cursor::new(&SubscriberOptions::new("t", Start::Earliest));
        cursor.accept(&delivery(3, 5, 9)).unwrap();
        assert!(cursor.accept(&delivery(4, 6, 9)).is_err());
        let mut again = delivery(5, 6, 9);
        again.batches.extend(delivery(6, 7, 9).batches);
        again.batches.extend(delivery(5, 6, 9).batches);
        assert!(cursor.accept(&again).is_err(), "within one message");
        let back = SubscribeResponse::bare(at(4), Offset::new(9), Notice::Unspecified);
        assert!(cursor.accept(&back).is_err());
        let mut other_epoch = delivery(5, 6, 9);
        other_epoch.next.epoch = Epoch::new(6);
        assert!(cursor.accept(&other_epoch).is_err());
        // The topic was restored from a backup while the call was broken.
        let mut restored = Cursor::new(&SubscriberOptions::new("t", Start::Earliest));
        restored.accept(&delivery(3, 5, 9)).unwrap();
        let _ = restored.request();
        restored.accept(&other_epoch).unwrap();
        assert!(restored.accept(&delivery(6, 7, 9)).is_err());
        let gap = SubscribeResponse::bare(at(2), Offset::new(9), Notice::Gap);
        cursor.accept(&gap).unwrap();
        cursor.accept(&delivery(2, 3, 9)).unwrap();
    }

    #[test]
    fn limits_shrink_by_what_was_received() {
        let mut cursor = cursor(v1::ReadLimit { max_records: 5, ..Default::default() });
        cursor.accept(&delivery(0, 3, 9)).unwrap();
        assert_eq!(cursor.request().limit.unwrap().max_records, 2);
        assert!(!cursor.is_complete());
        cursor.accept(&delivery(3, 5, 9)).unwrap();
        assert!(cursor.is_complete());
    }

    #[test]
    fn the_largest_limit_is_not_used_up() {
        for limit in [
            v1::ReadLimit { max_records: u64::MAX, ..Default::default() },
            v1::ReadLimit { max_bytes: u64::MAX, ..Default::default() },
        ] {
            let mut cursor = cursor(limit);
            assert!(!cursor.is_complete());
            cursor.accept(&delivery(0, 3, 9)).unwrap();
            assert!(!cursor.is_complete());
        }
    }

    #[test]
    fn stopping_at_the_tail_means_the_tail_first_seen() {
        let mut cursor = cursor(v1::ReadLimit { stop_at_tail: true, ..Default::default() });
        cursor.accept(&delivery(0, 3, 5)).unwrap();
        assert!(!cursor.is_complete());
        cursor.accept(&delivery(3, 5, 900)).unwrap();
        assert!(cursor.is_complete());
    }
}
