//! A simulated world: the shard's log, its owner and a former one, a topic, and members.

use std::collections::BTreeMap;

use super::judge::Judge;
use crate::group::logic::{
    About, Act, Command, Copied, Fence, Grant, GroupId, GroupName, GroupState, HandedLease, Input, KeyHash,
    Now, Order, Outcome, Output, Owner, ReadItem, SessionId, Settings, Settlement, Shard, Span, Tenure, Term,
    Ticket, decode, encode,
};
use crate::record::{Epoch, Offset, TopicName, UnixMicros};

pub(super) const GROUP: GroupId = GroupId(7);

pub(super) fn about(order: Order) -> About {
    About {
        topic: TopicName::parse("orders").unwrap(),
        epoch: Epoch::new(1),
        name: GroupName::parse("billing").unwrap(),
        past_terms: Term::default(),
        created: UnixMicros(1),
        settings: Settings { order, ..Settings::default() },
    }
}

/// An owner, and the commands that it sent and that are not stored yet.
pub(super) struct Replica {
    pub owner: Owner,
    pub outbox: Vec<Command>,
    folded: usize,
}

/// A member as its process sees it.
#[derive(Default)]
pub(super) struct Worker {
    pub session: u128,
    pub stream: u64,
    pub is_connected: bool,
    pub held: Vec<(Fence, Vec<u64>)>,
}

pub(super) struct World {
    pub now: u64,
    /// Milliseconds by which the wall clock is behind.
    pub clock_behind: u64,
    /// Stored commands; those before `trimmed` are gone.
    pub log: Vec<Vec<u8>>,
    pub trimmed: usize,
    pub truth: Shard,
    pub current: Replica,
    pub former: Option<Replica>,
    pub keys: Vec<Option<u8>>,
    pub order: Order,
    pub workers: Vec<Worker>,
    pub judge: Judge,
    pub refuses_copies: bool,
    /// Times of the next owners.
    pub tenure: Option<Tenure>,
    tickets: BTreeMap<Ticket, (Fence, Vec<(Span, Act)>)>,
    last_ticket: u64,
    last_session: u128,
    pub answers: BTreeMap<Ticket, Vec<(Span, Outcome)>>,
    /// Records of every lease that was given.
    given: BTreeMap<Fence, Vec<Span>>,
    seeks: BTreeMap<Ticket, u64>,
    pub done: Vec<Ticket>,
    /// Sessions of calls that get one lease.
    calls: Vec<SessionId>,
    /// Streams of calls that got no lease.
    pub empty: Vec<u64>,
    /// Leases that the last join listed.
    pub listed: Vec<HandedLease>,
    pub failure: Option<String>,
}

