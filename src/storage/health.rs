//! Whether the storage can be used, and why not.

use std::sync::{Arc, Mutex};

/// Why the storage cannot be used yet, or now: for people who ask whether the server is ready. Clones are
/// the same.
#[derive(Clone, Debug, Default)]
pub struct Reason(Arc<Mutex<Option<Arc<str>>>>);

impl Reason {
    /// Replaces it; none where the storage can be used.
    pub fn set(&self, reason: Option<String>) {
        *self.0.lock().expect("no panic while it is held") = reason.map(Into::into);
    }

    /// The reason, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<Arc<str>> {
        self.0.lock().expect("no panic while it is held").clone()
    }
}

/// Whether the storage takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Serving,
    /// It does not, for lack of room, and goes on by itself once there is some. Reads, trims and deletes go on.
    Full(Arc<str>),
    /// It does not now, and goes on by itself once it can. Reads wait.
    Unavailable(Arc<str>),
    /// It does not, for good: a failed sync or write, or damage. Reads go on. A person must look.
    Failed(Arc<str>),
    /// It was closed.
    Closed,
}
