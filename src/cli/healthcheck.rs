//! `streamway healthcheck`: one call of the gRPC health protocol, with the exit codes of grpc_health_probe.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::connection::Tls;
use super::output;
use crate::client::{Error, Origin, has_invalid_port};

/// Exit code for invalid arguments.
pub(super) const ARGUMENTS: u8 = 1;
const CONNECT: u8 = 2;
const RPC: u8 = 3;
const NOT_SERVING: u8 = 4;

/// Check the health of a server.
///
/// Prints SERVING and exits with 0 if the server or the service is ready.
#[derive(Debug, Args)]
#[command(after_help = "\
Services: `liveness`, `readiness`, `publishing` (not serving while the store of NATS is full), a full
service name such as streamway.v1.StreamService, or none for the server as a whole.

Exit codes, as of grpc_health_probe: 0 serving, 1 invalid arguments, 2 connection failed or timed out,
3 call failed or timed out, 4 not serving.")]
pub(super) struct Healthcheck {
    /// Name of the service to check.
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// Admin or gRPC address, host:port. The unspecified host 0.0.0.0 means this machine.
    #[arg(long, value_name = "ADDR", env = "STREAMWAY_ADMIN_LISTEN", default_value = "127.0.0.1:8081")]
    addr: String,
    /// Use TLS, which the gRPC port may require. The admin port has no TLS. The other TLS options apply only with this.
    #[arg(long)]
    tls: bool,
    /// Time limit of connecting, and again of the call.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = crate::config::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    options: Tls,
}

impl Healthcheck {
    pub(super) async fn run(self) -> ExitCode {
        match self.check().await {
            Ok(()) => {
                let _ = writeln!(std::io::stdout(), "SERVING");
                ExitCode::SUCCESS
            }
            Err((code, message)) => {
                output::complain(&format!("error: {message}"));
                ExitCode::from(code)
            }
        }
    }

    async fn check(&self) -> Result<(), (u8, String)> {
        let url = url(&self.addr, if self.tls { "https" } else { "http" });
        let mut endpoint = Endpoint::from_shared(url.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().authority().is_some() && !has_invalid_port(endpoint.uri()))
            .ok_or_else(|| (ARGUMENTS, format!("{:?} is not host:port", self.addr)))?
            .connect_timeout(self.timeout)
            .timeout(self.timeout);
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = self.options.options().read().map_err(|why| (ARGUMENTS, why))?;
            endpoint = endpoint.tls_config(tls).map_err(|error| (ARGUMENTS, deepest(&error)))?;
        }
        let connecting = tokio::time::timeout(self.timeout, endpoint.connect()).await;
        let channel = match connecting {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err((CONNECT, format!("cannot reach {url}: {}", deepest(&error)))),
            Err(_) => return Err((CONNECT, format!("cannot reach {url}: no answer in {:?}", self.timeout))),
        };
        let request = HealthCheckRequest { service: self.service.clone() };
        let call =
            tokio::time::timeout(
                self.timeout,
                async move { HealthClient::new(channel).check(request).await },
            );
        let answer = match call.await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) if status.code() == Code::NotFound => {
                return Err((RPC, format!("{url} has no service {:?}", self.service)));
            }
            Ok(Err(status)) => {
                // With TLS 1.3 a server can refuse the client after the handshake.
                let error = Error::from_status(&status, &url);
                let code = if error.origin() == Origin::Connect { CONNECT } else { RPC };
                return Err((code, error.to_string()));
            }
            Err(_) => return Err((RPC, format!("{url}: no answer in {:?}", self.timeout))),
        };
        match answer.status() {
            ServingStatus::Serving => Ok(()),
            other => Err((NOT_SERVING, format!("{url} is {}", other.as_str_name()))),
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
