//! Pages of connections, calls and bans. A page looks at a bounded number of places, and
//! lets other tasks run in between. Page tokens name the replica, as another one could not continue.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::status::Error;
use crate::proto::v1;
use crate::proto::v1::ban::Target;
use crate::registry::{Banned, Call, Client, Registry};

/// Default number of entries in a page.
const PAGE: usize = 100;
/// Maximum entries of a page.
const PAGE_MAX: usize = 1000;
/// Maximum bytes of a page, which a call holds while its client does not read the answer.
const PAGE_BYTES_MAX: usize = 32 << 10;
/// Maximum slots that a page looks at: some hundred microseconds.
const SCAN_MAX: usize = 4096;
/// Slots looked at before other tasks run.
const STRIDE: usize = 64;

/// A page that is being filled.
struct Page<T> {
    entries: Vec<T>,
    bytes: usize,
    size: usize,
}

impl<T: Message> Page<T> {
    fn new(size: u32) -> Self {
        let size = if size == 0 { PAGE } else { (size as usize).min(PAGE_MAX) };
        Self { entries: Vec::new(), bytes: 0, size }
    }

    /// Adds an entry. Returns false, without adding it, if the page is full; one fits always.
    fn add(&mut self, entry: T) -> bool {
        /// Tag and length of an entry in the page.
        const FRAME: usize = 4;
        let bytes = self.bytes + entry.encoded_len() + FRAME;
        let fits = self.entries.is_empty() || (self.entries.len() < self.size && bytes <= PAGE_BYTES_MAX);
        if fits {
            self.bytes = bytes;
            self.entries.push(entry);
        }
        fits
    }
}

/// Place in a list of calls: the slot of a connection, and of a call in it.
#[derive(Clone, Copy, Default)]
struct Place {
    client: usize,
    call: usize,
}

impl Place {
    fn parse(registry: &Registry, token: &str) -> Result<Self, Error> {
        if token.is_empty() {
            return Ok(Self::default());
        }
        let rest = of_this_replica(registry, token)?;
        let parsed = rest
            .split_once('-')
            .and_then(|(client, call)| Some(Self { client: client.parse().ok()?, call: call.parse().ok()? }));
        parsed.ok_or_else(invalid_token)
    }

    fn token(self, registry: &Registry) -> String {
        format!("{}-{}-{}", registry.replica().1, self.client, self.call)
    }
}

fn invalid_token() -> Error {
    Error::field("page_token", "is not a token of this list")
}

/// Returns what follows the replica in a page token.
fn of_this_replica<'a>(registry: &Registry, token: &'a str) -> Result<&'a str, Error> {
    let (instance, rest) = token.split_once('-').ok_or_else(invalid_token)?;
    if instance != registry.replica().1 {
        return Err(Error::field("page_token", "was given by another replica, or before a restart"));
    }
    Ok(rest)
}

/// Returns a page of connections, and the token of the next one.
pub(super) async fn connections(
    registry: &Registry,
    asked: &v1::ListConnectionsRequest,
) -> Result<(Vec<v1::Connection>, String), Error> {
    let mut place = Place::parse(registry, &asked.page_token)?;
    let (mut page, mut scanned) = (Page::new(asked.page_size), 0);
    while scanned < SCAN_MAX {
        let (found, next) = registry.clients(place.client, STRIDE);
        for client in found {
            if !page.add(connection(registry, &client)) {
                place.client = client.slot();
                return Ok((page.entries, place.token(registry)));
            }
        }
        let Some(next) = next else { return Ok((page.entries, String::new())) };
        place.client = next;
        scanned += STRIDE;
        tokio::task::yield_now().await;
    }
    Ok((page.entries, place.token(registry)))
}

