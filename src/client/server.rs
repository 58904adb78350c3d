//! The address of a server, and the channel to it.

use std::net::IpAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use tonic::Code;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::error::{Error, deepest};
use super::options::Options;
use super::tls::TlsOptions;

/// Bytes that a server may send ahead on one call: what a subscriber at full speed receives in a round trip of some
/// milliseconds.
const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes that a server may send ahead on the whole connection. It is larger than [`STREAM_WINDOW`], so that one
/// subscription that does not read does not stop the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Idle time after which the connection is tested with a ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Time limit for the answer to that ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest HTTP/2 frame, in bytes, so that one frame usually takes one system call.
const FRAME_BYTES: u32 = 1 << 20;

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    /// The channel with the newest certificates.
    pub(super) channel: ArcSwap<Channel>,
}

impl Server {
    /// Checks an address, and prepares the channel to it. Nothing is sent before the first call.
    ///
    /// # Errors
    /// The address is not of the form `http://host:port` or `https://host:port`, does not go with the TLS options, or
    /// would expose a token.
    pub(super) fn new(url: &str, options: &Options, tls: &ClientTlsConfig) -> Result<Self, Error> {
        let asked = options.tls != TlsOptions::default();
        let scheme = if asked { "https" } else { "http" };
        let url = if url.contains("://") { url.to_owned() } else { format!("{scheme}://{url}") };
        let invalid = |why: &str| {
            Error::local(
                Code::InvalidArgument,
                format!(
                    "server address {url:?} {why}; write https://host:port, or http://host:port for plaintext"
                ),
            )
        };
        // The transport would take it for the path of a socket, and replace the scheme.
        if url.starts_with("unix:") {
            return Err(invalid("is neither http nor https"));
        }
        // No call would send it, and every message about the server would show it.
        if let Some((_, address)) = split_user(&url) {
            let why =
                "holds a user or a password, which no call would send: leave them out, and give a token";
            return Err(Error::local(Code::InvalidArgument, format!("server address …@{address} {why}")));
        }
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| invalid("is not a URL"))?;
        let host = endpoint.uri().authority().map_or("", |authority| authority.host());
        if host.is_empty() {
            return Err(invalid("names no host"));
        }
        if has_invalid_port(endpoint.uri()) {
            return Err(invalid("has an invalid port"));
        }
        let endpoint = match endpoint.uri().scheme_str() {
            Some("https") => {
                endpoint.tls_config(tls.clone().timeout(options.connect_timeout)).map_err(|error| {
                    let cause = deepest(&error);
                    Error::local(Code::InvalidArgument, format!("TLS to {url} cannot be set up: {cause}"))
                })?
            }
            Some("http") if asked => return Err(invalid("is plaintext, but TLS options are given")),
            Some("http") => {
                let token = options.token.is_some() || options.token_file.is_some();
                if token && !options.token_over_plaintext && !is_loopback(host) {
                    return Err(invalid(
                        "is plaintext, so everybody on the network path could read the token",
                    ));
                }
                endpoint
            }
            _ => return Err(invalid("is neither http nor https")),
        };
        let channel = configured(endpoint, options).connect_lazy();
        Ok(Self { url, channel: ArcSwap::from_pointee(channel) })
    }
}

/// Sets the limits and timers of the connection.
fn configured(endpoint: Endpoint, options: &Options) -> Endpoint {
    endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
}

/// Splits the user, with a password if there is one, off the address of a URL; `None` where it names no user.
pub(crate) fn split_user(url: &str) -> Option<(&str, &str)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let at = authority.rfind('@')?;
    Some((&authority[..at], &rest[at + 1..]))
}

/// Returns true if an address has an invalid port, as 99999. The transport would ignore it, and use the default port of
/// the scheme.
pub(crate) fn has_invalid_port(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let address = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = address.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
    port.is_some_and(|port| !port.is_empty()) && authority.port_u16().is_none()
}

