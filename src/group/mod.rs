//! Groups: members share the records of a topic, each record is handled, and none is forgotten.
//!
//! [`logic`] decides what a group does, without I/O. [`Groups`] is what calls use.

mod error;
mod groups;
mod info;
pub mod logic;
mod member;
mod requests;
mod token;

pub use error::Error;
pub use groups::Groups;
pub use info::{Info, Lag, MemberInfo, Status};
pub use member::{Event, Held, Leased, Member};
pub use requests::{Create, Join, LeaseOnce, Redrive, Redriven, Settlement, Source};
pub use token::Token;
