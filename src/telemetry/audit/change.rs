//! The contents of a record of the audit log.

use std::net::SocketAddr;
use std::sync::Arc;

/// Target of the lines.
pub const TARGET: &str = "streamway::audit";

/// Caller that did something, and its call.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Name of the principal; empty if it is not known.
    pub principal: Arc<str>,
    /// Address of the client.
    pub peer: Option<SocketAddr>,
    /// `package.Service/Method`; empty if it was no call.
    pub method: &'static str,
    /// The `x-request-id` header of the call.
    pub request_id: Option<Box<str>>,
}

/// Outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The change is in effect, and durable where it is stored.
    Done,
    /// The change failed in a way that it may be in effect all the same.
    Unknown,
    /// The change failed, and nothing is changed.
    Failed,
}

/// A change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Principal of the caller.
    pub actor: Actor,
    /// Object and verb, as `topic.delete`.
    pub action: &'static str,
    /// Name of the object.
    pub resource: String,
    /// JSON object of what it was before.
    pub before: Option<String>,
    /// JSON object of what it is now.
    pub after: Option<String>,
    /// Outcome of the change.
    pub outcome: Outcome,
    /// Error of a change that was not done.
    pub error: Option<String>,
}

impl Change {
    /// Makes the record of what the server did by itself: what it is now, or why it failed without effect.
    #[must_use]
    pub fn by_server(action: &'static str, outcome: Result<Option<String>, String>) -> Self {
        let actor = Actor { principal: "streamway:server".into(), peer: None, method: "", request_id: None };
        let (after, error) = match outcome {
            Ok(after) => (after, None),
            Err(error) => (None, Some(error)),
        };
        let outcome = if error.is_none() { Outcome::Done } else { Outcome::Failed };
        Self { actor, action, resource: String::new(), before: None, after, outcome, error }
    }
}
