//! The decisions of a consumer, without I/O: which record is handled next, what is settled, what it has credit for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::drafts::{Drafts, Part};
use super::leases::{Leases, Unknown};
use super::options::ConsumerOptions;
use super::received::{Handled, Received, Rejection};
use super::summary::Summary;
use crate::client::error::Error;
use crate::proto::v1::consume_request::Kind;
use crate::proto::v1::{self, DeliveryOrder, SettlementResult};
use crate::wire::ConsumeResponse;

/// Most records that are taken above the credit: those of a lease that was on its way.
const SURPLUS_MAX: u64 = 1000;

/// Records that are handled in order.
type Lane = Option<Bytes>;

/// A record whose handler runs.
#[derive(Debug)]
struct Running {
    lane: Lane,
    size: u64,
    lost: CancellationToken,
}

/// State of a consumer.
#[derive(Debug)]
pub(super) struct Core {
    concurrency: usize,
    /// Most records and bytes that are waiting or being handled.
    held_max: (u64, u64),
    deliveries_max: u64,
    order: DeliveryOrder,
    /// Incarnation of the group.
    group_id: Arc<str>,
    leases: Leases,
    drafts: Drafts,
    ready: VecDeque<Received>,
    /// Records that wait for the end of an earlier one of their lane. A lane has an entry while one of its records is ready
    /// or being handled.
    waiting: HashMap<Bytes, VecDeque<Received>>,
    running: BTreeMap<(u64, u64), Running>,
    /// Lanes with a record that was refused or given back, until that is answered: what the server sent before it knew is
    /// given back too.
    blocked: HashMap<Bytes, (u64, u64)>,
    /// Records and bytes that are waiting or being handled.
    held: (u64, u64),
    /// Deliveries of all calls.
    deliveries: u64,
    /// Credit that this call was given.
    credit: (u64, u64),
    /// Tokens of leases that only a new call told of.
    unknown_tokens: BTreeMap<u64, Bytes>,
    is_stopping: bool,
    summary: Summary,
}

impl Core {
    pub(super) fn new(options: &ConsumerOptions) -> Self {
        Self {
            concurrency: options.concurrency,
            held_max: ((options.concurrency + options.prefetch) as u64, options.held_bytes_max),
            deliveries_max: options.deliveries_max.unwrap_or(u64::MAX),
            order: DeliveryOrder::None,
            group_id: Arc::from(""),
            leases: Leases::default(),
            drafts: Drafts::default(),
            ready: VecDeque::new(),
            waiting: HashMap::new(),
            running: BTreeMap::new(),
            blocked: HashMap::new(),
            held: (0, 0),
            deliveries: 0,
            credit: (0, 0),
            unknown_tokens: BTreeMap::new(),
            is_stopping: false,
            summary: Summary::default(),
        }
    }

    /// A call has begun, and this is its first answer.
    pub(super) fn joined(&mut self, joined: &v1::Joined, now: Instant) {
        if let Some(group) = &joined.group {
            self.group_id = group.id.as_str().into();
        }
        let settings = joined.group.as_ref().and_then(|group| group.settings.as_ref());
        self.order = settings.map_or(DeliveryOrder::None, v1::GroupSettings::order);
        self.drafts.keeps_order = matches!(self.order, DeliveryOrder::Key | DeliveryOrder::Total);
        self.credit = (0, 0);
        let (lost, unknown) = self.leases.resume(&joined.held, now);
        self.lose(lost);
        self.drafts.resend();
        for Unknown { fence, token, ranges } in unknown {
            self.unknown_tokens.insert(fence, token);
            self.drafts.give_back(fence, ranges);
        }
    }

    /// Takes a message of the call.
    pub(super) fn receive(&mut self, message: &ConsumeResponse, now: Instant) -> Result<(), Error> {
        for lease in &message.leases {
            let records = Received::of(lease, &self.group_id)?;
            self.leases.add(&lease.rest, records.iter().map(|record| record.offset().get()), now);
            for record in records {
                self.take(record);
            }
        }
        // A revocation is of a lease that came before it, maybe in the same message.
        for revoked in &message.rest.revocations {
            let lost = self.leases.within(revoked.fence, &revoked.ranges);
            self.lose(lost);
        }
        for outcome in &message.rest.outcomes {
            self.answered(outcome);
        }
        for extension in &message.rest.extensions {
            let lost = self.leases.extended(extension, now);
            self.lose(lost);
        }
        Ok(())
    }

