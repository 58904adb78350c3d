//! The owner of a shard: a pure decision. It gets time, records, requests and its own commands once they are stored, and
//! gives commands, leases and answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{Command, Done, Effect};
use super::event::{Input, Now, Output};
use super::ids::{CommandId, Fence, GroupId, SessionId, Span, Term};
use super::lanes::{Item, MemberId, spans_of};
use super::lease::{Lease, Member, Timer};
use super::shard::{Shard, Verdict};
use super::working::{Todo, Working};
use crate::record::Offset;

/// The owner. It confirms nothing before its own fold has reached the command and found it valid.
#[derive(Debug)]
pub struct Owner {
    pub(super) term: Term,
    /// Number of the last command.
    number: u64,
    /// Number of leases in this term.
    leases_given: u64,
    phase: Phase,
    /// True once it writes nothing but the end of its term.
    pub(super) is_leaving: bool,
    /// Bytes of the shard when its size was last considered.
    pub(super) considered_at: u64,
    pub(super) shard: Shard,
    pub(super) now: Now,
    pub(super) groups: BTreeMap<GroupId, Working>,
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) sessions: BTreeMap<SessionId, MemberId>,
    pub(super) next_member: u64,
    pub(super) leases: BTreeMap<Fence, Lease>,
    timers: BTreeSet<(u64, Timer)>,
    /// None for an owner that no other can follow while it lives.
    tenure: Option<Tenure>,
    /// Time until which it may give leases.
    right_until: u64,
    /// Time at which its newest command was appended.
    appended_at: u64,
    /// Commands that the fold has not reached, in order.
    unfolded: VecDeque<Unfolded>,
    pub(super) out: Vec<Output>,
    /// Groups in which something may have become available since the last outputs were taken.
    changed: BTreeSet<GroupId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first command of the term is not folded.
    Beginning,
    /// It owns the shard.
    Owning,
    /// It handed the shard over, or another one owns it.
    Ended,
}

/// Times of an owner that another replica follows once it is silent.
#[derive(Clone, Copy, Debug)]
pub struct Tenure {
    /// Random number of the owner, not 0.
    pub id: u64,
    /// Time after which it says that it is alive, in milliseconds.
    pub renew_ms: u64,
    /// Time for which it may give leases after it appended a command that it found to be valid, in milliseconds. Less
    /// than the time after which another replica follows.
    pub right_ms: u64,
}

/// A command that was appended.
#[derive(Debug)]
struct Unfolded {
    command: Command,
    at: u64,
    then: Then,
    answers: Vec<Output>,
}

/// Step that follows once a command is durable.
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// The lanes of settled records go on.
    Settled(Vec<Item>),
    /// Records may be leased again.
    Back(Vec<Item>),
    /// The group begins anew with its state.
    Begin(GroupId),
    /// The group has other settings.
    Reconsider(GroupId),
    /// Commands before the oldest state are not needed any more.
    Trim,
}

impl Owner {
    /// Begins the next term of a shard that was folded up to its tail. The caller knows that the former owner is gone,
    /// or gives no more leases.
    #[must_use]
    pub fn begin(mut shard: Shard, now: Now, tenure: Option<Tenure>) -> Self {
        let after = shard.last();
        shard.shorten_delays(now.wall);
        let mut owner = Self {
            term: Term(after.term.0 + 1),
            number: 0,
            leases_given: 0,
            phase: Phase::Beginning,
            is_leaving: false,
            considered_at: 0,
            shard,
            now,
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_member: 1,
            leases: BTreeMap::new(),
            timers: BTreeSet::new(),
            tenure,
            right_until: if tenure.is_some() { 0 } else { u64::MAX },
            appended_at: now.millis,
            unfolded: VecDeque::new(),
            out: Vec::new(),
            changed: BTreeSet::new(),
        };
        owner.append(Effect::Own { after, owner: owner.id() }, Then::Nothing, Vec::new());
        owner
    }

    /// The fold.
    #[must_use]
    pub const fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Returns true while it may give leases.
    #[must_use]
    pub fn is_owning(&self) -> bool {
        self.phase == Phase::Owning && !self.is_leaving
    }

