//! What a record, a batch and a place in a topic are, and their encodings.
//! Never: I/O, async, gRPC, or an import from elsewhere in this crate.

pub mod batch;
pub mod block;
mod content;
mod names;
pub mod offsetless;
pub mod walk;

pub use batch::{Batch, BatchLimits, Violation};
pub use names::{Epoch, Offset, Position, Receipt, RequestId, Scope, TopicName, UnixMicros};
