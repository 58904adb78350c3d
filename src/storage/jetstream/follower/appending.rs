//! Appends of a follower. One commit at a time is sent until its outcome is known. Messages that other replicas stored
//! in its place come from the feed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{EndCheck, Follower};
use crate::storage::jetstream::attach;
use crate::storage::jetstream::build::{Basis, Built, build};
use crate::storage::jetstream::flight::{Flight, Outcome};
use crate::storage::jetstream::message::Message;
use crate::storage::{Error, Stored};

/// Number of bytes by which a commit may grow when another replica stores it with its own publish time.
const RESTAMPING: usize = 8 << 10;

impl Follower {
    /// Builds a commit of the waiting appends, and sends it or hands it over.
    pub(super) fn begin_flight(&mut self) {
        let Some(seen) = self.seen else { return };
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        let (mut alone, is_growing) = (false, self.handed.is_some());
        loop {
            if queue.appends.is_empty() && self.held.all().is_empty() {
                return;
            }
            if topic.hands_over() {
                self.bus.open();
            }
            if self.ids.known(seen.sequence, self.pause).is_none() {
                return;
            }
            let certain = match self.end_check {
                EndCheck::Known { sequence, .. } if seen.sequence < sequence => return,
                EndCheck::Known { appends, .. } => appends,
                EndCheck::Unasked | EndCheck::Asked { .. } => 0,
            };
            self.sift_held();
            let peer = if alone || queue.appends.is_empty() { None } else { self.peer() };
            if is_growing && peer.is_none() {
                return;
            }
            let Some(window) = self.ids.known(seen.sequence, self.pause) else { return };
            let message_max = topic.nats.stream_config.message_bytes_max;
            let basis = Basis {
                epoch: topic.state.epoch,
                seen,
                certain,
                window,
                bytes_max: if peer.is_some() { message_max - RESTAMPING } else { message_max },
                by: topic.hands_over().then_some(self.bus.address),
                for_other: peer.is_some(),
                cut: topic.state.lineage.cut(),
                held: self.held.all(),
                held_first: self.held_first,
                wall: topic.nats.clock.wall(),
                steady: topic.nats.clock.steady(),
            };
            let mut commit = match build(&queue.appends, &basis) {
                Built::Behind => {
                    // An earlier request for the end of the stream says nothing about this append.
                    if !matches!(self.end_check, EndCheck::Asked { .. }) || self.fetching.is_none() {
                        self.end_check = EndCheck::Asked { appends: queue.appends.len() };
                        self.fetching = Some(attach::fetch_info(&topic, self.pause));
                    }
                    return;
                }
                Built::Commit(commit) => commit,
            };
            // A commit for another replica holds no conditions, so it is built again for this one.
            alone = peer.is_some() && commit.is_empty() && commit.settles_nothing();
            if alone {
                continue;
            }
            // The end was requested only for the earlier appends.
            self.end_check = EndCheck::Unasked;
            self.held_first = !self.held_first;
            self.give_back_stale(&mut commit);
            if !commit.is_empty() {
                match peer {
                    Some(peer) => self.hand_over(commit, peer, &queue.appends),
                    None => self.flight = Some(Flight::new(&topic, commit, self.contest.takes())),
                }
                return;
            }
            let place = commit.place();
            commit.settle(place, &mut queue.appends, None);
        }
    }

    /// Attaches again if the message in the place of the flight is not delivered.
    pub(super) fn await_taken(&mut self) {
        if self.flight.as_ref().is_some_and(Flight::is_forgotten) {
            self.detach(&"the message in the place of a commit is not delivered");
        }
    }

    /// Handles the answer of NATS to the commit in flight.
    pub(super) fn answered(&mut self, outcome: Outcome) {
        let Some(flight) = &mut self.flight else { return };
        if let (Outcome::Stored(_) | Outcome::Taken(_), Some(after)) = (&outcome, flight.took()) {
            self.contest.answered(after);
        }
        match outcome.after(self.topic.base) {
            Outcome::Stored(sequence) if sequence == flight.commit.sequence() => {
                let head = flight.commit.head.headers(flight.commit.after.sequence);
                match Message::read(sequence, Some(&head), &flight.commit.payload) {
                    Ok(message) => self.take(message, None),
                    Err(what) => error!(topic = %self.topic.state.name, reason = what, "memory is damaged"),
                }
            }
            // The feed delivers the message with this sequence, which decides the outcome.
            Outcome::Taken(last) if last >= flight.commit.sequence() => {
                flight.awaits_feed();
                if self.keeps_little() {
                    self.detach(&"the message in the place of a commit may be trimmed already");
                }
            }
            Outcome::Stored(sequence) | Outcome::Taken(sequence) => {
                let name = &self.topic.state.name;
                warn!(topic = %name, sequence, "NATS numbers messages anew: is it behind or was it reset?");
                self.trouble.get_or_insert_with(Instant::now);
                flight.resend();
                self.detach(&"NATS is behind what it acknowledged");
            }
            Outcome::Refused(error) => {
                // Commits of other replicas cannot be stored either.
                self.held.retain(|_| false);
                if let Some(flight) = self.flight.take() {
                    let error = flight.refused(error);
                    let error = if self.open.is_empty() { error } else { may_be_stored(&error) };
                    flight.commit.fail(&mut self.topic.queue().appends, &error);
                }
                self.open.clear();
            }
            Outcome::Unknown(reason) => {
                debug!(topic = %self.topic.state.name, reason, "publishing again");
                self.trouble.get_or_insert_with(Instant::now);
                flight.resend();
            }
            // NATS gives this answer only for conditions on a subject, which a commit does not have.
            Outcome::Racing => flight.resend(),
            Outcome::Nobody => {
                self.trouble.get_or_insert_with(Instant::now);
                flight.resend();
                // The stream may have been deleted, or it has no leader.
                self.fetching.get_or_insert_with(|| attach::fetch_info(&self.topic, Duration::ZERO));
            }
        }
    }

    /// Fails every append. Appends that were sent or handed over may be `stored`; the others are not.
    pub(super) fn fail_all(&mut self, error: &Error, stored: Stored) {
        let open = self.last_open();
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        let sent = match error {
            Error::Unavailable { .. } if stored == Stored::Unknown => may_be_stored(error),
            error => error.clone(),
        };
        if let Some(flight) = self.flight.take() {
            let error = if open.is_some() { &sent } else { error };
            flight.commit.fail(&mut queue.appends, error);
        }
        for append in queue.appends.drain(..) {
            let is_open = open.is_some_and(|open| append.serial <= open);
            append.answer(Some(if is_open { sent.clone() } else { error.clone() }));
        }
        self.held.retain(|_| false);
        (self.handed, self.open) = (None, Vec::new());
        self.end_check = EndCheck::Unasked;
    }
}

/// Converts an error to one for appends that may be stored.
fn may_be_stored(error: &Error) -> Error {
    let reason = match error {
        Error::Unavailable { reason, .. } => reason.clone(),
        error => format!("{error}, and an earlier attempt may be stored"),
    };
    Error::Unavailable { reason, stored: Stored::Unknown }
}
