//! The health of the storage, and the reason why it cannot be used.

use std::sync::{Arc, Mutex};

/// Reason why the storage cannot be used yet, or now, for people who ask whether the server is ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reason(Arc<Mutex<Option<Arc<str>>>>);

impl Reason {
    /// Replaces the reason; none means that the storage can be used.
    pub fn set(&self, reason: Option<String>) {
        *self.0.lock().expect("no panic while it is held") = reason.map(Into::into);
    }

    /// Returns the reason, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<Arc<str>> {
        self.0.lock().expect("no panic while it is held").clone()
    }
}

/// Ability of the storage to take writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes writes.
    Serving,
    /// It has no room for writes, and goes on by itself once there is some. Reads, trims and deletes go on.
    Full(Arc<str>),
    /// It cannot write now, and goes on by itself once it can. Reads wait.
    Unavailable(Arc<str>),
    /// It takes no more writes, because of a failed sync or write, or damage. Reads go on. A person must look.
    Failed(Arc<str>),
    /// The log was closed.
    Closed,
}
