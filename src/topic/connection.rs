//! What the calls of one connection have in common.
//! Never: knows a socket.

use super::{Admission, Deliveries, Ending};

/// What the calls of one connection have in common.
#[derive(Debug)]
pub struct Connection {
    /// When they should end.
    pub ending: Ending,
    /// What they may have in flight together.
    pub admission: Admission,
    /// What their answers may have unread together.
    pub deliveries: Deliveries,
}
