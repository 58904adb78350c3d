//! The JetStream engine: topics kept by a NATS cluster and shared by every replica of this server.
//! docs/engines.md says what it promises, and what of NATS that needs.
//!
//! One stream a topic, one message a **commit** of batches: whatever came while the commit before was
//! being stored, at most 1024 records. A record's offset is `(sequence - 1) << 10 | index`.
//!
//! Every commit carries the sequence it must follow. So at most one copy of it can ever be stored,
//! however often it is sent; whatever a replica checked against everything stored before (request
//! ids, conditions, counts) holds; and nothing that was sent later can be stored before it. Message
//! ids of NATS are not used: a clustered stream of 2.10 keeps the id of a message that it refused,
//! and answers the next one of that id as a duplicate of nothing.
//!
//! The engine has no consensus of its own, and acknowledges only what NATS has acknowledged.

mod ages;
mod attach;
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
mod last_end;
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
mod search;
mod topic;

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

pub use connect::OpenError;
pub use log::JetStreamLog;
