//! The messages and clients that tonic generates of the protos.
#![allow(clippy::all, missing_docs)]

pub mod v1 {
    tonic::include_proto!("streamway.v1");
}
pub mod example {
    tonic::include_proto!("example");
}
pub mod limit {
    tonic::include_proto!("limit");
}
