//! The state that the calls of one connection share.

use super::{Admission, Error, Permit, SendBudget, ShutdownSignal};

/// The state that the calls of one connection share.
#[derive(Debug)]
pub struct Connection {
    /// Signal that the calls should end.
    pub shutdown: ShutdownSignal,
    /// Budget of their publishes in flight.
    pub admission: Admission,
    /// Budget of their unread answers.
    pub send_budget: SendBudget,
}

impl Connection {
    /// Acquires the bytes of publishes from the budget. Waits for them if too many are in flight.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub async fn admit(&self, bytes: usize) -> Result<Permit, Error> {
        match self.admission.try_acquire(bytes) {
            Some(permit) => Ok(permit),
            None => Box::pin(self.admission.clone().acquire(bytes)).await,
        }
    }
}
