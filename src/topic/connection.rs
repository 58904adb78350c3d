//! The state that the calls of one connection share.

use super::{Admission, SendBudget, ShutdownSignal};

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
