//! The replicas behind the addresses of `--server`: every address of a name is asked by itself.

use std::collections::BTreeSet;
use std::process::ExitCode;

use http::Uri;
use tokio::net::lookup_host;

use crate::cli::format::Format;
use crate::cli::{FAILURE, Failure};
use crate::client::{Client, Error, Operator, Options};

/// Maximum addresses that are asked: far more than a fleet has replicas.
const ADDRESSES_MAX: usize = 256;
/// Port of gRPC where an address names none and is plaintext.
const PORTS: [(&str, u16); 2] = [("https", 443), ("http", 80)];

/// One server for each address.
pub(super) struct Replicas {
    operators: Vec<(String, Operator)>,
    failures: usize,
    format: Format,
}

impl Replicas {
    /// Resolves the addresses. Failures are printed in this format.
    pub(super) async fn find(options: &Options, format: Format) -> Result<Self, Failure> {
        let mut replicas = Self { operators: Vec::new(), failures: 0, format };
        let mut seen = BTreeSet::new();
        for server in &options.servers {
            // Checks the address and the options too.
            let named = Options { servers: vec![server.clone()], ..options.clone() };
            Client::new(named.clone()).map_err(|error| Failure::usage(error.to_string()))?;
            let (url, host) = match addresses(server, &named).await {
                Ok(found) => found,
                Err(why) => {
                    replicas.fail(server, Failure::failed(why));
                    continue;
                }
            };
            for url in url.into_iter().take(ADDRESSES_MAX).filter(|url| seen.insert(url.clone())) {
                let mut own = Options { servers: vec![url.clone()], ..named.clone() };
                if url.starts_with("https:") && own.tls.server_name.is_none() {
                    // The certificate is the name's.
                    own.tls.server_name = Some(host.clone());
                }
                let client = Client::new(own).map_err(|error| Failure::usage(error.to_string()))?;
                replicas.operators.push((url, client.operator()));
            }
        }
        Ok(replicas)
    }

    /// Asks every replica, and names those that fail on standard error.
    pub(super) async fn ask<T>(&mut self, call: impl AsyncFn(&Operator) -> Result<T, Error>) -> Vec<T> {
        let (mut answers, operators) = (Vec::new(), std::mem::take(&mut self.operators));
        for (url, operator) in &operators {
            match call(operator).await {
                Ok(answer) => answers.push(answer),
                Err(error) => self.fail(url, error.into()),
            }
        }
        self.operators = operators;
        answers
    }

    /// Tells whether every address was asked and answered.
    pub(super) const fn all_answered(&self) -> bool {
        self.failures == 0
    }

    /// Returns the exit code of the command.
    pub(super) fn outcome(&self) -> Result<ExitCode, Failure> {
        match (self.failures, self.operators.is_empty()) {
            (0, true) => Err(Failure::failed("no server is named")),
            (0, false) => Ok(ExitCode::SUCCESS),
            _ => Ok(ExitCode::from(FAILURE)),
        }
    }

    fn fail(&mut self, server: &str, why: Failure) {
        self.failures += 1;
        self.format.complain(&why.about("server", server));
    }
}

/// Returns the URL of every address of a server, and its host.
async fn addresses(server: &str, options: &Options) -> Result<(Vec<String>, String), String> {
    let scheme = if options.tls == Default::default() { "http" } else { "https" };
    let url = if server.contains("://") { server.to_owned() } else { format!("{scheme}://{server}") };
    let uri: Uri = url.parse().map_err(|_| "is not a URL".to_owned())?;
    let scheme = uri.scheme_str().unwrap_or(scheme);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let default = PORTS.iter().find(|(known, _)| *known == scheme).map_or(80, |(_, port)| *port);
    let found = lookup_host((host.as_str(), uri.port_u16().unwrap_or(default))).await;
    let found: BTreeSet<_> = found.map_err(|error| format!("cannot be resolved: {error}"))?.collect();
    Ok((found.into_iter().map(|address| format!("{scheme}://{address}")).collect(), host))
}
