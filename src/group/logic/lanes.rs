//! Queues of records that are handled one after the other: one for each key, or one for all records.
//!
//! ```text
//!   settling      │ leased to the holder │ waiting
//!  ───────────────┼──────────────────────┼──────────▶
//!   not durable yet
//! ```

use std::collections::HashMap;

use super::ids::{KeyHash, Span, push_span};
use super::nodes::{NIL, Node, Nodes};

/// A member of a group, by a number of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub u64);

/// A lane, by its place in [`Lanes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId(u32);

impl LaneId {
    /// Not above any other, for ranges.
    pub(super) const FIRST: Self = Self(0);
}

/// A record that an owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub offset: u64,
    /// Lane of the record; none if it is in no order.
    pub lane: Option<LaneId>,
    /// Size in units of [`SIZE_UNIT`] bytes, rounded up.
    pub units: u16,
    /// Number of offsets up to the next record.
    pub len: u16,
}

/// Unit of sizes: 64 bytes, so that 2 bytes hold every size up to 4 MiB, the limit of a message.
const SIZE_UNIT: u32 = 64;

impl Item {
    /// Offsets of the record, those up to the next record included.
    pub(super) const fn span(&self) -> Span {
        Span { start: self.offset, end: self.offset + self.len as u64 }
    }

    /// Bytes that the record counts as.
    pub(super) const fn bytes(&self) -> u64 {
        self.units as u64 * SIZE_UNIT as u64
    }

    /// Converts a size to units.
    pub(super) fn units(size: u32) -> u16 {
        u16::try_from(size.div_ceil(SIZE_UNIT)).unwrap_or(u16::MAX)
    }
}

/// The spans of records in order.
pub(super) fn spans_of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<Span> {
    let mut spans = Vec::new();
    items.into_iter().for_each(|item| push_span(&mut spans, item.span()));
    spans
}

/// One queue.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub key: KeyHash,
    first: u32,
    /// First record that is not being settled.
    open: u32,
    /// First record that waits.
    wait: u32,
    last: u32,
    settling: u32,
    leased: u32,
    /// Member that holds the leased records, and gets the waiting ones.
    pub holder: Option<MemberId>,
    /// Number of its records whose last lease has not ended durably, or whose copy is on its way.
    pub pending: u32,
    /// Time before which the first waiting record is not considered again.
    pub not_before: u64,
    /// Offset under which the lane is listed as available.
    pub listed: Option<u64>,
    /// Offset under which the lane is listed by its first waiting record.
    pub head: Option<u64>,
}

impl Lane {
    /// Returns true if none of its records is leased or being settled.
    pub(super) const fn is_idle(&self) -> bool {
        self.settling == 0 && self.leased == 0
    }

    /// Returns true if the lane's holder is `member`, or may be.
    pub(super) fn is_open_to(&self, member: MemberId) -> bool {
        self.pending == 0 && self.holder.map_or_else(|| self.is_idle(), |holder| holder == member)
    }

    /// Number of leased records.
    pub(super) const fn leased(&self) -> u32 {
        self.leased
    }
}

/// All lanes of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    nodes: Nodes,
    lanes: Vec<Lane>,
    free_lanes: Vec<u32>,
    by_key: HashMap<KeyHash, LaneId>,
}

impl Lanes {
    pub(super) fn lane(&self, id: LaneId) -> &Lane {
        &self.lanes[id.0 as usize]
    }

    pub(super) fn lane_mut(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes[id.0 as usize]
    }

    /// Returns true if a lane with this id holds records.
    pub(super) fn is_live(&self, id: LaneId) -> bool {
        self.lanes.get(id.0 as usize).is_some_and(|lane| lane.first != NIL)
    }

    /// All lanes that hold records.
    pub(super) fn ids(&self) -> Vec<LaneId> {
        self.by_key.values().copied().collect()
    }

