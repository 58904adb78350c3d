//! Hand-over of commits: a follower gives its batches to the replica that is faster, and stores batches of other
//! replicas.
//!
//! ```text
//! lost twice ──build──▶ commit ──letter──▶ commit of the rival ──stored──▶ read: settled
//!                         ├─ more appends arrive: a larger commit is handed over in its place
//!                         └─ returned, undelivered, or not stored in time: appended here
//! ```
//! A handed-over commit was built on a sequence, like a flight, and has the mark of this follower when it is stored
//! (see [`Marks`](crate::storage::jetstream::marks::Marks)). So it may be abandoned or replaced at any time: the first
//! copy that is stored voids the others.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Follower;
use super::handed_over::HandedOver;
use crate::storage::jetstream::bus::{Address, Received};
use crate::storage::jetstream::commit::{Commit, Place};
use crate::storage::jetstream::flight::Flight;
use crate::storage::jetstream::handover::{self, Content, Parcel, Why};
use crate::storage::jetstream::marks::Standing;
use crate::storage::jetstream::message::{Head, start_of};
use crate::storage::jetstream::names::RECORDS_MAX;
use crate::storage::jetstream::queue::{Queued, pop_if};
use crate::storage::{Error, Stored};
use crate::telemetry::trace::Steps;

/// Time that another replica has to store a commit, in addition to four times the average duration of a commit.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time during which nothing is handed to a replica that did not store a commit in time.
const SILENT_PAUSE: Duration = Duration::from_secs(1);
/// Time during which nothing is handed to a replica that does not listen on its address.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of commits with an unknown outcome. At this number, nothing more is handed over.
const OPEN_MAX: usize = 32;

/// Number of letters of a commit that are sent as soon as another append arrives. Each later letter must hold at least
/// a quarter more appends than the one before.
const LETTERS_AT_ONCE: u32 = 8;
/// Payload size up to which a commit is replaced by a larger one, which sends all of it again.
const GROWING_BYTES_MAX: usize = 64 << 10;

impl Follower {
    /// Returns the replica to hand the next commit to, if any.
    pub(super) fn peer(&mut self) -> Option<Address> {
        if !self.topic.hands_over() || self.keeps_little() || self.open.len() >= OPEN_MAX {
            return None;
        }
        // The receiver of a commit in progress stays the peer, however long the commit takes.
        let peer = match &self.handed {
            Some(handed) => Some(handed.to).filter(|to| self.contest.hands_to(*to)),
            None => self.contest.peer(Instant::now()),
        }?;
        // Commits of other replicas are not passed on.
        self.give_back(Why::Elsewhere);
        Some(peer)
    }

    /// Hands a commit over, and replaces a smaller one in progress.
    pub(super) fn hand_over(&mut self, mut commit: Commit, to: Address, appends: &VecDeque<Queued>) {
        let payload = std::mem::take(&mut commit.payload);
        let has_room = payload.len() < GROWING_BYTES_MAX && commit.is_all_of(appends);
        self.bus.send(handover::letter(to, &commit.head, commit.after.sequence, payload));
        let (mut started, mut letters) = (Instant::now(), 1);
        if let Some(smaller) = self.handed.take() {
            (started, letters) = (smaller.started, smaller.letters + 1);
            self.open.push(smaller.commit);
        }
        self.handed = Some(HandedOver { commit, to, started, letters, appends: appends.len(), has_room });
    }

    /// Returns true if a commit may be built: no commit is in progress, or a larger one can replace the one that was
    /// handed over.
    pub(super) fn may_begin(&self) -> bool {
        let Some(handed) = &self.handed else { return self.flight.is_none() };
        let queue = self.topic.queue();
        let newest = queue.appends.back().map(|append| append.serial);
        let grown = queue.appends.len().saturating_sub(handed.appends);
        handed.has_room
            && newest > handed.commit.last()
            && (handed.letters < LETTERS_AT_ONCE || grown > handed.appends / 4)
    }

