//! The order in which request ids are forgotten: the ids of each owner, by time.

use std::collections::{BTreeSet, HashMap, VecDeque};

use hashbrown::HashTable;

use super::entry::Owner;
use super::slots::{Place, Slots};
use crate::record::UnixMicros;

/// Time at which an id was stored, and its place.
type Timed = (UnixMicros, Place);

/// The ids of one owner, by the time they were stored.
#[derive(Debug)]
pub struct Ids {
    owner: Owner,
    /// Ids that arrived in order of time. The old entry of an id that was stored again stays here until its time comes
    /// to the front.
    pub in_order: VecDeque<Timed>,
    /// Ids that arrived after a newer one.
    pub late: BTreeSet<Timed>,
    /// Number of ids that are remembered.
    pub count: usize,
    /// Upper bound of `count`: the owner is listed under this number in [`Order::by_size`].
    pub filed_count: usize,
    /// Time no later than that of the oldest id: the owner is listed under this time in [`Order::by_age`].
    pub filed_time: UnixMicros,
}

impl Ids {
    /// Returns the oldest id.
    pub fn oldest(&self) -> Option<Timed> {
        match (self.in_order.front(), self.late.first()) {
            (Some(a), Some(b)) => Some(*a.min(b)),
            (a, b) => a.or(b).copied(),
        }
    }
}

/// The order in which ids are forgotten. An owner's entries in the two sets are bounds. They are not corrected with
/// every id, but only when they are read or would no longer be bounds.
#[derive(Debug, Default)]
pub struct Order {
    numbers: HashMap<Owner, u32>,
    /// Owners by number. The number of an owner without ids is free.
    pub owners: Vec<Ids>,
    free: Vec<u32>,
    /// Owners by an upper bound of their number of ids.
    pub by_size: BTreeSet<(usize, u32)>,
    /// Owners by a lower bound of the time of their oldest id.
    pub by_age: BTreeSet<(UnixMicros, u32)>,
    holds_unknown: bool,
}

impl Order {
    /// True if there are ids of the owner.
    pub fn holds(&self, owner: Owner) -> bool {
        if owner == Owner::UNKNOWN { self.holds_unknown } else { self.numbers.contains_key(&owner) }
    }

    fn number(&mut self, owner: Owner, at: UnixMicros) -> u32 {
        if let Some(number) = self.numbers.get(&owner) {
            return *number;
        }
        let (in_order, late) = (VecDeque::new(), BTreeSet::new());
        let ids = Ids { owner, in_order, late, count: 0, filed_count: 0, filed_time: at };
        let number = if let Some(number) = self.free.pop() {
            self.owners[number as usize] = ids;
            number
        } else {
            self.owners.push(ids);
            u32::try_from(self.owners.len() - 1).expect("there are no more owners than ids")
        };
        self.numbers.insert(owner, number);
        self.by_size.insert((0, number));
        self.by_age.insert((at, number));
        self.holds_unknown |= owner == Owner::UNKNOWN;
        number
    }

    /// Adds an id.
    pub fn add(&mut self, owner: Owner, at: UnixMicros, place: Place) {
        let number = self.number(owner, at);
        let ids = &mut self.owners[number as usize];
        ids.count += 1;
        if ids.in_order.back().is_none_or(|newest| newest.0 <= at) {
            ids.in_order.push_back((at, place));
        } else {
            ids.late.insert((at, place));
        }
        if ids.count > ids.filed_count {
            let filed = ids.count + ids.count / 8;
            self.by_size.insert((filed, number));
            self.by_size.remove(&(ids.filed_count, number));
            ids.filed_count = filed;
        }
        if at < ids.filed_time {
            self.by_age.insert((at, number));
            self.by_age.remove(&(ids.filed_time, number));
            ids.filed_time = at;
        }
    }

    /// Removes and returns the oldest entry of an owner. Its id may have been stored again since.
    pub fn pop(&mut self, number: u32) -> Option<Place> {
        let ids = &mut self.owners[number as usize];
        let oldest = ids.oldest()?;
        if ids.in_order.front() == Some(&oldest) {
            ids.in_order.pop_front();
        } else {
            ids.late.pop_first();
        }
        Some(oldest.1)
    }

    /// Decrements the number of ids of an owner.
    pub fn discount(&mut self, number: u32, slots: &mut Slots) {
        let ids = &mut self.owners[number as usize];
        ids.count -= 1;
        if ids.count > 0 {
            return;
        }
        self.by_size.remove(&(ids.filed_count, number));
        self.by_age.remove(&(ids.filed_time, number));
        // The entries that are left belong to ids that were stored again for another owner.
        let left = std::mem::take(&mut ids.in_order).into_iter().chain(std::mem::take(&mut ids.late));
        left.for_each(|(_, place)| slots.free(place.slot));
        self.holds_unknown &= ids.owner != Owner::UNKNOWN;
        self.numbers.remove(&ids.owner);
        self.free.push(number);
    }

    /// Decrements the number of ids of an owner after one of them was stored again, which leaves its old entry behind.
    pub fn discount_replaced(&mut self, owner: Owner, slots: &mut Slots, table: &HashTable<Place>) {
        let Some(&number) = self.numbers.get(&owner) else { return };
        let ids = &mut self.owners[number as usize];
        // Old entries are removed once they are the majority.
        if ids.in_order.len() + ids.late.len() > 64 + 2 * ids.count {
            let mut is_newest = |(_, place): &Timed| {
                let is_newest = table.find(place.hash(), |newest| newest == place).is_some();
                if !is_newest {
                    slots.free(place.slot);
                }
                is_newest
            };
            ids.in_order.retain(&mut is_newest);
            ids.late.retain(is_newest);
        }
        self.discount(number, slots);
    }

    /// Returns the owner with the most ids.
    pub fn largest(&mut self) -> Option<u32> {
        loop {
            let mut largest = self.by_size.iter().rev();
            let (filed, number) = *largest.next()?;
            let second = largest.next().map_or(0, |(count, _)| *count);
            let ids = &mut self.owners[number as usize];
            if ids.count >= second || ids.count == filed {
                return Some(number);
            }
            ids.filed_count = ids.count;
            self.by_size.insert((ids.count, number));
            self.by_size.remove(&(filed, number));
        }
    }

    /// Returns the owner that may have the oldest id, and a lower bound of that id's time.
    pub fn stalest(&self) -> Option<(UnixMicros, u32)> {
        self.by_age.first().copied()
    }

    /// Lists an owner under the exact time of its oldest id, and returns this time.
    pub fn file_by_age(&mut self, number: u32) -> Option<UnixMicros> {
        let ids = &mut self.owners[number as usize];
        let (oldest, _) = ids.oldest()?;
        if oldest != ids.filed_time {
            self.by_age.insert((oldest, number));
            self.by_age.remove(&(ids.filed_time, number));
            ids.filed_time = oldest;
        }
        Some(oldest)
    }
}
