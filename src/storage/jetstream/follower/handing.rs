//! How a follower hands its batches to the one that stores first, and takes those of others.
//!
//! ```text
//! lost twice ──build──▶ commit ──letter──▶ the rival's commit ──stored──▶ read: settled
//!                         └─ given back, undelivered, or not stored in time: appended here
//! ```
//! What was handed over was built on a sequence, as a flight is, and bears this follower's mark when it is
//! stored (see [`Marks`](crate::storage::jetstream::marks::Marks)). So it may be given up at any time.

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
use crate::storage::jetstream::queue::pop_if;
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

/// A commit on its way through another replica.
pub(super) struct HandedOver {
    commit: Commit,
    to: Address,
    begun: Instant,
}

impl Follower {
    /// Whom to hand over to, if anybody.
    pub(super) fn peer(&mut self) -> Option<Address> {
        let peer = self.contest.peer(Instant::now()).filter(|_| self.open.len() < OPEN_MAX)?;
        // What was handed over is not handed on.
        self.give_back(Why::Elsewhere);
        Some(peer)
    }

    /// Hands a commit over.
    pub(super) fn hand_over(&mut self, mut commit: Commit, to: Address) {
        let payload = std::mem::take(&mut commit.payload);
        self.bus.send(handover::letter(to, &commit.head, commit.after.sequence, payload));
        self.handed = Some(HandedOver { commit, to, begun: Instant::now() });
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
                    Some(Content::Back(why)) => self.came_back(nonce, why.pause()),
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
            debug!(topic = %self.topic.name, to = %handed.to, "what was handed over came back");
            self.contest.refused(handed.to, pause, Instant::now());
            self.open.push(handed.commit);
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
        match self.marks.standing(parcel.from, parcel.base) {
            Standing::Over => return Ok(()),
            Standing::Unknown => return Err(Why::Stale),
            Standing::Open => {}
        }
        if !self.takes_from(parcel.from) {
            return Err(Why::Elsewhere);
        }
        if self.held.push(parcel, &nats) { Ok(()) } else { Err(Why::Full) }
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
            let commits = self.handed.take().into_iter().map(|handed| (handed.commit, Some(handed.begun)));
            let mut commits = commits.chain(self.open.drain(..).map(|commit| (commit, None)));
            let found = commits.find(|(commit, _)| commit.head.nonce == handed.nonce);
            drop(commits);
            if let Some((commit, begun)) = found {
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
