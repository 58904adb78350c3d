//! The calls, one thin file each: requests become checked values, and results become messages.

mod body;
mod body_fn;
mod call;
mod changes;
mod clients;
mod compression;
mod creation;
mod deadline;
mod described;
mod echo_budget;
mod ending;
mod example;
mod exchange;
#[cfg(test)]
mod exchange_tests;
mod expiry;
mod fault;
pub(crate) mod group;
pub mod incoming;
mod ingest;
mod intake;
mod listing;
#[cfg(test)]
mod listing_tests;
mod operator;
mod panics;
mod publish;
mod quota;
mod receipts;
mod request;
mod restore;
pub mod status;
#[cfg(test)]
mod status_tests;
mod stream_service;
mod streams;
mod subscribe;
mod topics;
mod web;

pub use body_fn::body_fn;
pub use call::connection_shutdown;
pub use compression::ENCODINGS;
pub use deadline::Deadlines;
pub use echo_budget::EchoBudget;
pub use example::{Tutorial, Unpackaged};
pub use expiry::Expiry;
pub use fault::Served;
pub use group::{GroupCalls, GroupService};
pub use ingest::Failed;
pub use operator::Operator;
pub use stream_service::StreamService;
pub use streams::Streams;
pub use topics::Administration;
pub use web::Follow;
