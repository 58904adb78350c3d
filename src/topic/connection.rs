//! What the calls of one connection have in common.
//! Never: knows a socket.

use super::{Admission, SendBudget, ShutdownSignal};

/// What the calls of one connection have in common.
#[derive(Debug)]
pub struct Connection {
    /// When they should end.
    pub shutdown: ShutdownSignal,
    /// What they may have in flight together.
    pub admission: Admission,
    /// The memory budget of their unread answers.
    pub send_budget: SendBudget,
}
