//! Records, batches and positions in a topic, and their encodings.

pub mod batch;
pub mod block;
mod content;
mod names;
pub mod offsetless;
pub mod protobuf;
mod single;
#[cfg(test)]
pub(crate) mod testing;
mod token;
pub mod walk;

pub use batch::{Batch, BatchLimits, Violation};
pub use names::{Epoch, Offset, Position, Receipt, RequestId, Scope, TopicName, UnixMicros};
pub use single::{Headers, Record, RecordRef};
