//! The embedded log: a journal shared by all topics, segments of each topic, and a catalog that names them.
//! docs/format.md specifies every byte.
//!
//! ```text
//! append → queue → committer ─ journal (write, sync) ─▶ tail cache ─▶ readers that keep up
//!                     │ snapshot when a journal is full
//!                     ▼
//!                checkpointer ─ segments, catalog ─▶ readers that lag;  old journals are removed
//! ```

mod cached;
mod catalog;
pub mod check;
mod checkpoint;
mod checkpoint_queue;
mod commit;
mod committer;
mod dir;
mod disk;
mod frame;
mod handle;
mod health;
mod ids;
mod ids_index;
mod journal;
mod journal_image;
mod listing;
mod log;
mod open;
mod queue;
mod reader;
mod recovery;
mod registry;
mod repair;
mod replay;
mod reserve;
mod retention;
mod scan;
mod segment;
mod segment_writer;
mod topic;

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod concurrency_tests;
#[cfg(test)]
mod corruption_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod disk_fault_tests;
#[cfg(test)]
mod full_disk_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trim_tests;

pub use log::EmbeddedLog;
pub use open::OpenError;
