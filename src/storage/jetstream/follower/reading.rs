//! Reading the stream: its messages go into the cache, and decide about the commit in flight.

use std::time::Duration;

use async_nats::jetstream;
use tokio::time::Instant;
use tracing::{debug, error};

use super::{Follower, PAUSE_MAX, Reading, TICK};
use crate::record::UnixMicros;
use crate::storage::jetstream::attach::Attached;
use crate::storage::jetstream::commit::Seen;
use crate::storage::jetstream::message::{Message, end_of, sequence_of};
use crate::storage::jetstream::nats::micros;

impl Follower {
    /// Takes in what the stream delivers.
    pub(super) fn message(&mut self, message: &jetstream::Message) {
        let Some(seen) = self.seen else { return };
        let (sequence, published) = match message.info() {
            Ok(info) => (info.stream_sequence, micros(info.published)),
            Err(error) => return self.detach(&error),
        };
        if sequence <= seen.sequence {
            // Already known: this replica stored it.
            return;
        }
        if sequence != seen.sequence + 1 {
            return self.detach(&format!("message {sequence} came after {}", seen.sequence));
        }
        match Message::read(sequence, message.headers.as_ref(), &message.payload) {
            Ok(message) => self.take(message, Some(published)),
            Err(what) => {
                // Whoever reads it is told; what comes after it is served.
                error!(topic = %self.topic.state.name, reason = what, "stored data is damaged");
                self.cached.clear();
                self.ids.reload();
                self.marks.begin(sequence);
                self.give_up_open("what is stored there is damaged");
                let next = end_of(sequence);
                self.seen = Some(Seen { sequence, next, ..seen });
                self.topic.state.advance(next, UnixMicros(0));
                self.topic.state.wake();
            }
        }
    }

    /// Shows a stored message to everyone, and settles the flight that it decides. NATS says when it was
    /// published where it comes from there.
    pub(super) fn take(&mut self, message: Message, published: Option<UnixMicros>) {
        let Message { head, run, next } = message;
        let sequence = sequence_of(run.first);
        debug_assert!(self.seen.is_none_or(|seen| sequence == seen.sequence + 1), "each once, in order");
        self.ids.note(&head, run.first, published);
        let (records, time) = (head.before + u64::from(head.records), run.first_time);
        self.seen = Some(Seen { sequence, next, records, time });
        self.trimming.is_due = true;
        let is_own = head.by == Some(self.bus.address);
        self.unwritten_end = is_own.then(|| (next, Instant::now()));
        self.cached.push(run);
        self.topic.note_end(next);
        self.topic.state.advance(end_of(sequence), time);
        self.topic.state.wake();
        self.marks.note(sequence, &head);
        self.decide(sequence, &head);
    }

    /// Reads on later, from where it stopped.
    pub(super) fn detach(&mut self, why: &dyn std::fmt::Display) {
        debug!(topic = %self.topic.state.name, reason = %why, "reading on");
        if matches!(self.reading, Reading::Attached(_)) {
            self.reading = Reading::Stopped;
        }
        self.back_off();
    }

    /// Lets the next request wait a little, each time longer: NATS did not do what it was asked.
    pub(super) fn back_off(&mut self) {
        self.trouble.get_or_insert_with(Instant::now);
        self.pause = (self.pause * 2).clamp(TICK / 5, PAUSE_MAX);
    }

    pub(super) fn attached(&mut self, attached: Attached) {
        let Attached { seen, last, feed, jumped, ages } = attached;
        self.reading = Reading::Attached(feed);
        self.ids.read_from(ages);
        self.pause = Duration::ZERO;
        // NATS may have refused the flight for the sake of a copy of its own that it lost.
        if let Some(flight) = self.flight.as_mut().filter(|flight| flight.is_taken())
            && last < flight.commit.sequence()
        {
            flight.resend();
        }
        if jumped && self.seen.is_some_and(|known| known.sequence < seen.sequence) {
            // The appends of a flight that is not stored are built anew.
            self.flight.take_if(|flight| flight.is_refused() && flight.commit.sequence() <= last);
        }
        if self.flight.is_none() {
            self.trouble = None;
        }
        // What this replica stored while it attached it has shown already; the feed's copy is ignored.
        if self.seen.is_some_and(|known| known.sequence >= seen.sequence) {
            return;
        }
        if jumped && self.seen.is_some() {
            // What lies between was trimmed before it was read, its ids too.
            self.cached.clear();
            self.ids.forget();
            self.give_up_open("what was stored meanwhile is trimmed already");
        }
        if self.seen.is_none() || jumped {
            self.marks.begin(seen.sequence);
        }
        self.seen = Some(seen);
        self.topic.note_end(seen.next);
        self.topic.state.advance(end_of(seen.sequence), seen.time);
        self.topic.state.wake();
    }
}
