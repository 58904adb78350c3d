//! The decisions of groups, without I/O.
//!
//! A [`Shard`] is the fold of the commands that are stored for some groups. Its [`Owner`] decides the next commands, and
//! gives out leases. Both are pure: time, records and requests are inputs, and there is no I/O here.
//!
//! ```text
//!   requests, records, time ──▶ Owner ──▶ commands ──▶ the shard's topic ──▶ Shard (fold) ──▶ answers, next leases
//! ```

mod admin;
mod back;
mod codec;
mod command;
mod event;
mod grant;
mod ids;
mod lanes;
mod lease;
mod load;
mod marks;
mod member;
mod nodes;
mod once;
mod owner;
mod poison;
mod progress;
mod reading;
mod restore;
mod settings;
mod settle;
mod shard;
mod spans;
mod state;
#[cfg(test)]
mod tests;
mod working;

pub use codec::{Undecodable, decode, decode_part, encode, encode_part};
pub use command::{About, Command, Done, Effect, HandedLease, Piece};
pub use event::{Act, Copied, Grant, Input, Now, Outcome, Output, ReadItem, Refusal, Settlement, Ticket};
pub use ids::{
    CommandId, Fence, GroupId, GroupName, KeyHash, SHARDS, SessionId, Span, Term, push_span, shard_of,
};
pub use load::{Load, MemberLoad};
pub use marks::{Mark, Marks};
pub use owner::{Owner, Tenure};
pub use progress::Progress;
pub use restore::TERMS_PER_RESTORE;
pub use settings::{Order, Poison, Settings};
pub use shard::{Shard, Verdict};
pub use spans::Spans;
pub use state::GroupState;
