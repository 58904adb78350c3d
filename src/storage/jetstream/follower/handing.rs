//! How a follower hands its batches to the one that stores first, and takes those of others.
//!
//! ```text
//! lost twice ──build──▶ commit ──letter──▶ the rival's commit ──stored──▶ read: settled
//!                         └─ given back, undelivered, or not stored in time: appended here
//! ```
//! What was handed over was built on a sequence, as a flight is, and bears this follower's mark when it is
//! stored (see [`Marks`](crate::storage::jetstream::marks::Marks)). So it may be given up at any time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Follower;
use crate::storage::jetstream::bus::{Address, Received};
use crate::storage::jetstream::commit::{Commit, Place};
use crate::storage::jetstream::flight::Flight;
use crate::storage::jetstream::handover::{self, Content, Parcel, Why};
use crate::storage::jetstream::marks::Standing;
use crate::storage::jetstream::message::{Head, start_of};
use crate::storage::jetstream::names::RECORDS_MAX;
use crate::storage::jetstream::queue::{Append, pop_if};
use crate::storage::{Error, Stored};
use crate::telemetry::trace::Steps;

/// How long another replica has to store what was handed to it, beside four times what a commit takes.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long one that did not is handed nothing more.
const SILENT_PAUSE: Duration = Duration::from_secs(1);
/// How long one that has no address yet, or none any more, is handed nothing.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// Most commits of which it is not known what became; with more, nothing is handed over.
const OPEN_MAX: usize = 32;

/// So often a commit is replaced by a larger one as soon as anything comes; then only by one that is larger by
/// a quarter.
const LETTERS_AT_ONCE: u32 = 8;
/// Bytes up to which a commit is replaced by a larger one: all of it is sent again.
const GROWING_BYTES_MAX: usize = 64 << 10;

/// A commit on its way through another replica.
pub(super) struct HandedOver {
    commit: Commit,
    to: Address,
    begun: Instant,
    /// How often it was handed over, each time larger.
    letters: u32,
    /// Appends that waited when it was built.
    appends: usize,
    /// Whether another append would be part of it.
    has_room: bool,
}

impl Follower {
    /// Whom to hand over to, if anybody.
    pub(super) fn peer(&mut self) -> Option<Address> {
        if !self.topic.nats.hands_over || self.keeps_little() || self.open.len() >= OPEN_MAX {
            return None;
        }
        // While one is under way its receiver stays the peer, however long a commit takes.
        let peer = match &self.handed {
            Some(handed) => Some(handed.to).filter(|to| self.contest.hands_to(*to)),
            None => self.contest.peer(Instant::now()),
        }?;
        // What was handed over is not handed on.
        self.give_back(Why::Elsewhere);
        Some(peer)
    }

    /// Hands a commit over, in place of a smaller one that is under way. Of the two, the first that is stored
    /// ends the other.
    pub(super) fn hand_over(&mut self, mut commit: Commit, to: Address, appends: &VecDeque<Append>) {
        let payload = std::mem::take(&mut commit.payload);
        let has_room = payload.len() < GROWING_BYTES_MAX && commit.is_all_of(appends);
        self.bus.send(handover::letter(to, &commit.head, commit.after.sequence, payload));
        let (mut begun, mut letters) = (Instant::now(), 1);
        if let Some(smaller) = self.handed.take() {
            (begun, letters) = (smaller.begun, smaller.letters + 1);
            self.open.push(smaller.commit);
        }
        self.handed = Some(HandedOver { commit, to, begun, letters, appends: appends.len(), has_room });
    }

    /// Whether what waits is to be built and sent: nothing is under way, or what was handed over can be
    /// replaced by more.
    pub(super) fn may_begin(&self) -> bool {
        let Some(handed) = &self.handed else { return self.flight.is_none() };
        let queue = self.topic.queue();
        let newest = queue.appends.back().map(|append| append.serial);
        let grown = queue.appends.len().saturating_sub(handed.appends);
        handed.has_room
            && newest > handed.commit.last()
            && (handed.letters < LETTERS_AT_ONCE || grown > handed.appends / 4)
    }

    /// Whether what is stored may be gone before each replica has read it.
    pub(super) fn keeps_little(&self) -> bool {
        /// Messages, each of the largest size, of which that is not to be feared.
        const ENOUGH: u64 = 4;
        /// The same of ages.
        const LONG: Duration = Duration::from_secs(1);
        let retention = self.topic.settings.load().retention;
        let bytes = ENOUGH * self.topic.nats.stream_config.message_bytes_max as u64;
        retention.max_bytes.is_some_and(|max| max < bytes)
            || retention.max_records.is_some_and(|max| max < ENOUGH * u64::from(RECORDS_MAX))
            || retention.max_age.is_some_and(|max| max < LONG)
    }

