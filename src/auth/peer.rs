//! What a verified client certificate says of its holder.
//! Never: verifies one; TLS did.

use std::sync::Arc;
use std::time::SystemTime;

/// The holder of a client certificate that TLS has verified. In the extensions of every request of a
/// connection that presented one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The SPIFFE ID (`spiffe://…`, its only URI name), else the common name of its subject, else its
    /// first DNS name.
    pub name: Arc<str>,
    /// When it expires: no call outlives it.
    pub expires: SystemTime,
}