    /// Adds a record to the end of its lane.
    pub(super) fn push(&mut self, key: KeyHash, offset: u64, units: u16, len: u16) -> LaneId {
        let id = self.by_key.get(&key).copied().unwrap_or_else(|| self.new_lane(key));
        let at = self.nodes.insert(Node { offset, next: NIL, units, len });
        let lane = &mut self.lanes[id.0 as usize];
        if lane.last == NIL {
            lane.first = at;
        } else {
            self.nodes.get_mut(lane.last).next = at;
        }
        lane.last = at;
        for cursor in [&mut lane.open, &mut lane.wait] {
            if *cursor == NIL {
                *cursor = at;
            }
        }
        id
    }

    fn new_lane(&mut self, key: KeyHash) -> LaneId {
        let lane = Lane {
            key,
            first: NIL,
            open: NIL,
            wait: NIL,
            last: NIL,
            settling: 0,
            leased: 0,
            holder: None,
            pending: 0,
            not_before: 0,
            listed: None,
            head: None,
        };
        let id = match self.free_lanes.pop() {
            Some(at) => {
                self.lanes[at as usize] = lane;
                LaneId(at)
            }
            None => {
                self.lanes.push(lane);
                LaneId((self.lanes.len() - 1) as u32)
            }
        };
        self.by_key.insert(key, id);
        id
    }

    /// The first waiting record.
    pub(super) fn waiting(&self, id: LaneId) -> Option<Item> {
        self.item(id, self.lane(id).wait)
    }

    /// The first record that is not being settled.
    pub(super) fn first_open(&self, id: LaneId) -> Option<Item> {
        self.item(id, self.lane(id).open)
    }

    fn item(&self, id: LaneId, at: u32) -> Option<Item> {
        let node = self.nodes.get(at)?;
        Some(Item { offset: node.offset, lane: Some(id), units: node.units, len: node.len })
    }

    /// Leases the first waiting record to a member.
    pub(super) fn lease(&mut self, id: LaneId, member: MemberId) {
        let lane = &mut self.lanes[id.0 as usize];
        lane.wait = self.nodes.after(lane.wait);
        lane.leased += 1;
        lane.holder = Some(member);
    }

    /// The first record that is not being settled begins to be settled.
    pub(super) fn begin_settling(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id.0 as usize];
        let next = self.nodes.after(lane.open);
        if lane.leased > 0 {
            lane.leased -= 1;
        } else {
            lane.wait = next;
        }
        lane.open = next;
        lane.settling += 1;
    }

    /// The first record is settled durably. Returns false if it was the last one of its lane, which is gone then.
    pub(super) fn finish_settling(&mut self, id: LaneId) -> bool {
        let lane = &mut self.lanes[id.0 as usize];
        let at = lane.first;
        lane.first = self.nodes.remove(at);
        lane.settling -= 1;
        if lane.first == NIL {
            lane.last = NIL;
        }
        self.release(id)
    }

    /// Frees the lane from its holder if nothing is leased, and removes it if nothing is left.
    fn release(&mut self, id: LaneId) -> bool {
        let lane = &mut self.lanes[id.0 as usize];
        if lane.is_idle() {
            lane.holder = None;
        }
        if lane.first != NIL {
            return true;
        }
        self.by_key.remove(&lane.key);
        self.free_lanes.push(id.0);
        false
    }

    /// Leased records from `offset` on wait again; returns them in order.
    pub(super) fn take_back(&mut self, id: LaneId, offset: u64) -> Vec<Item> {
        let (mut at, wait) = (self.lane(id).open, self.lane(id).wait);
        let mut taken: Vec<Item> = Vec::new();
        while at != wait {
            let item = self.item(id, at).expect("it lies before the first waiting one");
            if item.offset >= offset {
                if taken.is_empty() {
                    self.lane_mut(id).wait = at;
                }
                taken.push(item);
            }
            at = self.nodes.after(at);
        }
        self.lane_mut(id).leased -= taken.len() as u32;
        self.release(id);
        taken
    }

    /// Removes an idle lane; returns its records in order.
    pub(super) fn remove(&mut self, id: LaneId) -> Vec<Item> {
        let mut items = Vec::new();
        let mut at = std::mem::replace(&mut self.lane_mut(id).first, NIL);
        while let Some(item) = self.item(id, at) {
            items.push(item);
            at = self.nodes.remove(at);
        }
        let key = self.lane(id).key;
        self.by_key.remove(&key);
        self.free_lanes.push(id.0);
        items
    }
}
