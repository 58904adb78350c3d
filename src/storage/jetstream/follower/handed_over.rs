//! Commit that another replica is to store.

use tokio::time::Instant;

use crate::storage::jetstream::bus::Address;
use crate::storage::jetstream::commit::Commit;

/// Commit that another replica is to store.
pub struct HandedOver {
    pub commit: Commit,
    pub to: Address,
    pub started: Instant,
    /// Number of letters sent so far, each with a larger commit than the one before.
    pub letters: u32,
    /// Number of waiting appends when it was built.
    pub appends: usize,
    /// True if a larger commit could hold further appends.
    pub has_room: bool,
}