    /// Returns true if retention may remove a message before every replica has read it.
    pub(super) fn keeps_little(&self) -> bool {
        /// Minimum number of messages of the largest size that a topic must keep for a hand-over.
        const ENOUGH: u64 = 4;
        /// Minimum time for which it must keep them.
        const LONG: Duration = Duration::from_secs(1);
        let retention = self.topic.state.settings().retention;
        let bytes = ENOUGH * self.topic.nats.stream_config.message_bytes_max as u64;
        retention.max_bytes.is_some_and(|max| max < bytes)
            || retention.max_records.is_some_and(|max| max < ENOUGH * u64::from(RECORDS_MAX))
            || retention.max_age.is_some_and(|max| max < LONG)
    }

    /// Handles a letter.
    pub(super) fn received(&mut self, received: Received) {
        match received {
            Received::Undelivered(nonce) => {
                self.came_back(nonce, UNKNOWN_PAUSE);
                self.open.retain(|commit| commit.head.nonce != nonce);
            }
            Received::Letter(letter) => {
                let (from, nonce) = (letter.who, letter.tag);
                match handover::read(letter) {
                    Some(Content::Back(why)) => {
                        debug!(topic = %self.topic.state.name, by = %from, reason = ?why, "a commit is returned");
                        self.came_back(nonce, why.pause());
                    }
                    Some(Content::Handed(parcel)) => {
                        if let Err(why) = self.hold(parcel) {
                            self.bus.send(handover::back(from, nonce, why));
                        }
                    }
                    None => debug!(topic = %self.topic.state.name, "a letter of unknown content"),
                }
            }
        }
    }

    /// Takes back a commit that was returned, so that its appends are appended here. The replica that returned it may
    /// have sent it to NATS, so the commit is remembered until one of the copies is stored.
    fn came_back(&mut self, nonce: u64, pause: Duration) {
        if let Some(handed) = self.handed.take_if(|handed| handed.commit.head.nonce == nonce) {
            self.contest.refused(handed.to, pause, Instant::now());
            self.open.push(handed.commit);
        }
    }

    fn forget_old_marks(&mut self) {
        if let Some(seen) = self.seen {
            let nats = &self.topic.nats;
            self.marks.forget_old(nats.clock.steady(), seen.sequence, nats.storage.request_id_window);
        }
    }

    pub(super) fn hold(&mut self, parcel: Parcel) -> Result<(), Why> {
        self.topic.touch();
        let nats = self.topic.nats.clone();
        if nats.closing.is_cancelled() || self.topic.state.is_deleted() {
            return Err(Why::Stopping);
        }
        if self.seen.is_none() {
            return Err(Why::Stale);
        }
        self.forget_old_marks();
        match self.marks.standing(parcel.from, parcel.base) {
            Standing::Over => return Ok(()),
            Standing::Unknown => return Err(Why::Stale),
            Standing::Open => {}
        }
        if !self.takes_from(parcel.from) {
            return Err(Why::Elsewhere);
        }
        if self.held.push(parcel, &nats.handed_over) { Ok(()) } else { Err(Why::Full) }
    }

    /// Returns true if this follower appends for another. If two followers hand over to each other, the one with the
    /// lower address does.
    fn takes_from(&mut self, from: Address) -> bool {
        match &self.handed {
            Some(handed) if handed.to != from || self.bus.address > from => return false,
            None if self.contest.is_handing() && !self.contest.hands_to(from) => return false,
            _ => {}
        }
        self.contest.lead();
        true
    }

    /// Returns the commits that are held for others, including those in the current flight. If the flight is stored,
    /// the other replicas settle their commits when they read it.
    pub(super) fn give_back(&mut self, why: Why) {
        for (from, nonce) in self.held.drain() {
            self.bus.send(handover::back(from, nonce, why));
        }
    }

    /// Returns the commits that cannot be stored unchanged.
    pub(super) fn give_back_stale(&mut self, commit: &mut Commit) {
        for (from, nonce) in commit.stale.drain(..) {
            self.held.retain(|parcel| parcel.head.nonce != nonce);
            self.bus.send(handover::back(from, nonce, Why::Stale));
        }
    }

