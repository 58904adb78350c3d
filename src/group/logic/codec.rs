//! Bytes of a command: a version, the kind, term and number, and the fields of the kind; numbers are varints.
//!
//! A reader accepts exactly what a writer of its own version writes. It refuses everything else, so that a replica with
//! an older binary gives a shard up rather than misread it.

mod reader;
mod writer;

use super::command::{Command, Piece};

/// Version of the format that is written. Version 1, of servers that could not restore groups, is read too.
const VERSION: u8 = 2;

/// The reason why bytes are not a command that this binary knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// A newer binary wrote the command.
    #[error("command of version {0}: a newer server wrote it")]
    Version(u8),
    /// The bytes are damaged.
    #[error("malformed command: {0}")]
    Malformed(&'static str),
}

/// Encodes a command.
#[must_use]
pub fn encode(command: &Command) -> Vec<u8> {
    writer::command(command, VERSION)
}

/// Decodes a command.
///
/// # Errors
/// The bytes are of another version, or not a command.
pub fn decode(bytes: &[u8]) -> Result<Command, Undecodable> {
    match bytes.first() {
        Some(&version @ 1..=VERSION) => reader::command(&bytes[1..], version).map_err(Undecodable::Malformed),
        Some(&version) => Err(Undecodable::Version(version)),
        None => Err(Undecodable::Malformed("empty")),
    }
}

/// Encodes a part of a group's state for a backup.
#[must_use]
pub fn encode_part(piece: &Piece) -> Vec<u8> {
    writer::part(piece, VERSION)
}

/// Decodes a part of a group's state from a backup.
///
/// # Errors
/// The bytes are of another version, or not such a part.
pub fn decode_part(bytes: &[u8]) -> Result<Piece, Undecodable> {
    match bytes.first() {
        Some(&version @ 1..=VERSION) => reader::part(&bytes[1..], version).map_err(Undecodable::Malformed),
        Some(&version) => Err(Undecodable::Version(version)),
        None => Err(Undecodable::Malformed("empty")),
    }
}

#[cfg(test)]
mod tests;
