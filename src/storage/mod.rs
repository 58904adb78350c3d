//! Topics as the engines store them: the contract, what the engines share, and the engines.
//!
//! ```text
//!   trimmed       │ kept: what a read can return            │ not yet
//!  ───────────────┼─────────────────────────────────────────┼──────────▶ offsets
//!              earliest                          durable tail
//! ```
//! - The tail moves only over what is durable (P1), so a reader never sees what a crash could undo.
//! - Offsets rise within an epoch, and are not promised to be dense (P2).
//! - A batch is stored whole or not at all (P4); batches of one appender are stored in its order.
//! - Reading takes no lock that writing needs (P6).
//! - Damage is reported, never skipped (P10).

mod append;
mod chunk;
mod clock;
#[cfg(test)]
pub(crate) mod conformance;
mod contract;
pub mod embedded;
mod error;
mod health;
pub mod jetstream;
mod lineage;
mod open;
mod retention;
mod tail;
mod topic_state;
mod window;

pub use chunk::{Chunk, Numbering};
pub use contract::{Appended, Appender, BoxFuture, Hold, Log, Start, StoredId, TopicLog};
pub use error::{Error, Stored};
pub use health::{Health, Reason};
pub use jetstream::{Arrived, Inbox, ReplicaBus};
pub use lineage::{Ancestor, CUT_MAX, LINEAGE_MAX, Lineage};
pub use open::{OpenError, open};
pub use retention::Retention;
pub use topic_state::{TopicInfo, TopicState};
