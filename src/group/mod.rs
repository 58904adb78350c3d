//! Groups: members share the records of a topic, each record is handled, and none is forgotten.
//!
//! [`logic`] decides what a group does, without I/O. [`Groups`] is what calls use.

mod attempts;
mod backup;
mod begun;
mod carry_out;
mod clock;
mod dead_letter;
mod delivery;
mod described;
mod error;
mod events;
mod fleet;
mod groups;
mod info;
mod lag;
mod listing;
pub mod logic;
mod mailbox;
mod member;
mod random;
mod recent;
mod redrive;
mod requests;
mod reset;
mod shard;
mod shard_log;
mod shards;
mod source;
mod take;
#[cfg(test)]
mod tests;
mod token;

pub use backup::{Saved, SavedState};
pub use error::Error;
pub use events::{Event, Held, Leased};
pub use groups::Groups;
pub use info::{Info, Lag, Listed, MemberInfo, Status};
pub use member::Member;
pub use requests::{Create, Join, LeaseOnce, Redrive, Redriven, Settlement, Source};
pub use token::Token;