    fn lane(&self, record: &Received) -> Lane {
        match self.order {
            DeliveryOrder::Total => Some(Bytes::new()),
            DeliveryOrder::Key if !record.key().is_empty() => Some(record.key().clone()),
            _ => None,
        }
    }

    fn take(&mut self, record: Received) {
        let size = record.size();
        let lane = self.lane(&record);
        // What came too late is held unhandled until Leave gives it back: a record that is returned could come again at once.
        if self.is_stopping || self.deliveries >= self.deliveries_max {
            return;
        }
        if self.is_blocked(lane.as_ref(), record.offset().get()) {
            return self.drafts.add(record.fence(), record.offset().get(), Err(Rejection::Return));
        }
        self.deliveries += 1;
        self.held = (self.held.0 + 1, self.held.1 + size);
        match lane {
            Some(lane) => match self.waiting.get_mut(&lane) {
                Some(waiting) => waiting.push_back(record),
                None => {
                    self.waiting.insert(lane, VecDeque::new());
                    self.ready.push_back(record);
                }
            },
            None => self.ready.push_back(record),
        }
    }

    /// Returns true for a record that is ordered after one that was refused a moment ago.
    fn is_blocked(&mut self, lane: Option<&Bytes>, offset: u64) -> bool {
        let Some(lane) = lane else { return false };
        let Some(&(_, refused)) = self.blocked.get(lane) else { return false };
        if offset <= refused {
            self.blocked.remove(lane);
        }
        offset > refused
    }

    /// The next record to handle, if there is one and another handler may run.
    pub(super) fn start(&mut self) -> Option<Received> {
        while self.running.len() < self.concurrency {
            let record = self.ready.pop_front()?;
            let id = (record.fence(), record.offset().get());
            let lane = self.lane(&record);
            if !self.leases.holds(id.0, id.1) {
                self.put_down(record.size());
                self.advance(lane);
                continue;
            }
            self.running.insert(id, Running { lane, size: record.size(), lost: record.lost.clone() });
            return Some(record);
        }
        None
    }

    fn put_down(&mut self, size: u64) {
        self.held = (self.held.0 - 1, self.held.1 - size);
    }

    /// Lets the next record of a lane be handled.
    fn advance(&mut self, lane: Lane) {
        let Some(lane) = lane else { return };
        let next = self.waiting.get_mut(&lane).and_then(VecDeque::pop_front);
        match next {
            Some(next) => self.ready.push_back(next),
            None => drop(self.waiting.remove(&lane)),
        }
    }

    /// A handler has ended.
    pub(super) fn finish(&mut self, fence: u64, offset: u64, handled: Handled) {
        let Some(running) = self.running.remove(&(fence, offset)) else { return };
        self.put_down(running.size);
        if running.lost.is_cancelled() {
            warn!(offset, fence, "the lease was lost: the result of the handler is dropped");
        } else {
            // What follows in the same order waits for this record, and is leased again after it.
            let gives_back = matches!(handled, Err(Rejection::Retry { .. } | Rejection::Return));
            self.drafts.add(fence, offset, handled);
            if let (true, Some(lane)) = (gives_back, &running.lane) {
                self.blocked.insert(lane.clone(), (fence, offset));
                let behind = self.waiting.get_mut(lane).map(std::mem::take).unwrap_or_default();
                self.give_back(behind);
            }
        }
        self.advance(running.lane);
    }

    fn give_back(&mut self, records: VecDeque<Received>) {
        for record in records {
            self.put_down(record.size());
            let (fence, offset) = (record.fence(), record.offset().get());
            if self.leases.holds(fence, offset) {
                self.drafts.add(fence, offset, Err(Rejection::Return));
            }
        }
    }