    /// Drops held commits that were stored in the meantime or are too old.
    pub(super) fn sift_held(&mut self) {
        self.forget_old_marks();
        let marks = &self.marks;
        self.held.retain(|parcel| marks.standing(parcel.from, parcel.base) == Standing::Open);
    }

    /// Takes back a commit that the other replica did not store in time, so that its appends are appended here.
    pub(super) fn take_back(&mut self) {
        let patience = PATIENCE + 4 * self.contest.takes();
        if let Some(handed) = self.handed.take_if(|handed| handed.started.elapsed() >= patience) {
            debug!(topic = %self.topic.state.name, to = %handed.to, "a commit that was handed over is not stored in time");
            self.contest.refused(handed.to, SILENT_PAUSE, Instant::now());
            self.open.push(handed.commit);
        }
    }

    /// Settles the appends of this follower that a stored message holds, either from the flight or from a commit that
    /// was handed over. The first copy that is stored voids all others.
    pub(super) fn decide(&mut self, sequence: u64, head: &Head) {
        let address = self.bus.address;
        let by_us = head.by == Some(address);
        let within = head.handed.iter().find(|handed| handed.from == address);
        self.held.retain(|parcel| head.handed.iter().all(|handed| handed.nonce != parcel.head.nonce));
        let flight = self.flight.take_if(|flight| flight.commit.sequence() <= sequence);
        let (mut settled, mut foreign) = (None, !by_us);
        if let Some(handed) = within {
            let started = self.handed.as_ref().map(|handed| handed.started);
            let mut commits =
                self.handed.take().map(|handed| handed.commit).into_iter().chain(self.open.drain(..));
            let found = commits.find(|commit| commit.head.nonce == handed.nonce);
            drop(commits);
            if let Some(commit) = found {
                foreign = head.records > commit.head.records;
                let first = start_of(sequence);
                let (base, end) = (first.plus(u64::from(handed.index)), first.plus(u64::from(head.records)));
                let steps = started.map(|started| Steps {
                    taken: started.into_std(),
                    written: None,
                    durable: std::time::Instant::now(),
                });
                settled = Some((commit, Place { base, end, time: head.time }, steps));
            }
        }
        if by_us || within.is_some() {
            (self.handed, self.open) = (None, Vec::new());
        }
        if foreign {
            self.contest.stored_by(head.by, Instant::now());
        }
        if let Some(flight) = flight {
            // If another message is in its place, the flight is not stored and never will be.
            if flight.commit.sequence() == sequence && flight.commit.head.nonce == head.nonce {
                self.contest.won();
                let (place, steps) = (flight.commit.place(), flight.steps());
                settled = Some((flight.commit, place, Some(steps)));
            } else if foreign {
                self.contest.lost();
            }
        }
        if let Some((commit, place, steps)) = settled {
            self.trouble = None;
            commit.settle(place, &mut self.topic.queue().appends, steps);
        }
    }

    /// Fails the appends that were sent or handed over, because their outcome can no longer be learnt.
    pub(super) fn give_up_open(&mut self, reason: &str) {
        let error = Error::Unavailable { reason: reason.to_owned(), stored: Stored::Unknown };
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        if let Some(last) = self.last_open() {
            while let Some(append) = pop_if(&mut queue.appends, |append| append.serial <= last) {
                append.answer(Some(error.clone()));
            }
        }
        (self.flight, self.handed, self.open) = (None, None, Vec::new());
    }

    /// Returns the age of the commit in progress, here or at another replica.
    pub(super) fn age(&self) -> Option<Duration> {
        let handed = self.handed.as_ref().map(|handed| handed.started.elapsed());
        handed.or_else(|| self.flight.as_ref().map(Flight::age))
    }

    /// Returns the serial number of the newest append that may be stored in part.
    pub(super) fn last_open(&self) -> Option<u64> {
        let flight = self.flight.as_ref().filter(|flight| flight.was_sent()).map(|flight| &flight.commit);
        let handed = self.handed.as_ref().map(|handed| &handed.commit);
        flight.into_iter().chain(handed).chain(&self.open).filter_map(Commit::last).max()
    }
}
