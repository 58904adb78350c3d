//! Flags and variables of the connection to a server: TLS, token and compression.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::Failure;
use super::contexts::Context;
use crate::client::{Compression, Options, TlsOptions, Token};

/// Heading of these options in the help.
pub(super) const HEADING: &str = "Connection";

/// Returns the value of a variable; an empty one counts as not set.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// TLS options of a client. Their variables differ from those of the server's certificate, so that a container may have
/// both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Tls {
    /// PEM file of the CAs to trust, instead of the system's [env: STREAMWAY_CLIENT_TLS_CA].
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = ValueHint::FilePath)]
    tls_ca: Option<OsString>,
    /// PEM file of this client's certificate, if the server requires one [env: STREAMWAY_CLIENT_TLS_CERT].
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = ValueHint::FilePath)]
    tls_cert: Option<OsString>,
    /// PEM file of the private key of that certificate [env: STREAMWAY_CLIENT_TLS_KEY].
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = ValueHint::FilePath)]
    tls_key: Option<OsString>,
    /// Name that the server's certificate must have, if it is not the host name [env: STREAMWAY_CLIENT_TLS_SERVER_NAME].
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    tls_server_name: Option<String>,
}

/// The path of a flag; an empty one counts as not set.
fn named(path: Option<OsString>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Tls {
    fn or(self, other: Self) -> Self {
        Self {
            tls_ca: self.tls_ca.or(other.tls_ca),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_server_name: self.tls_server_name.or(other.tls_server_name),
        }
    }

    fn of_environment() -> Self {
        let server_name = variable("STREAMWAY_CLIENT_TLS_SERVER_NAME");
        Self {
            tls_ca: variable("STREAMWAY_CLIENT_TLS_CA"),
            tls_cert: variable("STREAMWAY_CLIENT_TLS_CERT"),
            tls_key: variable("STREAMWAY_CLIENT_TLS_KEY"),
            tls_server_name: server_name.map(|name| name.to_string_lossy().into_owned()),
        }
    }

    fn options(self) -> TlsOptions {
        TlsOptions {
            ca: named(self.tls_ca),
            cert: named(self.tls_cert),
            key: named(self.tls_key),
            server_name: self.tls_server_name.filter(|name| !name.is_empty()),
        }
    }
}

/// Options of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Connection {
    #[command(flatten)]
    tls: Tls,
    /// File with the token to send with every call. It is read again when it changes [env: STREAMWAY_TOKEN_FILE].
    ///
    /// A token can also be given in the variable STREAMWAY_TOKEN. There is no flag for it, as every user of the machine
    /// could read it in the list of processes.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = ValueHint::FilePath)]
    token_file: Option<OsString>,
    #[arg(skip)]
    token: Option<Token>,
    /// Allow sending the token over plaintext HTTP to another machine, for example through a service mesh that encrypts
    /// [env: STREAMWAY_TOKEN_OVER_PLAINTEXT].
    #[arg(long, global = true, hide_short_help = true)]
    token_over_plaintext: bool,
    /// Compress messages in both directions, for slow or metered networks [env: STREAMWAY_COMPRESSION].
    #[arg(long, global = true, value_name = "gzip|zstd", hide_short_help = true)]
    compression: Option<Compression>,
}

impl Connection {
    /// Takes the options that are not given here from `before`.
    pub(super) fn inherit(&mut self, before: Self) {
        *self = std::mem::take(self).or(before);
    }

    /// These options, and those of `other` where they are not given. A token and a file of it count as one option.
    pub(super) fn or(self, other: Self) -> Self {
        let (token_file, token) = if self.token_file.is_some() || self.token.is_some() {
            (self.token_file, self.token)
        } else {
            (other.token_file, other.token)
        };
        Self {
            tls: self.tls.or(other.tls),
            token_file,
            token,
            token_over_plaintext: self.token_over_plaintext || other.token_over_plaintext,
            compression: self.compression.or(other.compression),
        }
    }

    pub(super) fn of_environment() -> Result<Self, Failure> {
        const NO: [&str; 6] = ["0", "false", "f", "no", "n", "off"];
        let token_file = variable("STREAMWAY_TOKEN_FILE");
        let token = variable("STREAMWAY_TOKEN").filter(|_| token_file.is_none());
        let over_plaintext = variable("STREAMWAY_TOKEN_OVER_PLAINTEXT");
        let compression = variable("STREAMWAY_COMPRESSION").map(|name| name.to_string_lossy().parse());
        Ok(Self {
            tls: Tls::of_environment(),
            token_file,
            token: token.map(|token| token.to_string_lossy().into_owned().into()),
            token_over_plaintext: over_plaintext
                .is_some_and(|value| !NO.contains(&value.to_string_lossy().to_lowercase().as_str())),
            compression: compression
                .transpose()
                .map_err(|why| Failure::usage(format!("STREAMWAY_COMPRESSION: {why}")))?,
        })
    }

    /// The options of a saved context.
    pub(super) fn of_context(context: &Context) -> Result<Self, Failure> {
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let compression = context.compression.as_deref().map(str::parse).transpose();
        Ok(Self {
            tls: Tls {
                tls_ca: path(&context.tls_ca),
                tls_cert: path(&context.tls_cert),
                tls_key: path(&context.tls_key),
                tls_server_name: context.tls_server_name.clone(),
            },
            token_file: path(&context.token_file),
            token: context.token.clone().map(Into::into),
            token_over_plaintext: context.token_over_plaintext,
            compression: compression.map_err(|why| Failure::usage(format!("compression: {why}")))?,
        })
    }

    /// These flags as a context without a server.
    pub(super) fn saved(&self) -> Context {
        let TlsOptions { ca, cert, key, server_name } = self.tls.clone().options();
        Context {
            tls_ca: ca,
            tls_cert: cert,
            tls_key: key,
            tls_server_name: server_name,
            token_file: named(self.token_file.clone()),
            token_over_plaintext: self.token_over_plaintext,
            compression: self.compression.map(|encoding| encoding.to_string()),
            ..Context::default()
        }
    }

    /// The options of a client of these servers, by these flags and by the variables of this process.
    pub(super) fn options(&self, servers: &[String]) -> Result<Options, Failure> {
        Ok(self.clone().or(Self::of_environment()?).client_options(servers))
    }

    pub(super) fn client_options(self, servers: &[String]) -> Options {
        Options {
            servers: servers.to_vec(),
            tls: self.tls.options(),
            token: self.token,
            token_file: named(self.token_file),
            token_over_plaintext: self.token_over_plaintext,
            compression: self.compression,
            ..Options::new("")
        }
    }
}
