//! What the calls of one connection have in common.
//! Never: knows a socket.

use super::{Admission, Deliveries, ShutdownSignal};

/// What the calls of one connection have in common.
#[derive(Debug)]
pub struct Connection {
    /// When they should end.
    pub shutdown: ShutdownSignal,
    /// What they may have in flight together.
    pub admission: Admission,
    /// What their answers may have unread together.
    pub deliveries: Deliveries,
}
