//! Backup files, as docs/backup.md describes them: topics and their batches, with every frame checksummed in one
//! chain.

mod contents;
mod frames;
mod writer;

pub(super) use self::contents::{Backup, DAMAGED, RequestIds, Saved, SavedBatches};
pub(super) use self::writer::Writer;
