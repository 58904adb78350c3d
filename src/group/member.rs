//! A member of a group: its requests go to the group's owner, and its events come back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;

use super::delivery;
use super::error::Error;
use super::events::{Event, EventReceiver, Held};
use super::info::{Info, Lag};
use super::logic::SessionId;
use super::mailbox::{Asker, Joined, Mailbox, Message, Reply};
use super::random::random;
use super::requests::Settlement;
use super::source;
use super::token::Token;
use crate::record::Offset;
use crate::storage::BoxFuture;

/// A call's place at the task of a shard, which is told if the call ends early.
pub(super) struct Connection {
    pub session: SessionId,
    /// Number of the call's stream. No other stream has it.
    pub stream: u64,
    shard: Mailbox,
    /// Message to the task when this is dropped.
    at_end: Option<Message>,
}

/// A new number of a stream. No other process of a fleet gives it.
fn new_stream() -> u64 {
    static FIRST: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let first = FIRST.get_or_init(random);
    first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Connection {
    /// A place for a member. Its session goes on for the group's grace when it is dropped.
    pub(super) fn of_member(shard: Mailbox, session: SessionId) -> Self {
        let stream = new_stream();
        Self { session, stream, shard, at_end: Some(Message::Cut { session, stream }) }
    }

    /// A place for a call that gets one lease.
    pub(super) fn of_lease(shard: Mailbox, session: SessionId) -> Self {
        let stream = new_stream();
        Self { session, stream, shard, at_end: Some(Message::Cancel { session, stream }) }
    }

    pub(super) fn send(&self, message: Message) {
        // A task that ended has told the call.
        let _ = self.shard.send(message);
    }

    pub(super) fn shard(&self) -> Mailbox {
        self.shard.clone()
    }

    /// Ends the call without a word: it has its lease.
    pub(super) fn close(mut self) {
        self.at_end = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(message) = self.at_end.take() {
            self.send(message);
        }
    }
}

/// A member with an open call. Dropping it is a cut: its session goes on for the group's grace.
pub struct Member {
    joined: Joined,
    connection: Connection,
    events: EventReceiver,
    /// A lease whose records are being read. Later events wait.
    reading: Option<BoxFuture<'static, Option<Event>>>,
}

impl Member {
    pub(super) const fn new(joined: Joined, connection: Connection, events: EventReceiver) -> Self {
        Self { joined, connection, events, reading: None }
    }

    /// The group as it was at the join, without its members.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.joined.info
    }

    /// Session of the member.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.connection.session
    }

    /// Leases that the session held at the join.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.joined.held
    }

    /// Returns true if the join created the group.
    #[must_use]
    pub const fn has_created(&self) -> bool {
        self.joined.has_created
    }

    /// Distance of the group from its topic's tail about a second ago.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let records = self.joined.progress.records.load(Ordering::Relaxed);
        let oldest = Offset::new(self.joined.progress.oldest.load(Ordering::Relaxed));
        let age = (records > 0).then(|| source::cached_age(&*self.joined.topic, oldest)).flatten();
        Lag { records, age }
    }

    /// Sets how many records and bytes the member may hold. They never fall.
    pub fn credit(&mut self, records: u64, bytes: u64) {
        let (session, stream) = self.id();
        self.connection.send(Message::Credit { session, stream, records, bytes });
    }

    /// Settles a lease; [`Event::Settled`] answers with the same number. The caller bounds those that are not answered.
    pub fn settle(&mut self, number: u64, token: Token, settlement: Settlement) {
        self.connection.send(Message::Settle(
            token,
            settlement,
            Asker::Member(self.connection.stream, number),
        ));
    }

    /// Extends a lease; [`Event::Extended`] answers with the same number.
    pub fn extend(&mut self, number: u64, token: Token, time: Option<Duration>) {
        self.connection.send(Message::Extend(token, time, Asker::Member(self.connection.stream, number)));
    }

    /// Leaves the group; [`Event::Left`] is the answer.
    pub fn leave(&mut self) {
        let (session, stream) = self.id();
        self.connection.send(Message::Leave { session, stream });
    }

    /// Polls for the next event. Pending for ever after the last one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(reading) = &mut self.reading {
                let event = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                match event {
                    Some(event) => return Poll::Ready(event),
                    None => continue,
                }
            }
            match ready!(self.poll_event(cx)) {
                Event::Lease(mut leased) => {
                    if delivery::fill_cached(&*self.joined.topic, &self.joined.recent, &mut leased) {
                        return Poll::Ready(Event::Lease(leased));
                    }
                    let (topic, recent) = (self.joined.topic.clone(), self.joined.recent.clone());
                    let shard = self.connection.shard();
                    self.reading = Some(Box::pin(delivery::fill(topic, recent, shard, leased)));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(*event),
            // The task of the shard ended without a word.
            Poll::Ready(None) if !self.connection.shard.is_closed() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Event::ended(Error::Lost)),
            Poll::Pending => Poll::Pending,
        }
    }

    const fn id(&self) -> (SessionId, u64) {
        (self.connection.session, self.connection.stream)
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("session", &self.connection.session).finish_non_exhaustive()
    }
}

/// Sends a message to the task of a shard, and waits for the answer.
pub(super) async fn ask<T>(shard: &Mailbox, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    shard.send(message(reply)).map_err(|_| Error::Moved)?;
    answer.await.map_err(|_| Error::Lost)?
}