/// Returns true if what is sent to the host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, Options, TlsOptions, Uri, configured};
    use crate::client::connector::Connector;
    use crate::client::{Error, Origin};
    use crate::proto::v1::SubscribeRequest;
    use crate::proto::v1::stream_service_client::StreamServiceClient;
    use hyper_util::rt::TokioIo;
    use std::time::Duration;

    /// A machine that is gone without a word: its connection stays open, and answers no ping.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_peer_answers_no_ping_breaks() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let body = respond.send_response(head, false).unwrap();
            // The head is sent, and then nothing is read or written any more.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.accept()).await;
            std::future::pending::<()>().await;
            drop((connection, body));
        });
        let mut near = Some(near);
        let endpoint = configured(Endpoint::from_static("http://x:1"), &Options::new("http://x:1"));
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let stream = near.take().map(TokioIo::new).ok_or(std::io::Error::other("one connection only"));
            std::future::ready(stream)
        }));
        let started = tokio::time::Instant::now();
        let mut client = StreamServiceClient::new(channel);
        let mut stream = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
        let error = Error::from_status(&stream.message().await.unwrap_err(), "http://x:1");
        assert!(error.origin() == Origin::Transport && error.is_retryable(), "{error}");
        let (waited, expected) = (started.elapsed(), KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT);
        assert!(waited >= KEEPALIVE_INTERVAL && waited <= expected + KEEPALIVE_INTERVAL, "{waited:?}");
        server.abort();
    }

    #[tokio::test]
    async fn invalid_addresses_are_refused() {
        for good in ["http://127.0.0.1:50051", "localhost:50051", "http://[::1]:1", "https://x:1"] {
            assert!(Connector::new(Options::new(good)).is_ok(), "{good}");
        }
        for bad in [
            "http://",
            "https://",
            "http://a b",
            "unix:///x",
            "ftp://x:1",
            "http://x:99999",
            "x:65536",
            "http://[::1]:65536",
            "http://u@x:70000",
            "http://u:s3cret@x:1/",
            "u:s3cret@x:1",
        ] {
            let error = Connector::new(Options::new(bad)).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_is_sent_in_plaintext_only_to_this_machine_or_where_allowed() {
        let with = |server: &str, over_plaintext| {
            let options = Options { token: Some("s3cret".into()), ..Options::new(server) };
            Connector::new(Options { token_over_plaintext: over_plaintext, ..options })
        };
        for here in
            ["127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.8.8.8:1", "https://x:1"]
        {
            assert!(with(here, false).is_ok(), "{here}");
        }
        for away in ["x:1", "http://10.0.0.1:1", "http://localhost.example.org:1", "http://[::2]:1"] {
            let error = with(away, false).unwrap_err().to_string();
            assert!(error.contains("could read the token") && !error.contains("s3cret"), "{error}");
            assert!(with(away, true).is_ok(), "{away}");
        }
        let options = Options { token: Some("s3cret".into()), ..Options::new("x") };
        assert!(!format!("{options:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn tls_options_and_addresses_must_agree() {
        let tls = TlsOptions { server_name: Some("x".to_owned()), ..TlsOptions::default() };
        let with = |server: &str, tls: &TlsOptions| {
            Connector::new(Options { tls: tls.clone(), ..Options::new(server) })
        };
        assert_eq!(with("x:1", &tls).unwrap().target("a.B/C", None).url, "https://x:1");
        assert!(with("http://x:1", &tls).unwrap_err().message().contains("is plaintext"));
        let half = TlsOptions { cert: Some("x.pem".into()), ..TlsOptions::default() };
        assert!(with("x:1", &half).unwrap_err().message().contains("go together"));
        let missing = TlsOptions { ca: Some("/nonexistent/ca.pem".into()), ..TlsOptions::default() };
        assert!(
            with("x:1", &missing).unwrap_err().message().starts_with("/nonexistent/ca.pem: No such file")
        );
        let empty = tempfile::NamedTempFile::new().unwrap();
        let empty = TlsOptions { ca: Some(empty.path().to_owned()), ..TlsOptions::default() };
        assert!(with("x:1", &empty).unwrap_err().message().contains("holds no certificate"));
    }
}
