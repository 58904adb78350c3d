//! `streamway healthcheck`: one call of the gRPC health protocol, with the exit codes of grpc_health_probe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::connection::variable;
use super::format::Format;
use super::remote::Remote;
use super::{Failure, output};
use crate::client::{Error, Origin, TlsOptions, has_invalid_port, split_user};

/// Exit code for invalid arguments.
pub(super) const ARGUMENTS: u8 = 1;
const CONNECT: u8 = 2;
const RPC: u8 = 3;
const NOT_SERVING: u8 = 4;

/// Admin port of a server that is started without a configuration.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8081";

/// Check the health of a server.
///
/// Prints SERVING and exits with 0 if the server or the service is ready. The server is the one that --addr names, else
/// --server or --context, else the variable STREAMWAY_ADMIN_LISTEN, else STREAMWAY_SERVER, else the context in use, else the
/// admin port of this machine. Of several servers, all must be ready; the exit code is the highest of theirs.
#[derive(Debug, Args)]
#[command(after_help = "\
Services: `liveness`, `readiness`, `publishing` (not serving while the store of NATS is full), a full \
service name such as streamway.v1.StreamService, or none for the server as a whole.

Exit codes, as of grpc_health_probe: 0 serving, 1 invalid arguments, 2 connection failed or timed out, \
3 call failed or timed out, 4 not serving.")]
pub(super) struct Healthcheck {
    /// Name of the service to check.
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// Admin or gRPC address, host:port. The unspecified host 0.0.0.0 means this machine [env: STREAMWAY_ADMIN_LISTEN]
    /// [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDR")]
    addr: Option<String>,
    /// Use TLS for an address without https://. The gRPC port may require it; the admin port has no TLS. The other TLS
    /// options apply only with TLS.
    #[arg(long)]
    tls: bool,
    /// Time limit of connecting, and again of the call.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = crate::config::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Exit code and message of a check that failed.
type Failed = (u8, String);

impl Healthcheck {
    pub(super) async fn run(self) -> ExitCode {
        let urls = match self.urls() {
            Ok(urls) => urls,
            Err(failed) => return self.complain(None, failed),
        };
        let mut worst = 0;
        for url in &urls {
            let checked = match self.check(url).await {
                Ok(status) => self.show(url, status, urls.len() > 1),
                Err(failed) => Err(failed),
            };
            if let Err(failed) = checked {
                worst = failed.0.max(worst);
                self.complain(Some(url), failed);
            }
        }
        ExitCode::from(worst)
    }

    /// Prints why a check failed. The message names the server already.
    fn complain(&self, server: Option<&str>, (code, message): Failed) -> ExitCode {
        let failure = Failure::with_code(code, message);
        if let Some(server) = server.filter(|_| self.format.is_json()) {
            self.format.complain(&failure.about("server", server));
        } else {
            self.format.complain(&failure);
        }
        ExitCode::from(code)
    }

    fn urls(&self) -> Result<Vec<String>, Failed> {
        let of_variable = variable("STREAMWAY_ADMIN_LISTEN").map(|addr| addr.to_string_lossy().into_owned());
        let servers = || self.remote.servers().map_err(|failure| (ARGUMENTS, failure.message));
        let (addresses, is_server) = match (&self.addr, of_variable) {
            (Some(addr), _) => (vec![addr.clone()], false),
            (None, Some(addr)) if !self.remote.is_named_by_flag() => (vec![addr], false),
            (None, _) => match servers()? {
                Some(servers) => (servers, true),
                None => (vec![DEFAULT_ADDRESS.to_owned()], false),
            },
        };
        // The TLS options of a client say that the gRPC port has TLS. The admin port never has.
        let is_secure = self.tls || (is_server && self.tls_options()? != TlsOptions::default());
        Ok(addresses.iter().map(|addr| url(addr, if is_secure { "https" } else { "http" })).collect())
    }

    fn tls_options(&self) -> Result<TlsOptions, Failed> {
        Ok(self.remote.options().map_err(|failure| (ARGUMENTS, failure.message))?.tls)
    }

    fn show(&self, url: &str, status: ServingStatus, is_one_of_many: bool) -> Result<(), Failed> {
        let name = status.as_str_name();
        let shown = match (self.format.is_json(), status, is_one_of_many) {
            (true, ..) => output::json_line(&json!({ "server": url, "status": name })),
            (false, ServingStatus::Serving, false) => format!("{name}\n"),
            (false, ServingStatus::Serving, true) => format!("{url} is {name}\n"),
            _ => String::new(),
        };
        // The answer is the exit code, which does not depend on who reads this.
        let _ = output::print(&shown);
        match status {
            ServingStatus::Serving => Ok(()),
            _ => Err((NOT_SERVING, format!("{url} is {name}"))),
        }
    }

    async fn check(&self, url: &str) -> Result<ServingStatus, Failed> {
        if let Some((_, address)) = split_user(url) {
            return Err((ARGUMENTS, format!("…@{address} holds a user or a password: leave them out")));
        }
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().authority().is_some() && !has_invalid_port(endpoint.uri()))
            .ok_or_else(|| (ARGUMENTS, format!("{url:?} is not host:port")))?
            .connect_timeout(self.timeout)
            .timeout(self.timeout);
        match endpoint.uri().scheme_str() {
            Some("https") => {
                let tls = self.tls_options()?.read().map_err(|why| (ARGUMENTS, why))?;
                endpoint = endpoint.tls_config(tls).map_err(|error| (ARGUMENTS, deepest(&error)))?;
            }
            Some("http") if self.tls => {
                return Err((ARGUMENTS, format!("{url} is plaintext, but --tls is given")));
            }
            Some("http") => {}
            _ => return Err((ARGUMENTS, format!("{url} is neither http nor https"))),
        }
        let connecting = tokio::time::timeout(self.timeout, endpoint.connect()).await;
        let channel = match connecting {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err((CONNECT, format!("cannot reach {url}: {}", deepest(&error)))),
            Err(_) => return Err((CONNECT, format!("cannot reach {url}: no answer in {:?}", self.timeout))),
        };
        let request = HealthCheckRequest { service: self.service.clone() };
        let call = async move { HealthClient::new(channel).check(request).await };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().status()),
            Ok(Err(status)) if status.code() == Code::NotFound => {
                Err((RPC, format!("{url} has no service {:?}", self.service)))
            }
            Ok(Err(status)) => {
                // With TLS 1.3 a server can refuse the client after the handshake.
                let error = Error::from_status(&status, url);
                let code = if error.origin() == Origin::Connect { CONNECT } else { RPC };
                Err((code, error.to_string()))
            }
            Err(_) => Err((RPC, format!("{url}: no answer in {:?}", self.timeout))),
        }
    }
}

fn url(addr: &str, scheme: &str) -> String {
    let here = match addr.parse::<SocketAddr>() {
        Ok(socket) if socket.ip().is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), socket.port()).to_string()
        }
        _ => addr.to_owned(),
    };
    if here.contains("://") { here } else { format!("{scheme}://{here}") }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
