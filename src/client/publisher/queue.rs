//! The records between the caller and the wire: the batch being filled, and the batches not acknowledged yet, in
//! order.
//!
//! ```text
//!  acknowledged │ sent on this call │ closed, to be sent │ being filled
//!  ─────────────┼───────────────────┼────────────────────┼─────────────▶ batches
//!              base            base + sent
//! ```
//! A new call begins with nothing sent, so everything not acknowledged is sent again, in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::ack::Slot;
use super::split::{TooLarge, cut};
use crate::client::error::Error;
use crate::record::Record;

/// Bytes counted for a batch in addition to its records.
const BATCH_OVERHEAD: usize = 128;
/// Number of batches in flight from which on a batch that is not full is held back. This keeps the latency of a single
/// record at one round trip, and fills the batches of a busy publisher.
const PARTIAL_IN_FLIGHT_MAX: usize = 4;
/// Size of the buffers that encoded batches are split off from, in bytes.
const CHUNK: usize = 64 << 10;

/// Limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) records_per_batch: u32,
    pub(super) bytes_per_batch: usize,
    pub(super) batches_max: usize,
    pub(super) bytes_max: usize,
}

/// An encoded batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    /// All of its `records` fields, tags included.
    pub(crate) records: Bytes,
    pub(crate) count: u32,
    /// The caller's own idempotency key.
    pub(crate) request_id: Option<Box<str>>,
    /// The trace context of the batch; empty where there is none.
    pub(crate) traceparent: Box<str>,
}

/// A batch that is closed and not acknowledged.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) records: Bytes,
    pub(super) count: u32,
    /// The caller's own idempotency key.
    pub(super) request_id: Option<Box<str>>,
    /// The trace context of the batch; empty where there is none.
    pub(super) traceparent: Box<str>,
    slot: Option<Arc<Slot>>,
    /// Index of the first record in the slot.
    slot_index: u64,
    /// The caller gave it as a batch, so it is stored whole or not at all.
    is_whole: bool,
}

impl Pending {
    /// The slot, and the range of the batch's records in it.
    fn into_slot(self) -> Option<(Arc<Slot>, Range<u64>)> {
        let range = self.slot_index..self.slot_index + u64::from(self.count);
        self.slot.map(|slot| (slot, range))
    }

    fn weight(&self) -> usize {
        self.records.len() + BATCH_OVERHEAD
    }
}

/// The caller's interest in the receipt of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Receipt,
    Nothing,
}

/// An acknowledged batch.
#[derive(Debug)]
pub(super) struct Settled {
    /// Index of the batch among those of this publisher, from 0.
    pub(super) batch: u64,
    pub(super) count: u32,
    /// The slot, and the range of the batch's records in it.
    pub(super) slot: Option<(Arc<Slot>, Range<u64>)>,
}

