//! One connection to a server, or to the first that answers of several; who it is made as.
//! Never: a call's own state.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::compression::Compression;
use super::error::{Error, deepest};
use super::interceptor::CallMetadata;
use super::publisher::{Publisher, PublisherOptions};
use super::retry::{Backoff, RetryPolicy};
use super::subscriber::{Subscriber, SubscriberOptions};
use super::tls::TlsOptions;
use super::token::{Bearer, Token};
use super::topics::Topics;
use crate::proto::v1::topic_service_client::TopicServiceClient;
use crate::reload::{Contents, Files};
use crate::telemetry::{Outgoing, ParentContext};
use crate::wire::stubs::v1::stream_service_client::StreamServiceClient;

/// Bytes a server may send ahead on one call: what a subscriber that reads at full speed takes in
/// during a round trip of some milliseconds.
const STREAM_WINDOW: u32 = 4 << 20;
/// And on the whole connection, so that one stuck subscription does not stop the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Silence after which the connection is tested, and how long the answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// Largest frame of ours: one frame a system call, as a rule.
const FRAME_BYTES: u32 = 1 << 20;

/// Looking at a few small files costs nothing, and nobody renews a certificate in the last seconds.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// How to reach the servers.
#[derive(Clone, Debug)]
pub struct Options {
    /// One server or several of one fleet, `http://host:port` or `https://host:port` each; where that
    /// is left out, it is `https://` if anything is said of TLS.
    pub servers: Vec<String>,
    /// Longest time to make a connection, and again for its TLS handshake.
    pub connect_timeout: Duration,
    /// Longest wait for the answer of one call of [`Topics`]: of a server whose disk hangs, none comes.
    pub answer_timeout: Duration,
    /// Largest message taken from the server, in bytes.
    pub message_bytes_max: usize,
    /// TLS to `https://` servers.
    pub tls: TlsOptions,
    /// Sent with every call.
    pub token: Option<Token>,
    /// A file that holds the token, in its place; read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Whether the token may be sent in plaintext to another machine, where everybody on the way can
    /// read it.
    pub token_over_plaintext: bool,
    /// How messages are compressed, both ways.
    pub compression: Option<Compression>,
    /// How often the files named here are looked at for changes.
    pub reload_interval: Duration,
}

impl Options {
    /// The defaults, for one server.
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

#[derive(Debug)]
struct Server {
    url: String,
    /// The one that connects with the newest certificates.
    channel: ArcSwap<Channel>,
}

/// What calls go through.
pub(crate) type Transport = InterceptedService<Channel, CallMetadata>;

/// A client. Cheap to clone; connects when it is first used, and again whenever it must.
#[derive(Clone, Debug)]
pub struct Client {
    servers: Arc<[Server]>,
    /// Which server is used now; the next one's turn comes when it fails.
    current: Arc<AtomicUsize>,
    message_bytes_max: usize,
    answer_timeout: Duration,
    compression: Option<Compression>,
    bearer: Bearer,
    /// What its calls are part of.
    origin: ParentContext,
    /// Counts the changes of certificates and token.
    renewals: Arc<AtomicU64>,
    /// What looks at their files; it ends with the last clone.
    _following: Arc<[AbortOnDropHandle<()>]>,
}

impl Client {
    /// A client of these servers. Nothing is sent yet; the files named are read.
    ///
    /// # Errors
    /// No server is named, or one's address is not a URL of the form `http://host:port`; a file cannot
    /// be used; or a token would travel in plaintext.
    pub fn new(options: Options) -> Result<Self, Error> {
        let refused = |why: String| Error::local(Code::InvalidArgument, why);
        options.tls.check().map_err(refused)?;
        let (tls_files, contents) = read(options.tls.paths())?;
        let tls = options.tls.config(&contents).map_err(refused)?;
        let servers: Arc<[Server]> =
            options.servers.iter().map(|url| server(url, &options, &tls)).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(Error::local(Code::InvalidArgument, "no server is named"));
        }
        let (bearer, renewals) = (Bearer::default(), Arc::new(AtomicU64::new(0)));
        let token_files = token(&options, &bearer)?;
        let renew_tls = {
            let (options, servers, renewals) = (options.clone(), Arc::clone(&servers), Arc::clone(&renewals));
            move |contents: &Contents| renew(&options, contents, &servers, &renewals)
        };
        let renew_token = {
            let (path, bearer, renewals) = (options.token_file, bearer.clone(), Arc::clone(&renewals));
            move |contents: &Contents| {
                bearer.set_from(path.as_deref().unwrap_or("".as_ref()), &contents[0])?;
                renewals.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        let interval = options.reload_interval;
        let following = [
            tls_files.map(|files| tokio::spawn(files.follow(interval, renew_tls))),
            token_files.map(|files| tokio::spawn(files.follow(interval, renew_token))),
        ];
        Ok(Self {
            servers,
            current: Arc::new(AtomicUsize::new(0)),
            message_bytes_max: options.message_bytes_max,
            answer_timeout: options.answer_timeout,
            compression: options.compression,
            bearer,
            origin: ParentContext::current(),
            renewals,
            _following: following.into_iter().flatten().map(AbortOnDropHandle::new).collect(),
        })
    }

    /// A publisher to a topic.
    ///
    /// # Errors
    /// The topic's name or an option breaks its rule.
    pub fn publisher(&self, topic: &str, options: PublisherOptions) -> Result<Publisher, Error> {
        Publisher::start(self.clone(), topic, options)
    }

    /// A subscription; it starts when it is first asked for a delivery.
    #[must_use]
    pub fn subscribe(&self, options: SubscriberOptions) -> Subscriber {
        Subscriber::new(self.clone(), options)
    }

    /// Administration of topics.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::new(self.clone())
    }

