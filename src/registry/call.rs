//! One open call.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::peer::Peer;
use super::slots::Slots;
use crate::record::TopicName;
use crate::telemetry::ReaderLag;
use crate::telemetry::audit::Actor;
use crate::topic::ShutdownSignal;

/// One open call. It is registered until its last handle is dropped.
pub struct Call {
    peer: Arc<Peer>,
    siblings: Arc<Slots<Call>>,
    slot: usize,
    number: u64,
    method: &'static str,
    user_agent: Option<Arc<str>>,
    since: Instant,
    request_id: OnceLock<Box<str>>,
    principal: OnceLock<Arc<str>>,
    publishes: OnceLock<TopicName>,
    subscribes: OnceLock<TopicName>,
    lag: OnceLock<ReaderLag>,
    /// Made when it is first needed, as most calls end by themselves.
    shutdown: OnceLock<ShutdownSignal>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Call {
    pub(super) fn new(
        peer: Arc<Peer>,
        (siblings, slot): (Arc<Slots<Self>>, usize),
        number: u64,
        method: &'static str,
        user_agent: Option<Arc<str>>,
    ) -> Self {
        Self {
            peer,
            siblings,
            slot,
            number,
            method,
            user_agent,
            since: Instant::now(),
            request_id: OnceLock::new(),
            principal: OnceLock::new(),
            publishes: OnceLock::new(),
            subscribes: OnceLock::new(),
            lag: OnceLock::new(),
            shutdown: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Connection that the call came by.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Slot of the call on its connection.
    #[must_use]
    pub const fn slot(&self) -> usize {
        self.slot
    }

    /// Number of the call, which no other of its connection has.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// `package.Service/Method`.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        self.method
    }

    /// User agent of the call.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        self.user_agent.as_deref().unwrap_or_default()
    }

    /// Time since when it is open.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Principal that makes the call; empty before it is known.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.principal.get().map_or("", |name| name)
    }

    /// Topic that is published to.
    #[must_use]
    pub fn publishes(&self) -> Option<&TopicName> {
        self.publishes.get()
    }

    /// Topic that is read.
    #[must_use]
    pub fn subscribes(&self) -> Option<&TopicName> {
        self.subscribes.get()
    }

    /// Offsets that the subscription of the call is behind the tail.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.lag.get().map(ReaderLag::records)
    }

    /// Bytes of the messages received and sent, with their prefixes, as they are compressed.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Signal that the call should end.
    pub fn shutdown(&self) -> &ShutdownSignal {
        self.shutdown.get_or_init(|| self.peer.shutdown.child())
    }

    /// Notes the caller.
    pub fn identify(&self, principal: Arc<str>) {
        let _ = self.principal.set(principal);
    }

    /// Notes the `x-request-id` that the client gave the call.
    pub fn name_request(&self, request_id: &str) {
        let _ = self.request_id.set(request_id.into());
    }

    /// Notes the topic that is published to.
    pub fn publish_to(&self, topic: &TopicName) {
        let _ = self.publishes.set(topic.clone());
    }

    /// Notes the topic that is read.
    pub fn subscribe_to(&self, topic: &TopicName) {
        let _ = self.subscribes.set(topic.clone());
    }

    /// Notes the subscription, from which the lag is read.
    pub fn follow(&self, lag: ReaderLag) {
        let _ = self.lag.set(lag);
    }

    /// Adds bytes of received messages.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds bytes of sent messages.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Returns the actor of the call for the audit log.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor {
            principal: self.principal.get().cloned().unwrap_or_default(),
            peer: self.peer.address,
            method: self.method,
            request_id: self.request_id.get().cloned(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.siblings.remove(self.slot);
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).finish_non_exhaustive()
    }
}