#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    batches: VecDeque<Pending>,
    /// Number of `batches` that were sent on the present call.
    sent: usize,
    /// Index of `batches[0]` among all batches.
    base: u64,
    /// `base` when the present call began. That batch has publish number 1.
    call_base: u64,
    /// Index of the first batch that is certainly not stored: those before it were sent on an earlier call.
    certain: u64,
    /// Numbers of records queued and acknowledged so far.
    pushed: u64,
    acknowledged: u64,
    filling: BytesMut,
    filling_count: u32,
    filling_slot: Option<Arc<Slot>>,
    /// Bytes counted for everything above.
    bytes: usize,
    /// Number of the present call. The request stream of an older call ends.
    pub(super) call: u64,
    /// The present call is to end: nothing more is sent on it.
    pub(super) half_close: bool,
    /// Waker of the task that waits for something to send: the request stream, or the driver between calls.
    pub(super) sender: Option<Waker>,
    /// Time since which nothing has been acknowledged although something is pending; none while nothing is.
    pub(super) waiting_since: Option<Instant>,
    /// The error that ended the publisher.
    pub(super) ended: Option<Error>,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            batches: VecDeque::new(),
            sent: 0,
            base: 0,
            call_base: 0,
            certain: 0,
            pushed: 0,
            acknowledged: 0,
            filling: BytesMut::new(),
            filling_count: 0,
            filling_slot: None,
            bytes: 0,
            call: 0,
            half_close: false,
            sender: None,
            waiting_since: None,
            ended: None,
        }
    }

    /// Returns true if another record is accepted. The last one accepted may exceed the limit.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < self.limits.bytes_max && self.batches.len() < self.limits.batches_max
    }

    /// Adds a record to the batch being filled. The caller has checked that there is room.
    pub(super) fn push(&mut self, record: &Record, want: Want) -> Option<(Arc<Slot>, u64)> {
        let len = record.field_len();
        self.waiting_since.get_or_insert_with(Instant::now);
        if self.filling_count > 0 && self.filling.len() + len > self.limits.bytes_per_batch {
            self.close();
        }
        if self.filling.capacity() - self.filling.len() < len {
            self.filling.reserve(len.max(CHUNK));
        }
        record.put_field(&mut self.filling);
        let ticket = (want == Want::Receipt)
            .then(|| (Arc::clone(self.filling_slot.get_or_insert_default()), u64::from(self.filling_count)));
        self.filling_count += 1;
        self.pushed += 1;
        self.bytes += len;
        if self.filling_count >= self.limits.records_per_batch {
            self.close();
        }
        ticket
    }

    /// Adds a batch as it is.
    pub(super) fn push_batch(&mut self, batch: Encoded) -> Arc<Slot> {
        self.close();
        self.waiting_since.get_or_insert_with(Instant::now);
        let slot = Arc::new(Slot::default());
        let Encoded { records, count, request_id, traceparent } = batch;
        let own = Some(Arc::clone(&slot));
        let pending =
            Pending { records, count, request_id, traceparent, slot: own, slot_index: 0, is_whole: true };
        self.pushed += u64::from(count);
        self.bytes += pending.weight();
        self.batches.push_back(pending);
        slot
    }

    fn close(&mut self) {
        if self.filling_count == 0 {
            return;
        }
        let (records, count) = (self.filling.split().freeze(), std::mem::take(&mut self.filling_count));
        self.bytes += BATCH_OVERHEAD;
        let (slot, traceparent) = (self.filling_slot.take(), Box::default());
        let pending =
            Pending { records, count, request_id: None, traceparent, slot, slot_index: 0, is_whole: false };
        self.batches.push_back(pending);
    }

    /// Splits a batch that the server refused, and all after it, to the limits of the server, which also hold from now on.
    /// Nothing of them is stored. The present call must end then. Returns false where that does not help, or where the
    /// batch may have been stored by a call before.
    pub(super) fn split(&mut self, refused: TooLarge) -> bool {
        let Some(at) = self.sent_as(refused.number) else { return false };
        if self.base + (at as u64) < self.certain {
            return false;
        }
        let limits = Limits {
            records_per_batch: self.limits.records_per_batch.min(refused.records_max),
            bytes_per_batch: self.limits.bytes_per_batch.min(refused.bytes_max),
            ..self.limits
        };
        let batch = &self.batches[at];
        if batch.is_whole || cut(&batch.records, limits.records_per_batch, limits.bytes_per_batch).len() < 2 {
            return false;
        }
        self.limits = limits;
        self.close();
        for batch in self.batches.split_off(at) {
            self.push_parts(batch);
        }
        self.sent = at;
        true
    }

    /// Index in `batches` of the batch that was sent on this call with a number, unless it was acknowledged.
    fn sent_as(&self, number: u64) -> Option<usize> {
        let at = usize::try_from(number.checked_sub(self.due())?).ok()?;
        (at < self.sent).then_some(at)
    }

    /// Adds a batch again, in parts if it exceeds the limits.
    fn push_parts(&mut self, batch: Pending) {
        if batch.is_whole {
            return self.batches.push_back(batch);
        }
        self.bytes -= batch.weight();
        let Pending { traceparent, slot, mut slot_index, .. } = batch;
        for (records, count) in
            cut(&batch.records, self.limits.records_per_batch, self.limits.bytes_per_batch)
        {
            let (slot, traceparent) = (slot.clone(), traceparent.clone());
            let part =
                Pending { records, count, request_id: None, traceparent, slot, slot_index, is_whole: false };
            slot_index += u64::from(count);
            self.bytes += part.weight();
            self.batches.push_back(part);
        }
    }

    /// Begins a call. Everything not acknowledged is to be sent, again or for the first time.
    pub(super) fn begin_call(&mut self) -> u64 {
        self.call += 1;
        self.certain = self.certain.max(self.base + self.sent as u64);
        (self.sent, self.call_base, self.half_close) = (0, self.base, false);
        self.call
    }

    /// Ends a call. Returns the waker of its request stream, which ends when it is polled.
    pub(super) fn end_call(&mut self) -> Option<Waker> {
        self.begin_call();
        self.sender.take()
    }

    /// Takes the waker of the waiting task if it has something to do: to send batches, or to end the call.
    pub(super) fn take_due_waker(&mut self) -> Option<Waker> {
        if self.has_work() || self.half_close { self.sender.take() } else { None }
    }

    /// Takes the next batch to send on this call, with its publish number and its index among all batches.
    pub(super) fn take(&mut self) -> Option<(u64, u64, &Pending)> {
        if self.sent >= self.limits.batches_max {
            // Splitting has made more batches than the window of the call has room for.
            return None;
        }
        if self.sent == self.batches.len() {
            if self.sent >= PARTIAL_IN_FLIGHT_MAX {
                return None;
            }
            self.close();
        }
        let pending = self.batches.get(self.sent)?;
        let batch = self.base + self.sent as u64;
        self.sent += 1;
        Some((batch - self.call_base + 1, batch, pending))
    }

    /// Returns true if [`Self::take`] would find a batch.
    pub(super) fn has_work(&self) -> bool {
        let has_more =
            self.sent < self.batches.len() || (self.filling_count > 0 && self.sent < PARTIAL_IN_FLIGHT_MAX);
        has_more && self.sent < self.limits.batches_max
    }

    /// Publish number of the oldest batch not acknowledged, whether it was sent or not.
    pub(super) const fn due(&self) -> u64 {
        self.base - self.call_base + 1
    }

    /// Removes the batch of this number, which is durable; none where it is not the oldest one sent.
    pub(super) fn acknowledge(&mut self, number: u64) -> Option<Settled> {
        if self.sent == 0 || number != self.due() {
            return None;
        }
        let pending = self.batches.pop_front()?;
        self.bytes -= pending.weight();
        let batch = self.base;
        self.base += 1;
        self.sent -= 1;
        self.acknowledged += u64::from(pending.count);
        Some(Settled { batch, count: pending.count, slot: pending.into_slot() })
    }

    /// Notes that something was acknowledged: what is left has been pending since now.
    pub(super) fn note_progress(&mut self) {
        self.waiting_since = (!self.is_empty()).then(Instant::now);
    }

    /// Number of batches that were sent on this call and not acknowledged.
    pub(super) const fn in_flight(&self) -> usize {
        self.sent
    }

    /// Returns true if everything queued was acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.filling_count == 0
    }

    /// Number of records queued so far.
    pub(super) const fn queued(&self) -> u64 {
        self.pushed
    }

    /// Number of records acknowledged so far.
    pub(super) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Ends the queue, and abandons what is pending. Returns the slots of the abandoned batches, with the ranges of their
    /// records.
    pub(super) fn end(&mut self, error: &Error) -> Vec<(Arc<Slot>, Range<u64>)> {
        if self.ended.is_none() {
            self.ended = Some(error.clone());
        }
        self.close();
        (self.sent, self.bytes, self.half_close) = (0, 0, true);
        self.batches.drain(..).filter_map(Pending::into_slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Queue, Want};
    use crate::client::{Error, Record};
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { records_per_batch: 3, bytes_per_batch: 100, batches_max: 8, bytes_max: 4000 };

    fn record(len: usize) -> Record {
        Record::new(vec![7_u8; len])
    }

    fn push(queue: &mut Queue, len: usize) {
        queue.push(&record(len), Want::Nothing);
    }

    #[test]
    fn batches_close_when_full_and_a_lone_record_goes_at_once() {
        let mut queue = Queue::new(LIMITS);
        queue.begin_call();
        push(&mut queue, 10);
        let (number, batch, pending) = queue.take().unwrap();
        assert_eq!((number, batch, pending.count), (1, 0, 1));
        for _ in 0..3 {
            push(&mut queue, 10);
        }
        assert_eq!(queue.take().unwrap().2.count, 3);
        // By bytes: the second does not fit beside the first.
        push(&mut queue, 60);
        push(&mut queue, 60);
        assert_eq!(queue.take().unwrap().2.count, 1);
    }

    #[test]
    fn partial_batches_are_held_back_while_others_are_in_flight() {
        let mut queue = Queue::new(LIMITS);
        queue.begin_call();
        for _ in 0..4 {
            push(&mut queue, 1);
            assert!(queue.take().is_some());
        }
        push(&mut queue, 1);
        assert!(!queue.has_work() && queue.take().is_none());
        push(&mut queue, 1);
        queue.acknowledge(1).unwrap();
        assert!(queue.has_work());
        assert_eq!(queue.take().unwrap().2.count, 2);
    }

    #[test]
    fn a_new_call_sends_what_was_not_acknowledged_in_order_under_new_numbers() {
        let mut queue = Queue::new(LIMITS);
        queue.begin_call();
        for _ in 0..9 {
            push(&mut queue, 1);
        }
        for _ in 0..3 {
            queue.take().unwrap();
        }
        assert!(queue.acknowledge(2).is_none(), "receipts come in order");
        assert_eq!(queue.acknowledge(1).unwrap().batch, 0);
        queue.begin_call();
        assert!(queue.acknowledge(1).is_none(), "nothing was sent on this call");
        let again: Vec<_> = std::iter::from_fn(|| queue.take().map(|(n, batch, _)| (n, batch))).collect();
        assert_eq!(again, [(1, 1), (2, 2)]);
        assert_eq!(queue.acknowledge(1).unwrap().batch, 1);
        assert_eq!(queue.acknowledge(2).unwrap().batch, 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_end_returns_the_slot_of_every_pending_batch() {
        let mut queue = Queue::new(LIMITS);
        queue.begin_call();
        let (slot, index) = queue.push(&record(1), Want::Receipt).unwrap();
        let (same, second) = queue.push(&record(1), Want::Receipt).unwrap();
        assert!(std::sync::Arc::ptr_eq(&slot, &same));
        assert_eq!((index, second), (0, 1));
        queue.push_batch(super::Encoded { records: "x".into(), count: 1, ..Default::default() });
        assert_eq!(queue.end(&Error::transport("gone")).len(), 2);
        assert!(queue.is_empty());
    }

    proptest! {
        /// However calls, acknowledgements and records are interleaved, each record is acknowledged once and in order,
        /// and no bytes stay counted.
        #[test]
        fn any_interleaving_keeps_order_and_loses_nothing(steps in proptest::collection::vec(0..4_u8, 1..200)) {
            let mut queue = Queue::new(LIMITS);
            queue.begin_call();
            let (mut pushed, mut stored, mut next_number) = (0_u64, 0_u64, 1);
            for step in steps.into_iter().chain(std::iter::repeat_n(3, 400)) {
                match step {
                    0 if queue.has_room() => {
                        queue.push(&Record::new(pushed.to_le_bytes().to_vec()), Want::Nothing);
                        pushed += 1;
                    }
                    1 => { queue.begin_call(); next_number = 1; }
                    2 => { queue.take(); }
                    _ => {
                        queue.take();
                        if let Some(settled) = queue.acknowledge(next_number) {
                            stored += u64::from(settled.count);
                            next_number += 1;
                        }
                    }
                }
                prop_assert!(queue.batches.len() <= LIMITS.batches_max);
            }
            prop_assert_eq!(stored, pushed);
            prop_assert!(queue.is_empty());
            prop_assert_eq!(queue.bytes, 0);
        }
    }
}