    /// Returns true once another one owns the shard, or may.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Returns true if its leases may be handed out now: it knows that no other owner has followed.
    #[must_use]
    pub const fn has_right(&self) -> bool {
        self.now.millis < self.right_until
    }

    /// Time up to which leases that it gave may be handed out.
    #[must_use]
    pub const fn right_until(&self) -> u64 {
        self.right_until
    }

    /// Time at which the owner next needs an input, if none comes before.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.renews_at()).min()
    }

    /// Time at which it says that it is alive; none while an earlier command is on its way.
    fn renews_at(&self) -> Option<u64> {
        let is_due = self.is_owning() && self.unfolded.is_empty();
        self.tenure.filter(|_| is_due).map(|tenure| self.appended_at + tenure.renew_ms)
    }

    /// Takes note that a command, which was appended at a time, is valid.
    fn prove(&mut self, appended_at: u64) {
        let Some(tenure) = self.tenure else { return };
        let had_right = self.has_right();
        self.right_until = self.right_until.max(appended_at + tenure.right_ms);
        if !had_right && self.has_right() {
            let groups: Vec<GroupId> = self.groups.keys().copied().collect();
            groups.into_iter().for_each(|group| self.dispatch(group));
        }
    }

    /// Commands that the fold has not reached, to be stored again where the outcome of storing them is not known.
    pub fn unfolded(&self) -> impl Iterator<Item = &Command> {
        self.unfolded.iter().map(|unfolded| &unfolded.command)
    }

    /// The acts decided since the last call. What became available is leased only now, so that what many inputs free makes
    /// one lease.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        while let Some(group) = self.changed.pop_first() {
            self.lease_available(group);
        }
        std::mem::take(&mut self.out)
    }

    /// Leases what is available in a group, once all inputs are handled.
    pub(super) fn dispatch(&mut self, group: GroupId) {
        self.changed.insert(group);
    }

    /// Number of the owner among those that may begin the same term.
    fn id(&self) -> u64 {
        self.tenure.map_or(0, |tenure| tenure.id)
    }

    /// Takes the command that is stored in the shard at `at`, whoever wrote it.
    pub fn fold(&mut self, now: Now, at: Offset, size: usize, command: &Command) {
        self.now = now;
        let verdict = self.shard.apply(at, size, command);
        if self.shard.last().term > self.term {
            self.end();
        }
        let is_of_other = matches!(command.effect, Effect::Own { owner, .. } if owner != self.id());
        let is_own = command.id.term == self.term && !is_of_other;
        if command.id.term == self.term && is_of_other && verdict == Verdict::Valid {
            // Another replica began the term first.
            self.end();
        }
        if is_own && verdict == Verdict::Valid && self.phase != Phase::Ended {
            self.folded(command.id);
        } else if is_own && matches!(command.effect, Effect::Own { .. }) && self.phase == Phase::Beginning {
            self.end();
        }
        self.work();
    }

    fn folded(&mut self, id: CommandId) {
        if self.unfolded.front().is_none_or(|front| front.command.id != id) {
            return;
        }
        let Some(folded) = self.unfolded.pop_front() else {
            return;
        };
        match folded.command.effect {
            Effect::Own { .. } => {
                self.phase = Phase::Owning;
                self.adopt();
            }
            Effect::Handover { .. } => return self.end(),
            _ => {}
        }
        self.prove(folded.at);
        let group = group_of(&folded.command.effect);
        match folded.then {
            Then::Nothing => {}
            Then::Settled(items) => self.after_settled(&folded.command.effect, &items),
            Then::Back(items) => self.after_back(group, &items),
            Then::Begin(id) => self.after_begin(id),
            Then::Reconsider(id) => self.reconsider(id),
            Then::Trim => self.out.push(Output::Trim(self.shard.needed_from())),
        }
        self.out.extend(folded.answers);
        if let Some(group) = group {
            self.dispatch(group);
        }
    }

    /// Ends the ownership: nothing that is not confirmed will be.
    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.groups.clear();
        self.leases.clear();
        self.members.clear();
        self.sessions.clear();
        self.timers.clear();
        self.unfolded.clear();
        // What is durable stays true.
        self.out.retain(|output| matches!(output, Output::Settled { .. } | Output::Done { .. }));
    }

    /// Reacts to an event.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        if self.phase == Phase::Ended || self.is_leaving {
            return;
        }
        match input {
            Input::Create { ticket, group, about, start } => self.create(ticket, group, about, start),
            Input::Restore { ticket, group, state } => self.restore(ticket, group, &state),
            Input::Update { ticket, group, settings } => self.update(ticket, group, settings),
            Input::Remove { ticket, group } => self.remove(ticket, group),
            Input::Seek { ticket, group, to } => self.seek(ticket, group, to),
            Input::Reopen { ticket, group, redriven_to, spans } => {
                self.reopen(ticket, group, redriven_to, spans);
            }
            Input::Unpark { ticket, group } => self.unpark(ticket, group),
            Input::Join { ticket, group, session, stream } => self.join(ticket, group, session, stream),
            Input::Credit { session, stream, records, bytes } => {
                self.credit(session, stream, (records, bytes))
            }
            Input::LeaseOnce { group, session, stream, records, bytes } => {
                self.lease_once(group, (session, stream), (records, bytes));
            }
            Input::StopWaiting { session, stream } => self.stop_waiting(session, stream),
            Input::Cut { session, stream } => self.cut(session, stream),
            Input::Leave { ticket, session } => self.leave(ticket, session),
            Input::Settle(settlement) => self.settle(settlement),
            Input::Extend { ticket, group, fence, millis } => self.extend(ticket, group, fence, millis),
            Input::Records { group, from, next, tail, items } => {
                self.records(group, (from, next), tail, &items)
            }
            Input::Trimmed { group, earliest, records } => self.trimmed(group, earliest, records),
            Input::Tail { group, tail } => self.tail(group, tail),
            Input::DeadLetter { group, offset, copied } => self.dead_lettered(group, offset, copied),
            Input::Tick => {}
        }
        self.work();
    }

    /// Does what is due, and what the last change of records' states made necessary.
    fn work(&mut self) {
        if !self.is_owning() {
            return;
        }
        while let Some(&(at, timer)) = self.timers.first()
            && at <= self.now.millis
        {
            self.timers.pop_first();
            self.fire(timer);
        }
        if self.renews_at().is_some_and(|at| at <= self.now.millis) {
            self.append(Effect::Renew, Then::Nothing, Vec::new());
        }
        self.compact();
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Lease(fence) => self.expire(fence),
            Timer::Session(member) => self.end_session_if_due(member),
            Timer::Free(group, offset) => {
                if let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) {
                    working.consider_free(offset, state, self.now);
                }
                self.dispatch(group);
            }
            Timer::Lane(group, lane) => {
                if let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group))
                    && working.lanes.is_live(lane)
                {
                    working.unlist(lane);
                    working.consider_lane(lane, state, self.now);
                }
                self.dispatch(group);
            }
        }
    }

    /// Carries out what changes of records' states made necessary.
    pub(super) fn do_todo(&mut self, group: GroupId) {
        while let Some(todo) = self.groups.get_mut(&group).and_then(|working| working.todo.pop()) {
            match todo {
                Todo::FreeAt(at, offset) => self.set_timer(at, Timer::Free(group, offset)),
                Todo::LaneAt(at, lane) => self.set_timer(at, Timer::Lane(group, lane)),
                Todo::Poison(item) => self.discard(group, item),
            }
        }
    }

    pub(super) fn set_timer(&mut self, at: u64, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Adds a lease, with an alarm for its deadline.
    pub(super) fn add_lease(&mut self, fence: Fence, lease: Lease) {
        if let Some(member) = self.members.get_mut(&lease.member) {
            member.leases.insert(fence);
        }
        self.timers.insert((lease.rings, Timer::Lease(fence)));
        self.leases.insert(fence, lease);
    }

    /// Removes a lease and its alarm, so that those of settled leases do not gather until their deadlines.
    pub(super) fn remove_lease(&mut self, fence: Fence) -> Option<Lease> {
        let lease = self.leases.remove(&fence)?;
        self.timers.remove(&(lease.rings, Timer::Lease(fence)));
        if let Some(member) = self.members.get_mut(&lease.member) {
            member.leases.remove(&fence);
        }
        Some(lease)
    }

    pub(super) fn say(&mut self, output: Output) {
        self.out.push(output);
    }

    /// Appends a command. The answers are given once it is durable.
    pub(super) fn append(&mut self, effect: Effect, then: Then, answers: Vec<Output>) {
        self.number += 1;
        let command = Command { id: CommandId { term: self.term, number: self.number }, effect };
        self.out.push(Output::Append(command.clone()));
        self.appended_at = self.now.millis;
        self.unfolded.push_back(Unfolded { command, at: self.now.millis, then, answers });
    }

    /// Adds settled records to the last command if that settles records of the group likewise and is not taken yet.
    /// Returns false if it does not.
    pub(super) fn settled_with_last(&mut self, group: GroupId, how: Done, items: &[Item]) -> bool {
        let (Some(Output::Append(last)), Some(unfolded)) = (self.out.last_mut(), self.unfolded.back_mut())
        else {
            return false;
        };
        if last.id != unfolded.command.id || !add_settled(&mut last.effect, group, how, items) {
            return false;
        }
        add_settled(&mut unfolded.command.effect, group, how, items);
        if let Then::Settled(in_lanes) = &mut unfolded.then {
            in_lanes.extend(items.iter().filter(|item| item.lane.is_some()));
        }
        true
    }

    /// Gives an answer once everything decided so far is durable.
    pub(super) fn answer_when_durable(&mut self, answer: Output) {
        match self.unfolded.back_mut() {
            Some(last) => last.answers.push(answer),
            None => self.out.push(answer),
        }
    }

    /// Effects on a group that the fold has not reached.
    pub(super) fn unfolded_effects(&self, group: GroupId) -> impl Iterator<Item = &Effect> {
        let effects = self.unfolded.iter().map(|unfolded| &unfolded.command.effect);
        effects.filter(move |effect| group_of(effect) == Some(group))
    }

    /// Nothing follows any more from what is under way in a group, because the group begins anew.
    pub(super) fn forget_unfolded(&mut self, group: GroupId) {
        for unfolded in &mut self.unfolded {
            if group_of(&unfolded.command.effect) == Some(group)
                && matches!(unfolded.then, Then::Settled(_) | Then::Back(_) | Then::Reconsider(_))
            {
                unfolded.then = Then::Nothing;
            }
        }
    }

    /// The newest fence of this term.
    pub(super) fn newest_fence(&self) -> Fence {
        Fence::new(self.term, self.leases_given)
    }

    /// The fence of a new lease.
    pub(super) fn next_fence(&mut self) -> Fence {
        self.leases_given += 1;
        self.newest_fence()
    }
}

