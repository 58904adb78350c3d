//! Compression of messages. It costs processor time on both sides, and pays over slow or metered networks.

use std::fmt;
use std::str::FromStr;

use tonic::codec::CompressionEncoding;

/// The compression of messages in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Supported by every gRPC library.
    Gzip,
    /// Faster and more compact than gzip.
    Zstd,
}

impl From<Compression> for CompressionEncoding {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err("write gzip or zstd".to_owned()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CompressionEncoding::from(*self).fmt(f)
    }
}
