//! Reads of the stream. Its messages go into the cache and decide the outcome of the commit in flight.

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
    /// Handles a message that the stream delivers.
    pub(super) fn message(&mut self, message: &jetstream::Message) {
        let Some(seen) = self.seen else { return };
        let (sequence, published) = match message.info() {
            Ok(info) => (self.topic.base + info.stream_sequence, micros(info.published)),
            Err(error) => return self.detach(&error),
        };
        if sequence <= seen.sequence {
            // The message is known already, because this replica stored it.
            return;
        }
        if sequence != seen.sequence + 1 {
            return self.detach(&format!("message {sequence} came after {}", seen.sequence));
        }
        match Message::read(sequence, message.headers.as_ref(), &message.payload) {
            Ok(message) => self.take(message, Some(published)),
            Err(what) => {
                // Readers of the damaged message get an error. Later messages are served.
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

    /// Shows a stored message to readers, and settles the commits that it decides. `published` is the time at which
    /// NATS stored it; none if this replica has just stored it.
    pub(super) fn take(&mut self, message: Message, published: Option<UnixMicros>) {
        let Message { head, run, next } = message;
        let sequence = sequence_of(run.first);
        debug_assert!(self.seen.is_none_or(|seen| sequence == seen.sequence + 1), "each once, in order");
        self.ids.note(&head, run.first, published);
        let (records, time) = (head.before + u64::from(head.records), run.first_time);
        self.seen = Some(Seen { sequence, next, records, time });
        self.trimming.is_due = true;
        self.cached.push(run);
        self.topic.state.advance(end_of(sequence), time);
        self.topic.state.wake();
        self.marks.note(sequence, &head);
        self.decide(sequence, &head);
    }

    /// Stops reading. The stream is attached again later, and reading continues where it stopped.
    pub(super) fn detach(&mut self, why: &dyn std::fmt::Display) {
        debug!(topic = %self.topic.state.name, reason = %why, "reading on");
        if matches!(self.reading, Reading::Attached(_)) {
            self.reading = Reading::Stopped;
        }
        self.back_off();
    }

    /// Doubles the pause before the next request, because a request to NATS failed.
    pub(super) fn back_off(&mut self) {
        self.trouble.get_or_insert_with(Instant::now);
        self.pause = (self.pause * 2).clamp(TICK / 5, PAUSE_MAX);
    }

    pub(super) fn attached(&mut self, attached: Attached) {
        let Attached { seen, last, feed, jumped, ages } = attached;
        self.reading = Reading::Attached(feed);
        self.ids.read_from(ages);
        self.pause = Duration::ZERO;
        // NATS may have refused the flight because of a copy that it has lost since.
        if let Some(flight) = self.flight.as_mut().filter(|flight| flight.is_taken())
            && last < flight.commit.sequence()
        {
            flight.resend();
        }
        if jumped && self.seen.is_some_and(|known| known.sequence < seen.sequence) {
            // The flight was not stored. Its appends are built into a new commit.
            self.flight.take_if(|flight| flight.is_refused() && flight.commit.sequence() <= last);
        }
        if self.flight.is_none() {
            self.trouble = None;
        }
        // This replica has already shown the messages that it stored while it attached. The copies of the feed are
        // ignored.
        if self.seen.is_some_and(|known| known.sequence >= seen.sequence) {
            return;
        }
        if jumped && self.seen.is_some() {
            // The messages in between were trimmed before they were read, and so were their ids.
            self.cached.clear();
            self.ids.forget();
            self.give_up_open("what was stored meanwhile is trimmed already");
        }
        if self.seen.is_none() || jumped {
            self.marks.begin(seen.sequence);
        }
        self.seen = Some(seen);
        self.topic.state.advance(end_of(seen.sequence), seen.time);
        self.topic.state.wake();
    }
}