/// The group that an effect is on.
pub(super) const fn group_of(effect: &Effect) -> Option<GroupId> {
    match effect {
        Effect::State { group, .. }
        | Effect::Removed { group }
        | Effect::Settled { group, .. }
        | Effect::Failed { group, .. }
        | Effect::Returned { group, .. }
        | Effect::Sought { group, .. }
        | Effect::Parked { group, .. }
        | Effect::Reopened { group, .. }
        | Effect::Unparked { group, .. } => Some(*group),
        Effect::Own { .. } | Effect::Renew | Effect::Handover { .. } => None,
    }
}

/// Most spans of a command that settles records of several settlements.
const SETTLED_SPANS_MAX: usize = 4096;

/// Adds records to an effect that settles others of the group likewise. Returns false if it does not, or is full.
fn add_settled(effect: &mut Effect, group: GroupId, how: Done, items: &[Item]) -> bool {
    let Effect::Settled { group: of, how: likewise, records, spans } = effect else {
        return false;
    };
    if (*of, *likewise) != (group, how) || spans.len() >= SETTLED_SPANS_MAX {
        return false;
    }
    *records += items.len() as u64;
    spans_of(items).into_iter().for_each(|span| insert_span(spans, span));
    true
}

/// Adds a record's span to a list in order that does not hold it, and merges it with those that it touches.
fn insert_span(spans: &mut Vec<Span>, span: Span) {
    let at = spans.partition_point(|other| other.end < span.start);
    match spans.get_mut(at) {
        Some(before) if before.end == span.start => {
            before.end = span.end;
            if spans.get(at + 1).is_some_and(|after| after.start == span.end) {
                spans[at].end = spans.remove(at + 1).end;
            }
        }
        Some(after) if after.start == span.end => after.start = span.start,
        _ => spans.insert(at, span),
    }
}
