//! How client commands connect: TLS and token, as flags and variables.
//! Never: connects.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::client::{Compression, Options, TlsOptions};

/// TLS from a client's side. The variables are not those of the server's own certificate, so that a
/// container may have both.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Tls {
    /// PEM file of the CAs to trust in place of the system's.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_CA")]
    tls_ca: Option<OsString>,
    /// PEM file of this client's certificate, where the server asks for one.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_CERT")]
    tls_cert: Option<OsString>,
    /// PEM file of its private key.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_CLIENT_TLS_KEY")]
    tls_key: Option<OsString>,
    /// The name the server's certificate must have, where it is not the host's.
    #[arg(long, global = true, value_name = "NAME", env = "STREAMWAY_CLIENT_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
}

/// An emptied variable says nothing.
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

/// Who a client command is, and how it connects.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    #[command(flatten)]
    tls: Tls,
    /// File of the token to send with every call; read again when it changes.
    ///
    /// A token itself is taken from the variable STREAMWAY_TOKEN. There is no flag for it: every user
    /// of the machine could read it in the list of processes.
    #[arg(long, global = true, value_name = "FILE", env = "STREAMWAY_TOKEN_FILE")]
    token_file: Option<OsString>,
    /// Send the token in plaintext even to another machine, through a mesh that encrypts for one.
    #[arg(
        long,
        global = true,
        env = "STREAMWAY_TOKEN_OVER_PLAINTEXT",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    token_over_plaintext: bool,
    /// Compress records on the way, both ways: gzip or zstd. For slow or metered networks.
    #[arg(long, global = true, value_name = "ENCODING", env = "STREAMWAY_COMPRESSION")]
    compression: Option<Compression>,
}

impl Connection {
    /// Lays this over the defaults.
    pub(super) fn options(&self, servers: &[String]) -> Options {
        let token = std::env::var("STREAMWAY_TOKEN").ok().filter(|token| !token.is_empty());
        let token_file = named(self.token_file.as_ref());
        Options {
            servers: servers.to_vec(),
            tls: self.tls.options(),
            // A file that is named goes before a variable that may be somebody else's.
            token: token.filter(|_| token_file.is_none()).map(Into::into),
            token_file,
            token_over_plaintext: self.token_over_plaintext,
            compression: self.compression,
            ..Options::new("")
        }
    }
}
