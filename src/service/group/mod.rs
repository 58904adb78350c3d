//! GroupService: groups, their members and what these settle.

pub(crate) mod admin;
mod answers;
mod backup;
mod calls;
mod consume;
mod described;
mod join;
pub(crate) mod lease;
mod listing;
mod request;
mod running;
mod service;
mod settings;

pub use calls::GroupCalls;
pub use service::GroupService;
