//! How a follower appends: one commit at a time, until it is known what became of it.
//! Never: reads; what another stored in a commit's place comes from the feed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{EndCheck, Follower};
use crate::storage::jetstream::attach;
use crate::storage::jetstream::commit::{Basis, Built, build};
use crate::storage::jetstream::flight::{Flight, Outcome};
use crate::storage::jetstream::message::Message;
use crate::storage::{Error, Stored};

/// Bytes by which a commit may grow where another stores it at its own time.
const RESTAMPING: usize = 8 << 10;

impl Follower {
    /// Sends what waits, if it can be built.
    pub(super) fn begin_flight(&mut self) {
        let Some(seen) = self.seen else { return };
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        let (mut alone, is_growing) = (false, self.handed.is_some());
        loop {
            if queue.appends.is_empty() && self.held.all().is_empty() {
                return;
            }
            if topic.nats.hands_over {
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
                epoch: topic.epoch,
                seen,
                certain,
                window,
                bytes_max: if peer.is_some() { message_max - RESTAMPING } else { message_max },
                by: topic.nats.hands_over.then_some(self.bus.address),
                for_other: peer.is_some(),
                held: self.held.all(),
                held_first: self.held_first,
                wall: topic.nats.clock.wall(),
                steady: topic.nats.clock.steady(),
            };
            let mut commit = match build(&queue.appends, &basis) {
                Built::Behind => {
                    // One that was asked before this came says nothing about it.
                    if !matches!(self.end_check, EndCheck::Asked { .. }) || self.fetching.is_none() {
                        self.end_check = EndCheck::Asked { appends: queue.appends.len() };
                        self.fetching = Some(attach::fetch_info(&topic, self.pause));
                    }
                    return;
                }
                Built::Commit(commit) => commit,
            };
            // A condition is this replica's own to check.
            alone = peer.is_some() && commit.is_empty() && commit.settles_nothing();
            if alone {
                continue;
            }
            // Whoever comes now is not among those it was asked for.
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

    /// Reads on anew where the message that is to be in the place of the flight does not come.
    pub(super) fn await_taken(&mut self) {
        if self.flight.as_ref().is_some_and(Flight::is_forgotten) {
            self.detach(&"what was stored there does not come");
        }
    }

    /// Takes in what NATS says of the commit in flight.
    pub(super) fn answered(&mut self, outcome: Outcome) {
        let Some(flight) = &mut self.flight else { return };
        if let (Outcome::Stored(_) | Outcome::Taken(_), Some(after)) = (&outcome, flight.took()) {
            self.contest.answered(after);
        }
        match outcome {
            Outcome::Stored(sequence) if sequence == flight.commit.sequence() => {
                let head = flight.commit.head.headers(flight.commit.after.sequence);
                match Message::read(sequence, Some(&head), &flight.commit.payload) {
                    Ok(message) => self.take(message, None),
                    Err(what) => error!(topic = %self.topic.name, reason = what, "memory is damaged"),
                }
            }
            // The feed will bring what is there, and decides.
            Outcome::Taken(last) if last >= flight.commit.sequence() => {
                flight.awaits_feed();
                if self.keeps_little() {
                    self.detach(&"what was stored there may be gone already");
                }
            }
            Outcome::Stored(sequence) | Outcome::Taken(sequence) => {
                let name = &self.topic.name;
                warn!(topic = %name, sequence, "NATS numbers messages anew: is it behind or was it reset?");
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
                self.detach(&"NATS is behind what it acknowledged");
            }
            Outcome::Refused(error) => {
                // Nor can it store what others handed over.
                self.held.retain(|_| false);
                if let Some(flight) = self.flight.take() {
                    let error = flight.refused(error);
                    let error = if self.open.is_empty() { error } else { may_be_stored(&error) };
                    flight.commit.fail(&mut self.topic.queue().appends, &error);
                }
                self.open.clear();
            }
            Outcome::Unknown(reason) => {
                debug!(topic = %self.topic.name, reason, "publishing again");
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
            }
            // Said of conditions on a subject, which a commit has none of.
            Outcome::Racing => flight.again(),
            Outcome::Nobody => {
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
                // The stream may be gone, or its leader is.
                self.fetching.get_or_insert_with(|| attach::fetch_info(&self.topic, Duration::ZERO));
            }
        }
    }

    /// Answers everyone: what was sent or handed over may be `stored`, what waits was not.
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

/// The same, of what may be stored all the same.
fn may_be_stored(error: &Error) -> Error {
    let reason = match error {
        Error::Unavailable { reason, .. } => reason.clone(),
        error => format!("{error}, and an earlier attempt may be stored"),
    };
    Error::Unavailable { reason, stored: Stored::Unknown }
}
