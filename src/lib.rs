//! Streamway: durable topics over streaming gRPC.
//!
//! ```text
//! main → cli → server → http, service → topic → storage → record
//!                  └→ auth  telemetry  config  reload  file  backoff  (leaves; record imports nothing of ours)
//! client (library, command line, tests) → proto, telemetry
//! ```
//! `ARCHITECTURE.md` is the map; a test keeps it true.

pub mod auth;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod config;
#[cfg(test)]
mod corpus;
pub mod file;
pub mod group;
pub mod http;
pub mod json;
pub mod proto;
pub mod record;
pub mod registry;
pub mod reload;
pub mod server;
pub mod service;
pub mod storage;
pub mod telemetry;
pub mod topic;
pub mod wire;
