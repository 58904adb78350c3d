//! The process that serves: ports, recovery, health, shutdown; everything wired together.
//!
//! ```text
//! starting (ports bound) → serving → draining (readiness off) → lame duck (GOAWAY) → abort → closed
//! ```

mod activity;
mod admin;
mod age;
mod bind;
mod build;
mod connection;
mod drain;
mod drive;
mod error;
mod files;
mod framing;
mod health;
mod http_observe;
mod http_port;
mod http_requests;
mod identity;
mod io;
mod listener;
mod observe;
mod read_on;
mod receive_budget;
mod request;
mod residents;
mod routes;
mod running;
mod sample;
mod signals;
mod stop_on_shutdown;
mod supervisor;
#[cfg(test)]
mod tests;
mod timed_body;
mod tls;

pub use error::Error;
pub use health::Readiness;
pub use running::{Running, check_files, run, start};
pub use signals::shutdown_on_signals;
pub use tls::Tls;
