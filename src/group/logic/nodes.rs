//! Records in lanes, each with a link to the next one of its lane.

/// Place of no record.
pub(super) const NIL: u32 = u32::MAX;
/// Records of a block: 64 KiB.
const BLOCK: usize = 4096;

/// A record in a lane: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub offset: u64,
    /// Place of the next record of the lane.
    pub next: u32,
    pub units: u16,
    pub len: u16,
}

/// All records in lanes, by their places. They lie in blocks: one vector that doubles would take three times its content while
/// it grows, of which the allocator gives little back.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    blocks: Vec<Vec<Node>>,
    /// First free place; the free ones are linked.
    free: u32,
    /// Number of records.
    count: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: NIL, count: 0 }
    }
}

impl Nodes {
    /// Adds a record, and returns its place.
    pub(super) fn insert(&mut self, node: Node) -> u32 {
        self.count += 1;
        if self.free != NIL {
            let at = self.free;
            self.free = std::mem::replace(self.get_mut(at), node).next;
            return at;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let at = (self.blocks.len() - 1) * BLOCK;
        let block = self.blocks.last_mut().expect("it was pushed");
        block.push(node);
        (at + block.len() - 1) as u32
    }

    /// Removes the record at a place, and returns the place of the next one of its lane. Without any record, nothing is kept.
    pub(super) fn remove(&mut self, at: u32) -> u32 {
        let free = std::mem::replace(&mut self.free, at);
        let next = std::mem::replace(&mut self.get_mut(at).next, free);
        self.count -= 1;
        if self.count == 0 {
            // One block stays, so that a lane that fills and empties does not allocate.
            self.blocks.truncate(1);
            self.blocks.iter_mut().for_each(Vec::clear);
            self.free = NIL;
        }
        next
    }

    /// The record at a place; none at [`NIL`].
    pub(super) fn get(&self, at: u32) -> Option<&Node> {
        self.blocks.get(at as usize / BLOCK)?.get(at as usize % BLOCK)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Node {
        &mut self.blocks[at as usize / BLOCK][at as usize % BLOCK]
    }

    /// The place of the next record of the lane.
    pub(super) fn after(&self, at: u32) -> u32 {
        self.blocks[at as usize / BLOCK][at as usize % BLOCK].next
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, NIL, Node, Nodes};

    fn node(offset: u64) -> Node {
        Node { offset, next: NIL, units: 1, len: 1 }
    }

    #[test]
    fn places_are_used_again_and_given_back_when_nothing_is_left() {
        let (mut nodes, count) = (Nodes::default(), 3 * BLOCK as u64);
        let places: Vec<u32> = (0..count).map(|offset| nodes.insert(node(offset))).collect();
        assert_eq!((nodes.blocks.len(), nodes.get(NIL).is_none()), (3, true));
        for &at in &places[..10] {
            assert_eq!(nodes.remove(at), NIL);
        }
        let mut again: Vec<u32> = (0..10).map(|offset| nodes.insert(node(count + offset))).collect();
        again.sort_unstable();
        assert_eq!(again, places[..10]);
        assert_eq!(nodes.get(places[10]).map(|node| node.offset), Some(10));
        for &at in &places {
            nodes.remove(at);
        }
        assert_eq!((nodes.blocks.len(), nodes.blocks[0].len(), nodes.count), (1, 0, 0));
        assert_eq!(nodes.insert(node(7)), 0);
    }
}