    fn lose(&mut self, records: Vec<(u64, u64)>) {
        for (fence, offset) in records {
            self.leases.remove(fence, offset);
            if let Some(running) = self.running.get(&(fence, offset)) {
                running.lost.cancel();
                self.summary.lost += 1;
            }
        }
    }

    fn answered(&mut self, outcome: &v1::Outcome) {
        let Some((fence, parts)) = self.drafts.answered(outcome) else { return };
        let result = outcome.result();
        for (offset, part) in parts {
            if !self.blocked.is_empty() && part != Part::Ack {
                self.blocked.retain(|_, refused| *refused != (fence, offset));
            }
            match (result, part) {
                (SettlementResult::Settled, Part::Ack) => self.summary.acknowledged += 1,
                (SettlementResult::Settled, Part::Nack) => self.summary.refused += 1,
                (SettlementResult::Settled, Part::DeadLetter) => self.summary.dead_lettered += 1,
                (SettlementResult::OutOfKeyOrder, Part::Ack | Part::DeadLetter) => {
                    // An earlier record of its key was not settled: this one is handled again after it.
                    self.drafts.add(fence, offset, Err(Rejection::Return));
                    self.summary.lost += 1;
                    continue;
                }
                (_, Part::Return) => self.summary.returned += 1,
                _ => {
                    warn!(offset, fence, "the lease was lost before the record was settled");
                    self.summary.lost += 1;
                }
            }
            self.leases.remove(fence, offset);
        }
        self.unknown_tokens.retain(|_, _| !self.drafts.is_empty());
    }

    /// Stops: what has not begun is given back.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        let records = std::mem::take(&mut self.ready).into_iter().chain(waiting).collect();
        self.give_back(records);
    }

    /// Gives back what is still being handled.
    pub(super) fn abandon(&mut self) {
        for (fence, offset) in self.running.keys().copied().collect::<Vec<_>>() {
            self.finish(fence, offset, Err(Rejection::Return));
        }
    }

    /// Returns true once the limit of deliveries is reached and all of them are handled.
    pub(super) fn is_done(&self) -> bool {
        self.deliveries >= self.deliveries_max && self.held.0 == 0
    }

    /// Returns true if nothing is being handled.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns true if everything that was handled is settled.
    pub(super) fn is_settled(&self) -> bool {
        self.running.is_empty() && self.drafts.is_empty()
    }

    /// The time at which [`Core::tick`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.leases.wakes_at()
    }

    /// Extends leases, and notes which have ended.
    pub(super) fn tick(&mut self, now: Instant) {
        let lost = self.leases.tick(now);
        self.lose(lost);
    }

    /// Returns true if a server has sent so much more than it has credit for that nothing is read until some is handled.
    pub(super) const fn is_full(&self) -> bool {
        self.held.0 > self.held_max.0 + SURPLUS_MAX || self.held.1 > self.held_max.1.saturating_mul(2)
    }

    /// Returns true if there is something to send.
    pub(super) fn has_request(&self) -> bool {
        self.drafts.has_unsent() || self.leases.has_due() || self.credit_now() != self.credit
    }

    /// The next message to send.
    pub(super) fn request(&mut self) -> Option<Kind> {
        if let Some(extend) = self.leases.next() {
            return Some(Kind::Extend(extend));
        }
        let (leases, unknown) = (&self.leases, &self.unknown_tokens);
        let token = |fence| leases.token(fence).or_else(|| unknown.get(&fence).cloned());
        if let Some(settlement) = self.drafts.next(token) {
            return Some(Kind::Settlement(settlement));
        }
        let credit = self.credit_now();
        if credit == self.credit {
            return None;
        }
        self.credit = credit;
        Some(Kind::Credit(v1::Credit { records: credit.0, bytes: credit.1 }))
    }

    /// Records and bytes that the member may hold at a time. A call says it once: the server counts what is not settled.
    fn credit_now(&self) -> (u64, u64) {
        if self.is_stopping || self.credit != (0, 0) {
            return self.credit;
        }
        let left = self.deliveries_max.saturating_sub(self.deliveries);
        (self.held_max.0.min(left), self.held_max.1)
    }

    /// Counts so far.
    pub(super) const fn summary(&self) -> Summary {
        self.summary
    }
}
