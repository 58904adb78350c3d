//! Letters between replicas, by core NATS over the connection that is there. Everybody who wants some has
//! an address of his own, which is new with each start: nothing reaches who had it before.
//!
//! A letter may be lost, and may come late; between two addresses the order is kept. One to an address
//! that nobody has comes back ([`Received::Undelivered`]).
//!
//! Never: knows what a letter says, repeats one, or waits for an answer; those who write do.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

/// How every address begins. No topic's subject does, see [`super::names::subject`].
const PREFIX: &str = "streamway_bus";
/// Most letters that wait for the client's own queue; later ones are lost.
const WAITING_MAX: usize = 256;

/// Where letters go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// One that nobody has, had or will have.
    #[must_use]
    pub fn random() -> Self {
        Self(getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)))
    }

    /// What [`fmt::Display`] writes.
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

/// A letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Who wrote it, or is to get it.
    pub who: Address,
    /// What it is about: chosen by who began.
    pub tag: u64,
    /// Short things.
    pub headers: HeaderMap,
    /// Long ones.
    pub payload: Bytes,
}

/// What came.
#[derive(Debug)]
pub enum Received {
    /// A letter.
    Letter(Letter),
    /// The letter of this tag reached nobody.
    Undelivered(u64),
}

enum Done {
    Opened(Option<Subscriber>),
    Sent,
}

type Working = Pin<Box<dyn Future<Output = Done> + Send>>;

/// One address, and what is written from it.
pub struct Bus {
    client: Client,
    /// Its address.
    pub address: Address,
    mailbox: Option<Subscriber>,
    waiting: VecDeque<Letter>,
    working: Option<Working>,
    is_wanted: bool,
}

impl Bus {
    /// An address at which nothing arrives yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let address = Address::random();
        Self { client, address, mailbox: None, waiting: VecDeque::new(), working: None, is_wanted: false }
    }

    /// Lets letters arrive from now on.
    pub const fn open(&mut self) {
        self.is_wanted = true;
    }

    /// Sends a letter, with the next calls of [`Self::next`].
    pub fn send(&mut self, letter: Letter) {
        self.open();
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(letter);
        }
    }

    /// Resolves once everything was sent; what comes meanwhile is lost.
    pub async fn sent(&mut self) {
        loop {
            self.begin();
            if self.working.is_none() {
                return;
            }
            let done = working(&mut self.working).await;
            self.took(done);
        }
    }

    fn took(&mut self, done: Done) {
        self.working = None;
        if let Done::Opened(mailbox) = done {
            self.mailbox = mailbox;
        }
    }

    /// Sends what waits, until something comes. Cancel-safe.
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
                    // The client is gone.
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
                    tracing::debug!(%error, "a letter is lost");
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

/// The address and the tag in a subject.
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
