//! How a client has messages compressed.
//! Never: the default. It costs both sides CPU, and pays over slow or metered networks.

use std::fmt;
use std::str::FromStr;

use tonic::codec::CompressionEncoding;

/// How messages are compressed: the client's own, and so the server's answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Known to every gRPC library.
    Gzip,
    /// Faster and smaller.
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
            _ => Err("it is neither gzip nor zstd".to_owned()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CompressionEncoding::from(*self).fmt(f)
    }
}
