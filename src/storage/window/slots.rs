//! The request ids themselves, in slots that are reused.

use super::entry::{Key, Stored};

/// Entry of a key in the table: a part of the key, and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    part: u32,
    /// Slot that holds the key.
    pub slot: u32,
}

impl Place {
    /// Returns the place of a key that is stored in `slot`.
    pub const fn new(key: Key, slot: u32) -> Self {
        Self { part: Self::part_of(key), slot }
    }

    const fn part_of(key: Key) -> u32 {
        key.0 as u32
    }

    /// Returns the hash of a key. A place holds enough of the key to compute it, so a table that grows reads no slot.
    pub const fn hash_of(key: Key) -> u64 {
        Self::widened(Self::part_of(key))
    }

    /// Returns the hash of the key that is stored here.
    pub const fn hash(&self) -> u64 {
        Self::widened(self.part)
    }

    /// The hash table uses the lowest and the highest bits of a hash, so the part is put into both.
    const fn widened(part: u32) -> u64 {
        (part as u64) << 32 | part as u64
    }
}

/// Ids in slots.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<(Key, Stored)>,
    free: Vec<u32>,
}

impl Slots {
    /// Adds an id, and returns its slot.
    pub fn add(&mut self, key: Key, stored: Stored) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = (key, stored);
            return slot;
        }
        self.slots.push((key, stored));
        u32::try_from(self.slots.len() - 1).expect("there is no memory for so many ids")
    }

    /// Frees a slot.
    pub fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// True if a place is that of this key.
    pub fn is_at(&self, place: &Place, key: Key) -> bool {
        place.part == Place::part_of(key) && self.slots[place.slot as usize].0 == key
    }

    /// Returns the batch that was stored under the id in a slot.
    pub fn stored(&self, slot: u32) -> Stored {
        self.slots[slot as usize].1
    }

    /// Returns the key in a slot, and the batch that was stored under it.
    pub fn id(&self, slot: u32) -> (Key, Stored) {
        self.slots[slot as usize]
    }

    /// Returns the number of slots for which memory is allocated.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }
}
