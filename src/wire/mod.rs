//! The hand-written messages of the hot path: a batch passes through them as bytes, from the socket to the log and
//! from the log to the socket. Field numbers are those of `stream.proto` and `group.proto` in `proto/streamway/v1`; tests compare these
//! messages with the generated ones.

mod codec;
mod consume;
mod position;
mod publish;
mod receipt;
mod subscribe;

pub use codec::{Codec, MALFORMED, Wire};
pub use consume::{ConsumeResponse, Lease, LeaseResponse};
pub use publish::{ExchangeRequest, IngestRequest, PublishRequest};
pub use receipt::{ExchangeResponse, NumberedReceipt, PublishResponse};
pub use subscribe::SubscribeResponse;

/// Generated service stubs that use these messages.
#[allow(missing_docs, clippy::all, unused_qualifications, reason = "generated code")]
pub mod stubs {
    /// Package `streamway.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/stubs/streamway.v1.rs"));
    }
    /// Package `example`.
    pub mod example {
        include!(concat!(env!("OUT_DIR"), "/stubs/example.rs"));
    }
}

#[cfg(test)]
mod tests;