impl World {
    pub(super) fn new(about: About, workers: usize) -> Self {
        let order = about.settings.order;
        let owner = Owner::begin(Shard::new(), Now::default(), None);
        let mut world = Self {
            now: 0,
            clock_behind: 0,
            log: Vec::new(),
            trimmed: 0,
            truth: Shard::new(),
            current: Replica { owner, outbox: Vec::new(), folded: 0 },
            former: None,
            keys: Vec::new(),
            order,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            judge: Judge::default(),
            refuses_copies: false,
            tenure: None,
            tickets: BTreeMap::new(),
            last_ticket: 0,
            last_session: 0,
            answers: BTreeMap::new(),
            given: BTreeMap::new(),
            seeks: BTreeMap::new(),
            done: Vec::new(),
            calls: Vec::new(),
            empty: Vec::new(),
            listed: Vec::new(),
            failure: None,
        };
        let ticket = world.ticket();
        world.tell(Input::Create { ticket, group: GROUP, about, start: 0 });
        world.settle_down();
        world
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    pub(super) fn at(&self) -> Now {
        Now { millis: self.now, wall: UnixMicros(1_000_000_000 + self.now * 1000 - self.clock_behind * 1000) }
    }

    pub(super) fn state(&self) -> &GroupState {
        self.truth.group(GROUP).expect("the group was created")
    }

    pub(super) fn tell(&mut self, input: Input) {
        let now = self.at();
        self.current.owner.handle(now, input);
        self.carry_out(false);
    }

    pub(super) fn tell_former(&mut self, input: Input) {
        let now = self.at();
        if let Some(former) = &mut self.former {
            former.owner.handle(now, input);
        }
        self.carry_out(true);
    }

    /// Stores the first commands of an outbox, or all.
    pub(super) fn store(&mut self, of_former: bool, count: usize) {
        let replica = if of_former { self.former.as_mut() } else { Some(&mut self.current) };
        let Some(replica) = replica else { return };
        let count = count.min(replica.outbox.len());
        for command in replica.outbox.drain(..count) {
            let bytes = encode(&command);
            let at = Offset::new(self.log.len() as u64);
            self.truth.apply(at, bytes.len(), &decode(&bytes).expect("just encoded"));
            self.log.push(bytes);
        }
    }

    /// An owner folds everything that is stored.
    pub(super) fn fold(&mut self, of_former: bool) {
        loop {
            let now = self.at();
            let replica = if of_former { self.former.as_mut() } else { Some(&mut self.current) };
            let Some(replica) = replica else { return };
            let Some(bytes) = self.log.get(replica.folded) else {
                return;
            };
            let at = Offset::new(replica.folded as u64);
            replica.folded += 1;
            replica.owner.fold(now, at, bytes.len(), &decode(bytes).expect("stored by us"));
            self.carry_out(of_former);
        }
    }

    /// Stores and folds until nothing is left to do.
    pub(super) fn settle_down(&mut self) {
        while !self.current.outbox.is_empty() || self.current.folded < self.log.len() {
            self.store(false, usize::MAX);
            self.fold(false);
        }
    }

    fn carry_out(&mut self, of_former: bool) {
        loop {
            let replica = if of_former { self.former.as_mut() } else { Some(&mut self.current) };
            let Some(replica) = replica else { return };
            let outputs = replica.owner.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.act(of_former, output);
            }
        }
    }

    fn act(&mut self, of_former: bool, output: Output) {
        let now = self.at();
        let replica = if of_former { self.former.as_mut() } else { Some(&mut self.current) };
        let Some(replica) = replica else { return };
        match output {
            Output::Append(command) => replica.outbox.push(command),
            Output::Watch { group } => {
                let tail = self.keys.len() as u64;
                replica.owner.handle(now, Input::Tail { group, tail });
            }
            Output::Trim(before) => self.trim(before),
            Output::Read { from, .. } => {
                let input = read(&self.keys, from);
                replica.owner.handle(now, input);
            }
            Output::DeadLetter { group, offset, .. } => {
                let copied = if self.refuses_copies { Copied::Refused } else { Copied::Stored };
                if copied == Copied::Stored && !of_former {
                    self.judge.dead_lettered(offset);
                }
                replica.owner.handle(now, Input::DeadLetter { group, offset, copied });
            }
            Output::Joined { session, leases, .. } => self.joined(session, leases),
            Output::Lease(grant) => self.leased(of_former, grant),
            Output::Revoked { session, fence, spans, .. } => {
                for offset in spans.iter().flat_map(|span| span.start..span.end) {
                    self.lose(session, fence, offset);
                }
            }
            Output::Settled { ticket, outcomes } => {
                let folded = replica.owner.shard().group(GROUP).cloned();
                self.settled(ticket, outcomes, folded);
            }
            Output::Done { ticket } => {
                if let Some(to) = self.seeks.remove(&ticket) {
                    self.judge.sought(to);
                }
                self.done.push(ticket);
            }
            Output::Empty { stream } => self.empty.push(stream),
            Output::Extended { .. } | Output::Refused { .. } | Output::Gone { .. } => {}
        }
    }

    /// Trims the log, after checking that a fold of the rest comes to the same groups.
    fn trim(&mut self, before: Offset) {
        self.trimmed = self.trimmed.max(before.get() as usize);
        let mut rest = Shard::trimmed();
        for (at, bytes) in self.log.iter().enumerate().skip(self.trimmed) {
            rest.apply(Offset::new(at as u64), bytes.len(), &decode(bytes).unwrap());
        }
        let same = rest.groups().eq(self.truth.groups()) && rest.last() == self.truth.last();
        if !same {
            self.failure = Some("a trimmed shard has another state".to_owned());
        }
    }

