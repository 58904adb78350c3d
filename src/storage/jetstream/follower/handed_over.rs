//! A commit that another replica is to store.

use tokio::time::Instant;

use crate::storage::jetstream::bus::Address;
use crate::storage::jetstream::commit::Commit;

/// A commit that another replica is to store.
pub struct HandedOver {
    pub commit: Commit,
    pub to: Address,
    pub started: Instant,
    /// Letters that were sent, each larger than the one before.
    pub letters: u32,
    /// Number of appends that waited when it was built.
    pub appends: usize,
    /// True if a larger commit would hold further appends.
    pub has_room: bool,
}
