//! Reading of the topic: records become known, in order.

use std::collections::BTreeMap;

use super::command::{Done, Effect};
use super::event::{Output, ReadItem};
use super::ids::{Fence, GroupId, KeyHash, Span, push_span};
use super::lanes::{Item, spans_of};
use super::owner::{Owner, Then};
use super::settings::Order;
use super::working::Working;

/// Records that may be leased at once and are kept ready for members without credit.
const READY_MAX: usize = 4096;

impl Owner {
    /// Asks for records if there are more and they have a use.
    pub(super) fn read(&mut self, group: GroupId) {
        let is_owning = self.is_owning();
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        let has_use = !working.deferred.is_empty()
            || working.cursor < working.dead_to
            || (!working.members.is_empty() && working.ready.len() + working.idle.len() < READY_MAX);
        let has_room = working.known_records < state.about.settings.lookahead_max;
        if !is_owning || working.is_reading || working.awaited > 0 || !has_use || !has_room {
            return;
        }
        working.cursor = working.next_open(state, working.cursor);
        if working.tail.is_some_and(|tail| working.cursor < tail) {
            working.is_reading = true;
            let from = working.cursor;
            self.say(Output::Read { group, from });
        }
    }

    /// Takes note of a new tail.
    pub(super) fn tail(&mut self, group: GroupId, tail: u64) {
        if let Some(working) = self.groups.get_mut(&group) {
            working.tail = working.tail.max(Some(tail));
        }
        self.judge_deferred(group);
        self.dispatch(group);
    }

    /// The group at work, if it exists.
    pub(super) fn at_work(&mut self, group: GroupId) -> Option<&mut Working> {
        let state = self.shard.group(group)?;
        let is_new = !self.groups.contains_key(&group);
        let working = self.groups.entry(group).or_insert_with(|| Working::new(state));
        if is_new {
            self.out.push(Output::Watch { group });
        }
        Some(working)
    }

    /// Takes records that were read from `bounds.0` up to `bounds.1`.
    pub(super) fn records(&mut self, group: GroupId, bounds: (u64, u64), tail: u64, items: &[ReadItem]) {
        let (from, next) = bounds;
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        if !working.is_reading || working.cursor != from || working.awaited > 0 {
            return;
        }
        working.is_reading = false;
        working.tail = working.tail.max(Some(tail));
        working.cursor = working.cursor.max(next);
        let (mut gaps, mut known) = (Vec::new(), Vec::new());
        let mut parked: BTreeMap<KeyHash, Vec<Item>> = BTreeMap::new();
        let (mut held, mut lost) = (BTreeMap::<Fence, Vec<Item>>::new(), BTreeMap::<Fence, Vec<Span>>::new());
        let first = items.first().map_or(next, |item| item.offset);
        gaps.extend(Span::new(from, first));
        for (at, read) in items.iter().enumerate() {
            let end = items.get(at + 1).map_or(next, |item| item.offset);
            let len = u16::try_from(end - read.offset).unwrap_or(u16::MAX);
            gaps.extend(Span::new(read.offset + u64::from(len), end));
            if state.progress.is_settled(read.offset) || working.settling.contains(read.offset) {
                continue;
            }
            let lease = working
                .handed_over(read.offset)
                .filter(|fence| self.leases.get(fence).is_some_and(|lease| lease.awaits(read.offset)));
            let (units, key) = (Item::units(read.size), lane_key(state.about.settings.order, read.key));
            let free = Item { offset: read.offset, lane: None, units, len };
            if let Some(key) =
                key.filter(|key| state.parked_keys.contains(key) || working.parking.contains(key))
            {
                working.settling.insert(free.span());
                parked.entry(key).or_default().push(free);
                lease.iter().for_each(|fence| push_span(lost.entry(*fence).or_default(), free.span()));
                continue;
            }
            let holder = lease.and_then(|fence| self.leases.get(&fence)).map(|lease| lease.member);
            push_span(&mut known, free.span());
            working.known_records += 1;
            let item = working.know(free, key, holder, state, self.now);
            match (lease, item) {
                (Some(fence), Some(item)) => held.entry(fence).or_default().push(item),
                (Some(fence), None) => push_span(lost.entry(fence).or_default(), free.span()),
                (None, _) => {}
            }
        }
        known.into_iter().for_each(|span| working.known.insert(span));
        self.adopt_items(held);
        self.tell_lost(lost);
        self.skip(group, gaps, 0);
        for (key, items) in parked {
            self.park(group, Some(key), &items);
        }
        self.judge_deferred(group);
        self.dispatch(group);
    }

    /// Adds records to the leases that were handed over with them.
    fn adopt_items(&mut self, held: BTreeMap<Fence, Vec<Item>>) {
        for (fence, items) in held {
            let Some(lease) = self.leases.get_mut(&fence) else { continue };
            lease.items.extend(&items);
            let member = lease.member;
            self.use_credit(member, &items);
        }
    }

    /// Tells members of records that were handed over with their leases and are theirs no more: an earlier record of the
    /// key went back.
    fn tell_lost(&mut self, lost: BTreeMap<Fence, Vec<Span>>) {
        for (fence, spans) in lost {
            if let Some((group, member)) = self.leases.get(&fence).map(|lease| (lease.group, lease.member)) {
                self.tell_revoked(group, member, fence, spans);
            }
            self.drop_if_empty(fence);
        }
    }

    /// Takes note that the topic does not hold the records before `earliest` any more, `records` of them unread.
    pub(super) fn trimmed(&mut self, group: GroupId, earliest: u64, records: u64) {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        let (mut spans, mut offsets) = (Vec::new(), 0);
        working.is_reading = false;
        if working.awaited > 0 {
            return;
        }
        let mut at = working.next_open(state, working.cursor);
        while at < earliest {
            // Up to the next settled offset; behind the head nothing is settled.
            let bounds = Span { start: at, end: earliest };
            let open = state.progress.open().within(bounds).next().filter(|_| at < state.progress.head());
            let end = open.map_or(earliest, |span| span.end);
            offsets += end - at;
            push_span(&mut spans, Span { start: at, end });
            at = working.next_open(state, end);
        }
        working.cursor = working.cursor.max(earliest);
        self.skip(group, spans, records.min(offsets));
        self.judge_deferred(group);
        self.dispatch(group);
    }

    /// Settles offsets that the topic does not hold.
    fn skip(&mut self, group: GroupId, spans: Vec<Span>, records: u64) {
        if spans.is_empty() {
            return;
        }
        if let Some(working) = self.groups.get_mut(&group) {
            spans.iter().for_each(|&span| working.settling.insert(span));
        }
        let effect = Effect::Settled { group, how: Done::Skipped, records, spans };
        self.append(effect, Then::Settled(Vec::new()), Vec::new());
    }

    /// Sets records aside that are neither known nor in a lane any more.
    pub(super) fn park(&mut self, group: GroupId, key: Option<KeyHash>, items: &[Item]) {
        if let Some(working) = self.groups.get_mut(&group) {
            items.iter().for_each(|item| working.parking_spans.insert(item.span()));
        }
        let effect = Effect::Parked { group, key, records: items.len() as u64, spans: spans_of(items) };
        self.append(effect, Then::Settled(Vec::new()), Vec::new());
    }
}

/// The lane of a record: that of its key, that of all records, or none.
fn lane_key(order: Order, key: Option<KeyHash>) -> Option<KeyHash> {
    match order {
        Order::None => None,
        Order::Key => key,
        Order::Total => Some(KeyHash(0)),
    }
}