    fn joined(&mut self, session: SessionId, leases: Vec<HandedLease>) {
        self.judge.taken_up(session, &leases);
        self.listed.clone_from(&leases);
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.session == session.0) else {
            return;
        };
        worker.is_connected = true;
        worker.held.retain(|(fence, _)| leases.iter().any(|lease| lease.fence == *fence));
    }

    fn leased(&mut self, of_former: bool, grant: Grant) {
        let is_current = !of_former && grant.fence.term() == self.truth.last().term;
        self.given.insert(grant.fence, grant.spans.iter().map(|(span, _)| *span).collect());
        let mut offsets = Vec::new();
        for offset in grant.spans.iter().flat_map(|(span, _)| span.start..span.end) {
            let earlier: Vec<u64> = match (self.order, self.keys[offset as usize]) {
                (Order::Total, _) => (0..offset).collect(),
                (Order::Key, Some(key)) => {
                    (0..offset).filter(|at| self.keys[*at as usize] == Some(key)).collect()
                }
                _ => Vec::new(),
            };
            let state = self.truth.group(GROUP).expect("leased records have a group");
            let judged = self.judge.lease(offset, (grant.fence, grant.session), is_current, &earlier, state);
            self.failure = self.failure.take().or(judged.err());
            offsets.push(offset);
        }
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.session == grant.session.0) {
            worker.held.push((grant.fence, offsets));
        }
    }

    fn lose(&mut self, session: SessionId, fence: Fence, offset: u64) {
        self.judge.ended(offset, fence);
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.session == session.0) {
            worker.held.iter_mut().filter(|(f, _)| *f == fence).for_each(|(_, o)| o.retain(|o| *o != offset));
            worker.held.retain(|(_, offsets)| !offsets.is_empty());
        }
    }

    fn settled(&mut self, ticket: Ticket, outcomes: Vec<(Span, Outcome)>, folded: Option<GroupState>) {
        let (fence, acts) = self.tickets[&ticket].clone();
        let acked: Vec<Span> =
            acts.iter().filter(|(_, act)| *act == Act::Ack).map(|(span, _)| *span).collect();
        for (span, outcome) in &outcomes {
            for offset in span.start..span.end {
                if *outcome != Outcome::Settled {
                    self.judge.refused(offset, fence);
                } else if acked.iter().any(|span| span.contains(offset)) {
                    // A former owner may confirm late what a seek has undone since.
                    let is_undone = !self.state().progress.is_settled(offset);
                    let folded = folded.as_ref().expect("the group is there");
                    let judged = self.judge.confirmed(offset, fence, folded, is_undone);
                    self.failure = self.failure.take().or(judged.err());
                }
            }
        }
        self.answers.insert(ticket, outcomes);
    }

    /// A worker joins with a new session.
    pub(super) fn join(&mut self, worker: usize, credit: u64) {
        self.last_session += 1;
        let worker = &mut self.workers[worker];
        (worker.session, worker.held) = (self.last_session, Vec::new());
        let session = worker.session;
        self.rejoin_session(session, credit);
    }

    /// A worker waits for one lease, without a session.
    pub(super) fn lease_once(&mut self, worker: usize, records: u64) {
        self.last_session += 1;
        let worker = &mut self.workers[worker];
        (worker.session, worker.held) = (self.last_session, Vec::new());
        self.calls.push(SessionId(self.last_session));
        worker.stream += 1;
        let (session, stream) = (SessionId(worker.session), worker.stream);
        self.tell(Input::LeaseOnce { group: GROUP, session, stream, records, bytes: 1 << 30 });
    }

    /// A worker waits no longer for its lease.
    pub(super) fn stop_waiting(&mut self, worker: usize) {
        let worker = &self.workers[worker];
        let (session, stream) = (SessionId(worker.session), worker.stream);
        self.tell(Input::StopWaiting { session, stream });
    }

    /// A worker takes its session up again.
    pub(super) fn rejoin(&mut self, worker: usize, credit: u64) {
        let session = self.workers[worker].session;
        if session != 0 {
            self.rejoin_session(session, credit);
        }
    }

    fn rejoin_session(&mut self, session: u128, credit: u64) {
        let worker = self.workers.iter_mut().find(|worker| worker.session == session).expect("a worker's");
        worker.stream += 1;
        let (stream, session) = (worker.stream, SessionId(session));
        let ticket = self.ticket();
        self.tell(Input::Join { ticket, group: GROUP, session, stream });
        self.tell(Input::Credit { session, stream, records: credit, bytes: 1 << 30 });
    }

    pub(super) fn cut(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.is_connected = false;
        let (session, stream) = (SessionId(worker.session), worker.stream);
        self.judge.cut_off(session);
        self.tell(Input::Cut { session, stream });
    }

    pub(super) fn leave(&mut self, worker: usize) {
        let session = SessionId(self.workers[worker].session);
        self.judge.session_ended(session);
        let ticket = self.ticket();
        self.tell(Input::Leave { ticket, session });
        self.workers[worker].held.clear();
    }

    pub(super) fn seek(&mut self, to: u64) {
        let ticket = self.ticket();
        self.seeks.insert(ticket, to);
        self.tell(Input::Seek { ticket, group: GROUP, to });
    }

    /// Sends a settlement.
    pub(super) fn send(&mut self, fence: Fence, acts: Vec<(Span, Act)>, to_former: bool) -> Ticket {
        let ticket = self.ticket();
        for (span, act) in &acts {
            for offset in span.start..span.end {
                match act {
                    Act::Ack => self.judge.acked(offset, fence, !to_former),
                    // The end of the lease, if there is one, is the member's own will.
                    _ if !to_former => self.judge.given_up(offset, fence),
                    _ => {}
                }
            }
        }
        self.send_unjudged(ticket, fence, acts, to_former);
        ticket
    }

    /// Sends a settlement with a token that was never given.
    pub(super) fn forge(&mut self, fence: Fence, acts: Vec<(Span, Act)>) {
        let ticket = self.ticket();
        self.send_unjudged(ticket, fence, acts, false);
    }

    fn send_unjudged(&mut self, ticket: Ticket, fence: Fence, acts: Vec<(Span, Act)>, to_former: bool) {
        self.tickets.insert(ticket, (fence, acts.clone()));
        let held = self.given.get(&fence).cloned().unwrap_or_default();
        let input = Input::Settle(Settlement { ticket, group: GROUP, fence, held, acts });
        if to_former { self.tell_former(input) } else { self.tell(input) }
    }

    pub(super) fn publish(&mut self, keys: &[Option<u8>]) {
        self.keys.extend(keys);
        let tail = self.keys.len() as u64;
        self.tell(Input::Tail { group: GROUP, tail });
    }

    pub(super) fn advance(&mut self, millis: u64) {
        self.now += millis;
        self.tell(Input::Tick);
    }

    /// The owner hands over, and everything is stored.
    pub(super) fn hand_over(&mut self) {
        let now = self.at();
        self.current.owner.hand_over(now);
        self.advance(0);
        self.settle_down();
    }

    /// The owner's process stops, or only stalls: another one takes over. Its members come back by themselves.
    pub(super) fn take_over(&mut self, keeps_former: bool) {
        let mut shard = if self.trimmed == 0 { Shard::new() } else { Shard::trimmed() };
        for (at, bytes) in self.log.iter().enumerate().skip(self.trimmed) {
            shard.apply(Offset::new(at as u64), bytes.len(), &decode(bytes).unwrap());
        }
        // Nobody tells a call that its lease ended in a later term.
        self.calls.drain(..).for_each(|call| self.judge.cut_off(call));
        self.judge.taken_over(shard.is_free().then(|| shard.handed_over()));
        let owner = Owner::begin(shard, self.at(), self.tenure);
        let next = Replica { owner, outbox: Vec::new(), folded: self.log.len() };
        let former = std::mem::replace(&mut self.current, next);
        self.former = keeps_former.then_some(former);
        self.carry_out(false);
        self.settle_down();
        for at in 0..self.workers.len() {
            if self.workers[at].is_connected {
                let held = std::mem::take(&mut self.workers[at].held);
                self.rejoin(at, 8);
                // The tokens of the former owner still count, though the new one does not know the leases.
                self.workers[at].held.splice(0..0, held);
            }
        }
    }
}

/// Answers a read with at most 7 records.
fn read(keys: &[Option<u8>], from: u64) -> Input {
    let (tail, next) = (keys.len() as u64, (from + 7).min(keys.len() as u64));
    let item = |offset: u64| ReadItem {
        offset,
        size: 100,
        key: keys[offset as usize].map(|key| KeyHash(u64::from(key) + 1)),
    };
    Input::Records { group: GROUP, from, next, tail, items: (from..next).map(item).collect() }
}
