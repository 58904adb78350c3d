//! Settings of TLS.
//! Never: reads a certificate; the server does, at its start and on every change.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::human;

/// Settings of TLS on the gRPC port. Flags and variables carry the prefix `tls-`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the server's certificate and the intermediate ones, the server's first. With it TLS
    /// is on, and nothing but TLS.
    #[serde(deserialize_with = "human::optional")]
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(deserialize_with = "human::optional")]
    pub key: Option<PathBuf>,
    /// PEM file of the CAs whose client certificates are accepted.
    #[serde(deserialize_with = "human::optional")]
    pub client_ca: Option<PathBuf>,
    /// Whether clients must present one; see [`Self::client_auth`].
    #[serde(deserialize_with = "human::optional")]
    pub client_auth: Option<ClientAuth>,
    /// Oldest version spoken.
    #[serde(with = "human::plain")]
    pub min_version: TlsVersion,
    /// Longest time a handshake may take.
    #[serde(with = "human::duration")]
    pub handshake_timeout: Duration,
}

impl TlsConfig {
    /// What is asked of clients: where a client CA is given, a certificate, unless something else is said.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        let default = if self.client_ca.is_some() { ClientAuth::Required } else { ClientAuth::None };
        self.client_auth.unwrap_or(default)
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert: None,
            key: None,
            client_ca: None,
            client_auth: None,
            min_version: TlsVersion::V1_2,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Whether a client presents a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// It is not asked for one.
    None,
    /// It may; one that is presented must be good.
    Optional,
    /// It must.
    Required,
}

impl FromStr for ClientAuth {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("write none, optional or required"),
        }
    }
}

/// A version of TLS that is still safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl FromStr for TlsVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err("write 1.2 or 1.3"),
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}
