//! Who calls, and what they may do. A leaf: knows neither gRPC nor topics beyond their names.
//! Never: logs, shows or keeps a credential.

mod peer;

pub use peer::PeerCertificate;
