//! Groups: members share the records of a topic, each record is handled, and none is forgotten.
//!
//! [`logic`] decides what a group does, without I/O.

pub mod logic;