    /// Takes a letter in.
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
                        debug!(topic = %self.topic.name, by = %from, reason = ?why, "a commit is given back");
                        self.came_back(nonce, why.pause());
                    }
                    Some(Content::Handed(parcel)) => {
                        if let Err(why) = self.hold(parcel) {
                            self.bus.send(handover::back(from, nonce, why));
                        }
                    }
                    None => debug!(topic = %self.topic.name, "a letter that says nothing known"),
                }
            }
        }
    }

    /// A commit is appended here again. Whoever gave it back may have had it on its way, and it is known until one of
    /// both is stored.
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

    fn hold(&mut self, parcel: Parcel) -> Result<(), Why> {
        self.topic.touch();
        let nats = self.topic.nats.clone();
        if nats.closing.is_cancelled() || self.topic.is_deleted() {
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
        if self.held.push(parcel, nats.budget.get()) { Ok(()) } else { Err(Why::Full) }
    }

    /// Whether this follower appends for another. Of two that hand over to each other it is the one with
    /// the lower address.
    fn takes_from(&mut self, from: Address) -> bool {
        match &self.handed {
            Some(handed) if handed.to != from || self.bus.address > from => return false,
            None if self.contest.is_handing() && !self.contest.hands_to(from) => return false,
            _ => {}
        }
        self.contest.lead();
        true
    }

    /// Gives back what is held for others, what is on its way too: that is settled where it is read.
    pub(super) fn give_back(&mut self, why: Why) {
        for (from, nonce) in self.held.drain() {
            self.bus.send(handover::back(from, nonce, why));
        }
    }

    /// Gives back what cannot be stored as it is.
    pub(super) fn give_back_stale(&mut self, commit: &mut Commit) {
        for (from, nonce) in commit.stale.drain(..) {
            self.held.retain(|parcel| parcel.head.nonce != nonce);
            self.bus.send(handover::back(from, nonce, Why::Stale));
        }
    }

    /// Forgets what is held and stored since, or too old.
    pub(super) fn sift_held(&mut self) {
        self.forget_old_marks();
        let marks = &self.marks;
        self.held.retain(|parcel| marks.standing(parcel.from, parcel.base) == Standing::Open);
    }

    /// Appends by itself what another has not stored in time.
    pub(super) fn take_back(&mut self) {
        let patience = PATIENCE + 4 * self.contest.takes();
        if let Some(handed) = self.handed.take_if(|handed| handed.begun.elapsed() >= patience) {
            debug!(topic = %self.topic.name, to = %handed.to, "what was handed over is not stored in time");
            self.contest.refused(handed.to, SILENT_PAUSE, Instant::now());
            self.open.push(handed.commit);
        }
    }

    /// Settles what of this follower's own is in a stored message: the flight, or a commit handed over. The
    /// first that is stored ends all others.
    pub(super) fn decide(&mut self, sequence: u64, head: &Head) {
        let address = self.bus.address;
        let by_us = head.by == Some(address);
        let within = head.handed.iter().find(|handed| handed.from == address);
        self.held.retain(|parcel| head.handed.iter().all(|handed| handed.nonce != parcel.head.nonce));
        let flight = self.flight.take_if(|flight| flight.commit.sequence() <= sequence);
        let (mut settled, mut foreign) = (None, !by_us);
        if let Some(handed) = within {
            let begun = self.handed.as_ref().map(|handed| handed.begun);
            let mut commits =
                self.handed.take().map(|handed| handed.commit).into_iter().chain(self.open.drain(..));
            let found = commits.find(|commit| commit.head.nonce == handed.nonce);
            drop(commits);
            if let Some(commit) = found {
                foreign = head.records > commit.head.records;
                let base = start_of(sequence).plus(u64::from(handed.index));
                let steps = begun.map(|begun| Steps {
                    taken: begun.into_std(),
                    written: None,
                    durable: std::time::Instant::now(),
                });
                settled = Some((commit, Place { base, time: head.time }, steps));
            }
        }
        if by_us || within.is_some() {
            (self.handed, self.open) = (None, Vec::new());
        }
        if foreign {
            self.contest.stored_by(head.by, Instant::now());
        }
        if let Some(flight) = flight {
            // Somebody else's message in its place means that it is not, and will not be, stored.
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

    /// Answers whom it concerns that what was sent or handed over may be stored: nobody will know.
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

    /// How long what is under way has been so, here or by way of another replica.
    pub(super) fn age(&self) -> Option<Duration> {
        let handed = self.handed.as_ref().map(|handed| handed.begun.elapsed());
        handed.or_else(|| self.flight.as_ref().map(Flight::age))
    }

    /// The newest append of which something may be stored.
    pub(super) fn last_open(&self) -> Option<u64> {
        let flight = self.flight.as_ref().filter(|flight| flight.was_sent()).map(|flight| &flight.commit);
        let handed = self.handed.as_ref().map(|handed| &handed.commit);
        flight.into_iter().chain(handed).chain(&self.open).filter_map(Commit::last).max()
    }
}