/// Returns a page of calls, and the token of the next one.
pub(super) async fn calls(
    registry: &Registry,
    asked: &v1::ListCallsRequest,
) -> Result<(Vec<v1::Call>, String), Error> {
    let mut place = Place::parse(registry, &asked.page_token)?;
    let (mut page, mut scanned) = (Page::new(asked.page_size), 0);
    while scanned < SCAN_MAX {
        let (client, after) = registry.clients(place.client, 1);
        let (found, next) = client.first().map_or_else(Default::default, |c| c.calls(place.call, STRIDE));
        for found in found {
            let wanted = asked.principal.is_empty() || found.principal() == asked.principal;
            if wanted && !page.add(call(registry, &found)) {
                place.call = found.slot();
                return Ok((page.entries, place.token(registry)));
            }
        }
        let before = scanned;
        scanned += if client.is_empty() { 1 } else { STRIDE };
        place = match (next, after) {
            (Some(call), _) => Place { call, ..place },
            (None, Some(client)) => Place { client, call: 0 },
            (None, None) => return Ok((page.entries, String::new())),
        };
        if before / STRIDE != scanned / STRIDE {
            tokio::task::yield_now().await;
        }
    }
    Ok((page.entries, place.token(registry)))
}

/// Returns a page of bans, and the token of the next one.
pub(super) fn bans(
    registry: &Registry,
    asked: &v1::ListBansRequest,
) -> Result<(Vec<v1::Ban>, String), Error> {
    let after = match asked.page_token.as_str() {
        "" => None,
        token => Some(banned(of_this_replica(registry, token)?).ok_or_else(invalid_token)?),
    };
    let mut page = Page::new(asked.page_size);
    let mut last = None;
    for (banned, end) in registry.bans().list(after.as_ref(), PAGE_MAX + 1) {
        if !page.add(ban(&banned, end)) {
            let last = last.map_or_else(String::new, |last| token_of(&last));
            return Ok((page.entries, format!("{}-{last}", registry.replica().1)));
        }
        last = Some(banned);
    }
    Ok((page.entries, String::new()))
}

/// Writes a banned principal or address into a page token.
fn token_of(banned: &Banned) -> String {
    match banned {
        Banned::Principal(name) => format!("p{name}"),
        Banned::Address(address) => format!("a{address}"),
    }
}

fn banned(token: &str) -> Option<Banned> {
    match token.split_at_checked(1)? {
        ("p", name) => Some(Banned::Principal(name.into())),
        ("a", address) => Some(Banned::Address(address.parse().ok()?)),
        _ => None,
    }
}

/// Describes a ban.
pub(super) fn ban(banned: &Banned, end: SystemTime) -> v1::Ban {
    let target = match banned {
        Banned::Principal(name) => Target::Principal(name.to_string()),
        Banned::Address(address) => Target::Address(address.to_string()),
    };
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    let unix = duration(end.duration_since(UNIX_EPOCH).unwrap_or_default());
    let expire_time = prost_types::Timestamp { seconds: unix.seconds, nanos: unix.nanos };
    v1::Ban { target: Some(target), expire_time: Some(expire_time), remaining: Some(duration(left)) }
}

fn duration(time: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: time.subsec_nanos() as i32 }
}

fn age(since: Instant) -> Option<prost_types::Duration> {
    Some(duration(since.elapsed()))
}

fn connection(registry: &Registry, client: &Client) -> v1::Connection {
    let peer = client.peer();
    let (received_bytes, sent_bytes) = peer.bytes();
    v1::Connection {
        id: connection_id(registry, peer.number),
        peer_address: peer.address.map(|address| address.to_string()).unwrap_or_default(),
        tls: peer.is_tls,
        age: age(peer.since),
        user_agent: peer.user_agent().to_owned(),
        received_bytes,
        sent_bytes,
        open_calls: client.calls_open() as u64,
        total_calls: client.calls_opened(),
    }
}

fn call(registry: &Registry, call: &Call) -> v1::Call {
    let peer = call.peer();
    let (received_bytes, sent_bytes) = call.bytes();
    let connection_id = connection_id(registry, peer.number);
    let text = |topic: Option<&crate::record::TopicName>| topic.map_or("", |name| name.as_str()).to_owned();
    v1::Call {
        id: format!("{connection_id}-{}", call.number()),
        connection_id,
        peer_address: peer.address.map(|address| address.to_string()).unwrap_or_default(),
        tls: peer.is_tls,
        principal: call.principal().to_owned(),
        method: call.method().to_owned(),
        publish_topic: text(call.publishes()),
        subscribe_topic: text(call.subscribes()),
        age: age(call.since()),
        received_bytes,
        sent_bytes,
        lag: call.lag(),
        user_agent: call.user_agent().to_owned(),
    }
}

fn connection_id(registry: &Registry, number: u64) -> String {
    format!("{}-{number}", registry.replica().1)
}
