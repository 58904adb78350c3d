//! Flags and variables of the connection of client commands: TLS, token and compression.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::client::{Compression, Options, TlsOptions};

/// TLS options of a client. Their variables differ from those of the server's certificate, so that a container may have
/// both.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Tls {
    /// PEM file of the CAs to trust, instead of the system's.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_CA")]
    tls_ca: Option<OsString>,
    /// PEM file of this client's certificate, if the server requires one.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_CERT")]
    tls_cert: Option<OsString>,
    /// PEM file of the private key of that certificate.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_KEY")]
    tls_key: Option<OsString>,
    /// Name that the server's certificate must have, if it is not the host name.
    #[arg(long, global = true, value_name = "NAME", env = "STREAMWAY_CLIENT_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
}

/// The path of a flag or variable; an empty one counts as not set.
fn named(path: Option<&OsString>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Tls {
    pub(super) fn options(&self) -> TlsOptions {
        TlsOptions {
            ca: named(self.tls_ca.as_ref()),
            cert: named(self.tls_cert.as_ref()),
            key: named(self.tls_key.as_ref()),
            server_name: self.tls_server_name.clone().filter(|name| !name.is_empty()),
        }
    }
}

/// Options of the connection.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    #[command(flatten)]
    tls: Tls,
    /// File with the token to send with every call. It is read again when it changes.
    ///
    /// A token can also be given in the variable STREAMWAY_TOKEN. There is no flag for it, as every user of the machine
    /// could read it in the list of processes.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_TOKEN_FILE")]
    token_file: Option<OsString>,
    /// Allow sending the token over plaintext HTTP to another machine, for example through a service mesh that encrypts.
    #[arg(
        long,
        global = true,
        env = "STREAMWAY_TOKEN_OVER_PLAINTEXT",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    token_over_plaintext: bool,
    /// Compress messages in both directions with gzip or zstd, for slow or metered networks.
    #[arg(long, global = true, value_name = "ENCODING", env = "STREAMWAY_COMPRESSION")]
    compression: Option<Compression>,
}

impl Connection {
    /// The options of the client.
    pub(super) fn options(&self, servers: &[String]) -> Options {
        let token = std::env::var("STREAMWAY_TOKEN").ok().filter(|token| !token.is_empty());
        let token_file = named(self.token_file.as_ref());
        Options {
            servers: servers.to_vec(),
            tls: self.tls.options(),
            // A file that is named takes precedence over the variable.
            token: token.filter(|_| token_file.is_none()).map(Into::into),
            token_file,
            token_over_plaintext: self.token_over_plaintext,
            compression: self.compression,
            ..Options::new("")
        }
    }
}
