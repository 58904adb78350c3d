//! Letters between replicas. They are sent over core NATS, on the engine's existing connection. Each receiver has a
//! random address, which is new after every start, so no letter reaches a later process.
//!
//! A letter may be lost or late. Letters between two addresses stay in order. A letter to an address without a listener
//! is reported to its sender ([`Received::Undelivered`]). The bus does not inspect letters, resend them or wait for
//! answers.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

/// First token of every address. No subject of a topic begins with it, see [`super::names::subject`].
const PREFIX: &str = "streamway_bus";
/// Maximum time to send the last letters at the end.
pub const LAST_LETTERS: Duration = Duration::from_millis(100);
/// Maximum number of letters that wait for room in the queue of the client. Further letters are dropped.
const WAITING_MAX: usize = 256;

/// Address of a receiver of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// Creates a random address, which no other receiver has.
    #[must_use]
    pub fn random() -> Self {
        Self(getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)))
    }

    /// Parses the form that [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    fn subject(self, tag: u64) -> String {
        format!("{PREFIX}.{self}.{tag:016x}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A letter between two replicas.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Sender of a received letter, or receiver of a letter to send.
    pub who: Address,
    /// Tag that a reply repeats. The sender of the first letter chooses it.
    pub tag: u64,
    /// Headers.
    pub headers: HeaderMap,
    /// Payload.
    pub payload: Bytes,
}

/// Event on the bus.
#[derive(Debug)]
pub enum Received {
    /// A letter arrived.
    Letter(Letter),
    /// The letter with this tag was not delivered, because nobody listens on its address.
    Undelivered(u64),
}

enum Done {
    Opened(Option<Subscriber>),
    Sent,
}

type Working = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Receiver with one address, and sender of letters from it.
pub struct Bus {
    client: Client,
    /// Address of this receiver.
    pub address: Address,
    mailbox: Option<Subscriber>,
    waiting: VecDeque<Letter>,
    working: Option<Working>,
    is_wanted: bool,
}

impl Bus {
    /// Creates an address on which nobody listens yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let address = Address::random();
        Self { client, address, mailbox: None, waiting: VecDeque::new(), working: None, is_wanted: false }
    }

    /// Listens for letters from now on.
    pub const fn open(&mut self) {
        self.is_wanted = true;
    }

    /// Queues a letter. The next calls of [`Self::next`] send it.
    pub fn send(&mut self, letter: Letter) {
        self.open();
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(letter);
        }
    }

    /// Resolves once every queued letter is sent, or after [`LAST_LETTERS`], as letters wait while NATS is away. Letters
    /// that arrive in the meantime are lost.
    pub async fn sent(&mut self) {
        let sending = async {
            loop {
                self.begin();
                if self.working.is_none() {
                    return;
                }
                let done = working(&mut self.working).await;
                self.took(done);
            }
        };
        let _ = tokio::time::timeout(LAST_LETTERS, sending).await;
    }

    fn took(&mut self, done: Done) {
        self.working = None;
        if let Done::Opened(mailbox) = done {
            self.mailbox = mailbox;
        }
    }

    /// Sends queued letters until an event occurs. Cancel-safe.
    pub async fn next(&mut self) -> Received {
        loop {
            self.begin();
            let received = tokio::select! {
                biased;
                done = working(&mut self.working) => {
                    self.took(done);
                    None
                }
                message = arrived(&mut self.mailbox) => match message {
                    Some(message) => read(message),
                    // The client is closed.
                    None => {
                        self.mailbox = None;
                        std::future::pending().await
                    }
                },
            };
            if let Some(received) = received {
                return received;
            }
        }
    }

    fn begin(&mut self) {
        if self.working.is_some() {
            return;
        }
        let client = self.client.clone();
        if self.mailbox.is_none() {
            if std::mem::take(&mut self.is_wanted) {
                let subject = format!("{PREFIX}.{}.*", self.address);
                let opening = async move { Done::Opened(client.subscribe(subject).await.ok()) };
                self.working = Some(Box::pin(opening));
            }
        } else if let Some(letter) = self.waiting.pop_front() {
            let Letter { who, tag, headers, payload } = letter;
            let (to, from) = (who.subject(tag), self.address.subject(tag));
            self.working = Some(Box::pin(async move {
                if let Err(error) = client.publish_with_reply_and_headers(to, from, headers, payload).await {
                    tracing::debug!(%error, "a letter between replicas is lost");
                }
                Done::Sent
            }));
        }
    }
}

async fn working(working: &mut Option<Working>) -> Done {
    match working {
        Some(working) => working.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn arrived(mailbox: &mut Option<Subscriber>) -> Option<Message> {
    match mailbox {
        Some(mailbox) => mailbox.next().await,
        None => std::future::pending().await,
    }
}

/// Parses the address and the tag of a subject.
fn parse(subject: &str) -> Option<(Address, u64)> {
    let (address, tag) = subject.strip_prefix(PREFIX)?.strip_prefix('.')?.split_once('.')?;
    Some((Address::parse(address)?, u64::from_str_radix(tag, 16).ok()?))
}

fn read(message: Message) -> Option<Received> {
    let (_, tag) = parse(&message.subject)?;
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(Received::Undelivered(tag));
    }
    let (who, _) = parse(message.reply.as_ref()?)?;
    let headers = message.headers.unwrap_or_default();
    Some(Received::Letter(Letter { who, tag, headers, payload: message.payload }))
}
