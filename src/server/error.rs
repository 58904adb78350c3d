//! Errors of a server's start and end.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth;
use crate::storage::{self, OpenError};

/// Reason why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files of identities and policy cannot be used.
    #[error("identities and policy: {0}")]
    Auth(auth::LoadError),
    /// A port could not be bound.
    #[error("listening on {address}: {source}")]
    Bind {
        /// Address of the port.
        address: SocketAddr,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The files of TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The log could not be opened.
    #[error("opening the log: {0}")]
    Open(OpenError),
    /// The storage failed while serving; an operator must look.
    #[error("the storage failed: {0}")]
    Storage(Arc<str>),
    /// Accepted records could not be made durable at the end.
    #[error("closing the log: {0}")]
    Close(storage::Error),
    /// The log did not close within the drain timeout.
    #[error("closing the log took longer than the drain timeout")]
    CloseTimeout,
    /// A fault of the server.
    #[error("the server's own task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}