    /// The server used now, for one call of `method`.
    pub(crate) fn endpoint(&self, method: &'static str, topic: Option<&str>) -> Endpointed {
        let index = self.current.load(Ordering::Relaxed) % self.servers.len();
        Endpointed {
            index,
            url: self.servers[index].url.clone(),
            trace: Arc::new(Outgoing::begin(&self.origin, method, &self.servers[index].url, topic)),
            channel: Channel::clone(&self.servers[index].channel.load()),
            renewals: self.renewals.load(Ordering::Relaxed),
        }
    }

    /// The patience of one call that is kept alive.
    pub(crate) fn backoff(&self, policy: RetryPolicy) -> Backoff {
        Backoff::new(policy, u32::try_from(self.servers.len()).unwrap_or(u32::MAX))
    }

    /// How long an administrative call may take.
    pub(crate) const fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// That server failed: the next one's turn, unless somebody else has moved on already.
    pub(crate) fn move_on(&self, from: usize) {
        let next = (from + 1) % self.servers.len();
        let _ = self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn metadata(&self, endpoint: &Endpointed) -> CallMetadata {
        CallMetadata::new(self.bearer.clone(), &endpoint.trace)
    }

    /// The unparsed calls of a server.
    pub(crate) fn streams(&self, endpoint: &Endpointed) -> StreamServiceClient<Transport> {
        let client = StreamServiceClient::with_interceptor(endpoint.channel.clone(), self.metadata(endpoint))
            .max_decoding_message_size(self.message_bytes_max);
        match self.compression.map(Into::into) {
            Some(encoding) => client.send_compressed(encoding).accept_compressed(encoding),
            None => client,
        }
    }

    /// Administration at a server.
    pub(crate) fn administration(&self, endpoint: &Endpointed) -> TopicServiceClient<Transport> {
        TopicServiceClient::with_interceptor(endpoint.channel.clone(), self.metadata(endpoint))
    }

    /// What a call to that endpoint failed with. An identity that has expired under a long call is
    /// worth another try where it has been renewed since.
    pub(crate) fn reconsider(&self, error: Error, endpoint: &Endpointed) -> Error {
        endpoint.failed(&error);
        let renewed = self.renewals.load(Ordering::Relaxed) != endpoint.renewals;
        if renewed && error.code() == Code::Unauthenticated { error.retryable() } else { error }
    }
}

/// A server chosen for one call.
#[derive(Clone, Debug)]
pub(crate) struct Endpointed {
    pub(crate) index: usize,
    pub(crate) url: String,
    channel: Channel,
    /// The call's span; it ends with the last clone.
    trace: Arc<Outgoing>,
    /// How often the identity had been renewed by then.
    renewals: u64,
}

impl Endpointed {
    /// Notes on the call's span why it failed.
    pub(crate) fn failed(&self, error: &Error) {
        self.trace.fail(error.code() as usize, error.reason());
    }
}

/// Reads files that will be followed; none where none is named.
fn read(paths: Vec<PathBuf>) -> Result<(Option<Files>, Contents), Error> {
    if paths.is_empty() {
        return Ok((None, Contents::new()));
    }
    let (files, contents) =
        Files::read(paths).map_err(|error| Error::local(Code::InvalidArgument, error.to_string()))?;
    Ok((Some(files), contents))
}

/// Takes the token over, if there is one.
fn token(options: &Options, bearer: &Bearer) -> Result<Option<Files>, Error> {
    let refused = |why: String| Error::local(Code::InvalidArgument, why);
    let files = match (&options.token, &options.token_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(refused("a token is given, and a file of one too: choose one".into()));
        }
        (Some(token), None) => {
            bearer.set(token).map_err(refused)?;
            None
        }
        (None, Some(path)) => {
            let (files, contents) = read(vec![path.clone()])?;
            bearer.set_from(path, &contents[0]).map_err(refused)?;
            files
        }
    };
    Ok(files)
}

/// Connections made from now on use these certificates; those there are go on.
fn renew(
    options: &Options,
    contents: &Contents,
    servers: &[Server],
    renewals: &AtomicU64,
) -> Result<(), String> {
    let tls = options.tls.config(contents)?;
    let renewed = servers.iter().map(|old| server(&old.url, options, &tls)).collect::<Result<Vec<_>, _>>();
    for (old, new) in servers.iter().zip(renewed.map_err(|error| error.message().to_owned())?) {
        old.channel.store(new.channel.into_inner());
    }
    renewals.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn server(url: &str, options: &Options, tls: &ClientTlsConfig) -> Result<Server, Error> {
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
    // The transport would take it for a socket's path, and give it a scheme of its own.
    if url.starts_with("unix:") {
        return Err(invalid("is neither http nor https"));
    }
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| invalid("is not a URL"))?;
    let host = endpoint.uri().authority().map_or("", |authority| authority.host());
    if host.is_empty() {
        return Err(invalid("names no host"));
    }
    if names_no_port(endpoint.uri()) {
        return Err(invalid("names a port that there is not"));
    }
    let endpoint = match endpoint.uri().scheme_str() {
        Some("https") => {
            endpoint.tls_config(tls.clone().timeout(options.connect_timeout)).map_err(|error| {
                let cause = deepest(&error);
                Error::local(Code::InvalidArgument, format!("TLS to {url} cannot be set up: {cause}"))
            })?
        }
        Some("http") if asked => return Err(invalid("is plaintext, and options of TLS are given")),
        Some("http") => {
            let token = options.token.is_some() || options.token_file.is_some();
            if token && !options.token_over_plaintext && !is_loopback(host) {
                return Err(invalid("is plaintext, and everybody on the way could read the token"));
            }
            endpoint
        }
        _ => return Err(invalid("is neither http nor https")),
    };
    let channel = endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE.0))
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .connect_lazy();
    Ok(Server { url, channel: ArcSwap::from_pointee(channel) })
}

