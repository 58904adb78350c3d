//! The holder of a client certificate.

use std::sync::Arc;
use std::time::SystemTime;

/// Holder of a client certificate that TLS has verified. Part of the extensions of every request of a connection
/// that presented one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SPIFFE ID (`spiffe://…`, its only URI name), else the common name of its subject, else its
    /// first DNS name.
    pub name: Arc<str>,
    /// Expiry of the certificate, which no call outlives.
    pub expires: SystemTime,
}
