//! The JetStream engine: topics that a NATS cluster stores and that all replicas of this server share. docs/engines.md
//! lists its guarantees and its requirements on NATS.
//!
//! Each topic is one stream, and each message is one **commit** of batches: the batches that arrived while the previous
//! commit was being stored, at most 1024 records. A record's offset is `(sequence - 1) << 10 | index`.
//!
//! Every commit names the sequence that it must follow. So at most one copy of it can be stored, however often it is
//! sent. Everything that a replica checked against the earlier messages (request ids, conditions, counts) still holds
//! when the commit is stored, and no commit that was sent later can be stored before it. NATS's message ids are not
//! used: a clustered stream of 2.10 remembers the id of a message that it refused, and answers the next message with
//! that id as a duplicate although nothing is stored.
//!
//! The engine has no consensus protocol of its own. It acknowledges only what NATS has acknowledged.

mod ages;
mod attach;
mod build;
mod bus;
mod cache_budget;
mod cached;
mod changes;
mod commit;
mod connect;
mod contest;
mod create_lock;
mod cursor;
mod cursors;
mod flight;
mod follower;
mod handle;
mod handover;
mod health;
mod id_budget;
mod ids;
mod link;
mod listing;
mod log;
mod lookup;
mod marks;
mod message;
mod names;
mod nats;
mod placement;
mod queue;
mod read;
mod replica_bus;
mod search;
mod topic;

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

pub use connect::OpenError;
pub use log::JetStreamLog;
pub use replica_bus::{Arrived, Inbox, ReplicaBus};