/// Whether what stands for the port is none, as 99999: it would be left out, and the scheme's own used.
pub(crate) fn names_no_port(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let address = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = address.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
    port.is_some_and(|port| !port.is_empty()) && authority.port_u16().is_none()
}

/// Whether nobody but this machine sees what is sent there.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Client, Options, TlsOptions};

    #[tokio::test]
    async fn addresses_are_checked() {
        for good in ["http://127.0.0.1:50051", "localhost:50051", "http://[::1]:1", "https://x:1"] {
            assert!(Client::new(Options::new(good)).is_ok(), "{good}");
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
        ] {
            assert!(Client::new(Options::new(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_travels_in_plaintext_only_here_or_where_it_may() {
        let with = |server: &str, over_plaintext| {
            let options = Options { token: Some("s3cret".into()), ..Options::new(server) };
            Client::new(Options { token_over_plaintext: over_plaintext, ..options })
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
    async fn what_is_said_of_tls_must_fit() {
        let tls = TlsOptions { server_name: Some("x".to_owned()), ..TlsOptions::default() };
        let with = |server: &str, tls: &TlsOptions| {
            Client::new(Options { tls: tls.clone(), ..Options::new(server) })
        };
        assert_eq!(with("x:1", &tls).unwrap().endpoint("a.B/C", None).url, "https://x:1");
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

    #[tokio::test]
    async fn a_server_that_fails_hands_over_to_the_next_once() {
        let servers = vec!["http://a:1".to_owned(), "http://b:1".to_owned()];
        let client = Client::new(Options { servers, ..Options::new("") }).unwrap();
        let first = client.endpoint("a.B/C", None);
        client.move_on(first.index);
        client.move_on(first.index);
        assert_eq!(client.endpoint("a.B/C", None).url, "http://b:1");
    }
}
