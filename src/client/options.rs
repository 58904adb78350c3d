//! The options of a client.

use std::path::PathBuf;
use std::time::Duration;

use super::compression::Compression;
use super::tls::TlsOptions;
use super::token::Token;

/// Default interval of checking files for changes. A check is cheap, and certificates are renewed well ahead.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// The options of a client: the addresses of the servers, and the identity.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of one server, or of several that serve the same topics: `http://host:port` or `https://host:port`.
    /// Without a scheme, `https://` is assumed if any TLS option is set, else `http://`.
    pub servers: Vec<String>,
    /// Time limit of connecting, and of the TLS handshake after that.
    pub connect_timeout: Duration,
    /// Time limit of one call of [`crate::client::Topics`]. A server whose disk hangs does not answer.
    pub answer_timeout: Duration,
    /// Largest message accepted from the server, in bytes.
    pub message_bytes_max: usize,
    /// TLS options for `https://` servers.
    pub tls: TlsOptions,
    /// A token that is sent with every call.
    pub token: Option<Token>,
    /// A file that holds the token, instead of `token`. It is read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Allows sending the token in plaintext to another machine, where everybody on the network path can read it.
    pub token_over_plaintext: bool,
    /// Compression of messages in both directions.
    pub compression: Option<Compression>,
    /// Interval of checking the files named here for changes.
    pub reload_interval: Duration,
}

impl Options {
    /// The defaults for one server.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(120),
            message_bytes_max: 16 << 20,
            tls: TlsOptions::default(),
            token: None,
            token_file: None,
            token_over_plaintext: false,
            compression: None,
            reload_interval: RELOAD_INTERVAL,
        }
    }
}
