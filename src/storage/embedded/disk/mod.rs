//! The file system as the embedded log uses it.

mod aligned;
mod interface;
mod real;
#[cfg(test)]
pub mod sim;

pub use aligned::{ALIGN, AlignedBuf};
pub use interface::{Disk, File, Mode, is_full, is_too_many_files, read_file};
pub use real::{FILE_MODE, RealDisk};
