//! Request ids: their keys, their owners, and the batches that were stored under them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::record::{Batch, Offset, Scope, UnixMicros};

/// The batch that was stored under a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Number of offsets from `first` to the position after the batch. It is the number of records, or more if unused
    /// offsets follow the batch.
    pub span: u32,
    /// Checksum of the batch's content. It is not compared if the owner is [`Owner::UNKNOWN`].
    pub content: u32,
    /// Owner that the id is counted for.
    pub owner: Owner,
    /// Wall-clock time at which the batch was stored.
    pub time: UnixMicros,
    /// Time at which the batch was stored, on the steady clock. Ages are measured by this clock.
    pub at: UnixMicros,
}

impl Stored {
    /// True if `batch` is a repetition of this one. An id that was stored without a checksum is repeated by any batch
    /// that does not have more records.
    #[must_use]
    pub fn is_repeated_by(&self, batch: &Batch) -> bool {
        batch.count() <= self.span && (self.owner == Owner::UNKNOWN || self.content == batch.content())
    }

    /// Returns the offset after the batch.
    #[must_use]
    pub const fn next(&self) -> Offset {
        self.first.plus(self.span as u64)
    }
}

/// Scope of a request id, and the checksum of the content stored under it. Ids that earlier versions of the program
/// stored have no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Scope of the id.
    pub scope: Scope,
    /// Checksum of the content, as [`Batch::content`] computes it.
    pub content: u32,
}

/// Owner that an id is counted for: the first 64 bits of its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(u64);

impl Owner {
    /// Owner of the ids that an earlier version of the program stored, which recorded neither scope nor content.
    pub const UNKNOWN: Self = Self(u64::MAX);

    /// Returns the owner that the ids of a scope are counted for.
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        let mut half = [0; 8];
        half.copy_from_slice(&scope.bytes()[..8]);
        Self(u64::from_be_bytes(half).min(u64::MAX - 1))
    }
}

/// A topic, a scope and a request id, as 128 bits of a keyed hash. Among a million ids, the probability of a collision
/// is 2^-88. No client knows the hash key, so no client can choose ids that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub(super) u64, pub(super) u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Hasher for [`Key`]. A key is already a hash, so half of it serves as the hash.
#[derive(Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key writes one u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Stored batches by key.
pub type Map = HashMap<Key, Stored, BuildHasherDefault<KeyHasher>>;
