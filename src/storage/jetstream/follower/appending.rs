//! How a follower appends: one group at a time, until it is known what became of it.
//! Never: reads; what another stored in a group's place comes from the feed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::Follower;
use crate::storage::jetstream::attach;
use crate::storage::jetstream::flight::{Flight, Outcome};
use crate::storage::jetstream::group::{Basis, Built, build};
use crate::storage::jetstream::message::Message;
use crate::storage::{Error, Stored};

impl Follower {
    /// Sends what waits, if it can be built.
    pub(super) fn begin_flight(&mut self) {
        let Some(seen) = self.seen else { return };
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        loop {
            if queue.appends.is_empty() {
                return;
            }
            let Some(window) = self.ids.known(seen.sequence, self.pause) else { return };
            if self.certain.is_some_and(|(_, end)| seen.sequence < end) {
                return;
            }
            let certain = self.certain.map_or(0, |(appends, _)| appends);
            let bytes_max = topic.nats.kept.message_bytes_max;
            let clock = &topic.nats.clock;
            let (wall, steady) = (clock.wall(), clock.steady());
            let basis = Basis { epoch: topic.epoch, seen, certain, window, bytes_max, wall, steady };
            match build(&queue.appends, &basis) {
                Built::Behind => {
                    // One that was asked before this came says nothing about it.
                    if self.asked.is_none() || self.looking.is_none() {
                        self.asked = Some(queue.appends.len());
                        self.looking = Some(attach::look(&topic, self.pause));
                    }
                    return;
                }
                Built::Group(group) => {
                    // Whoever comes now is not among those it was asked for.
                    (self.asked, self.certain) = (None, None);
                    if !group.is_empty() {
                        self.flight = Some(Flight::new(&topic, group));
                        return;
                    }
                    group.settle(&mut queue.appends, None);
                }
            }
        }
    }

    /// Takes in what NATS says of the group in flight.
    pub(super) fn answered(&mut self, outcome: Outcome) {
        let Some(flight) = &mut self.flight else { return };
        match outcome {
            Outcome::Stored(sequence) if sequence == flight.group.sequence() => {
                let head = flight.group.head.headers(flight.group.after.sequence);
                match Message::read(sequence, Some(&head), &flight.group.payload) {
                    Ok(message) => self.take(message, None),
                    Err(what) => error!(topic = %self.topic.name, reason = what, "memory is damaged"),
                }
            }
            // The feed will bring what is there, and decides.
            Outcome::Taken(last) if last >= flight.group.sequence() => {}
            Outcome::Stored(sequence) | Outcome::Taken(sequence) => {
                let name = &self.topic.name;
                warn!(topic = %name, sequence, "NATS numbers messages anew: is it behind or was it reset?");
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
                self.detach(&"NATS is behind what it acknowledged");
            }
            Outcome::Refused(error) => {
                if let Some(flight) = self.flight.take() {
                    let error = flight.refused(error);
                    flight.group.fail(&mut self.topic.queue().appends, &error);
                }
            }
            Outcome::Unknown(reason) => {
                debug!(topic = %self.topic.name, reason, "publishing again");
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
            }
            // Said of conditions on a subject, which a group has none of.
            Outcome::Racing => flight.again(),
            Outcome::Nobody => {
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
                // The stream may be gone, or its leader is.
                self.looking.get_or_insert_with(|| attach::look(&self.topic, Duration::ZERO));
            }
        }
    }

    /// Answers everyone: what is in flight may have been `stored`, what waits was not.
    pub(super) fn fail_all(&mut self, error: &Error, stored: Stored) {
        let topic = self.topic.clone();
        let mut queue = topic.queue();
        if let Some(flight) = self.flight.take() {
            let error = match error.clone() {
                Error::Unavailable { reason, .. } if flight.was_sent() => {
                    Error::Unavailable { reason, stored }
                }
                error => error,
            };
            flight.group.fail(&mut queue.appends, &error);
        }
        for append in queue.appends.drain(..) {
            append.answer(Some(error.clone()));
        }
        (self.asked, self.certain) = (None, None);
    }
}
