//! Generated messages and typed clients of the public API (`proto/`). The messages of the hot path have hand-written
//! counterparts in [`crate::wire`].

#![allow(missing_docs, clippy::all, reason = "generated code")]

/// Package `streamway`.
pub mod streamway {
    /// Package `streamway.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/typed/streamway.v1.rs"));
    }
}

/// Package `example`: the services of the tutorial.
pub mod example {
    include!(concat!(env!("OUT_DIR"), "/typed/example.rs"));
}

pub use streamway::v1;

/// All files of `proto/` as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
