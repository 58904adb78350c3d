//! A consumer: a member of a group that handles the records it is leased, and settles them. `Core` decides what to do,
//! without I/O; the rest carries it out over calls that are made again after a failure.

mod core;
mod drafts;
mod driver;
mod leases;
mod link;
mod options;
mod received;
mod summary;
#[cfg(test)]
mod tests;

pub use driver::Consumer;
pub use options::ConsumerOptions;
pub use received::{Handled, Received, Rejection};
pub use summary::Summary;
