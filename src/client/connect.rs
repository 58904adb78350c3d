//! One connection to a server, or to the first that answers of several.
//! Never: a call's own state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::error::Error;
use super::publisher::{Publisher, PublisherOptions};
use super::retry::{Backoff, RetryPolicy};
use super::subscriber::{Subscriber, SubscriberOptions};
use super::topics::Topics;
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

/// How to reach the servers.
#[derive(Clone, Debug)]
pub struct Options {
    /// One server or several of one fleet, `http://host:port` each; `http://` may be left out.
    pub servers: Vec<String>,
    /// Longest time to make a connection.
    pub connect_timeout: Duration,
    /// Largest message taken from the server, in bytes.
    pub message_bytes_max: usize,
}

impl Options {
    /// The defaults, for one server.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            connect_timeout: Duration::from_secs(5),
            message_bytes_max: 16 << 20,
        }
    }
}

#[derive(Debug)]
struct Server {
    url: String,
    channel: Channel,
}

/// A client. Cheap to clone; connects when it is first used, and again whenever it must.
#[derive(Clone, Debug)]
pub struct Client {
    servers: Arc<[Server]>,
    /// Which server is used now; the next one's turn comes when it fails.
    current: Arc<AtomicUsize>,
    message_bytes_max: usize,
}

impl Client {
    /// A client of these servers. Nothing is sent yet.
    ///
    /// # Errors
    /// No server is named, or one's address is not a URL of the form `http://host:port`.
    pub fn new(options: Options) -> Result<Self, Error> {
        let servers: Vec<Server> =
            options.servers.iter().map(|url| server(url, &options)).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(Error::local(Code::InvalidArgument, "no server is named"));
        }
        Ok(Self {
            servers: servers.into(),
            current: Arc::new(AtomicUsize::new(0)),
            message_bytes_max: options.message_bytes_max,
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

    /// The server used now.
    pub(crate) fn endpoint(&self) -> Endpointed {
        let index = self.current.load(Ordering::Relaxed) % self.servers.len();
        Endpointed {
            index,
            url: self.servers[index].url.clone(),
            channel: self.servers[index].channel.clone(),
        }
    }

    /// The patience of one call that is kept alive.
    pub(crate) fn backoff(&self, policy: RetryPolicy) -> Backoff {
        Backoff::new(policy, u32::try_from(self.servers.len()).unwrap_or(u32::MAX))
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

    /// The unparsed calls of a server. A token for every call will be added here.
    pub(crate) fn streams(&self, endpoint: &Endpointed) -> StreamServiceClient<Channel> {
        StreamServiceClient::new(endpoint.channel.clone()).max_decoding_message_size(self.message_bytes_max)
    }
}

/// A server chosen for one call.
#[derive(Clone, Debug)]
pub(crate) struct Endpointed {
    pub(crate) index: usize,
    pub(crate) url: String,
    pub(crate) channel: Channel,
}

fn server(url: &str, options: &Options) -> Result<Server, Error> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let invalid = |why: &str| {
        Error::local(Code::InvalidArgument, format!("server address {url:?} {why}; write http://host:port"))
    };
    // TLS is configured here once there is something to configure.
    if !url.starts_with("http://") {
        return Err(invalid("is not plain http"));
    }
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| invalid("is not a URL"))?;
    if endpoint.uri().authority().is_none_or(|authority| authority.host().is_empty()) {
        return Err(invalid("names no host"));
    }
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
    Ok(Server { url, channel })
}

#[cfg(test)]
mod tests {
    use super::{Client, Options};

    #[tokio::test]
    async fn addresses_are_checked() {
        for good in ["http://127.0.0.1:50051", "localhost:50051", "http://[::1]:1"] {
            assert!(Client::new(Options::new(good)).is_ok(), "{good}");
        }
        for bad in ["https://x:1", "http://", "http://a b", "unix:///x"] {
            assert!(Client::new(Options::new(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_server_that_fails_hands_over_to_the_next_once() {
        let servers = vec!["http://a:1".to_owned(), "http://b:1".to_owned()];
        let client = Client::new(Options { servers, ..Options::new("") }).unwrap();
        let first = client.endpoint();
        client.move_on(first.index);
        client.move_on(first.index);
        assert_eq!(client.endpoint().url, "http://b:1");
    }
}
