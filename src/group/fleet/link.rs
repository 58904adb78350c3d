//! One side of a link between two replicas: it numbers letters, so that a lost one is noticed, and knows how long the
//! other side has been silent.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::super::clock::since_boot;
use super::super::random::random;
use super::frames::Letter;
use crate::storage::{Error, ReplicaBus, Stored};

/// Interval of letters while nothing happens.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);
/// Size in bytes from which on a letter takes no further frame.
const LETTER_FULL: usize = 256 << 10;
/// Bytes of a piece of a frame that is larger than that. Its letter takes twice as many at most.
const PIECE_BYTES: usize = 128 << 10;
/// Most bytes of such a frame. The state of a group with a million open ranges takes less.
const PIECES_MAX: usize = 64 << 20;
/// Longest wait to send a letter, as it waits while NATS is away.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// One side of a link.
pub(super) struct Link {
    bus: ReplicaBus,
    own: String,
    to: String,
    /// Time since the machine's start at which it began.
    begun: Duration,
    sent: u64,
    got: u64,
    /// Newest time of the other side's clock, and when it came.
    heard: (u64, Duration),
    queue: VecDeque<Queued>,
    /// Pieces of a frame that are here.
    pieces: String,
}

enum Queued {
    Frame(Box<RawValue>),
    Piece(String, bool),
}

impl Link {
    /// Begins a link from the address `own` to the address `to`.
    pub(super) fn new(bus: ReplicaBus, own: String, to: String) -> Self {
        let begun = since_boot();
        Self {
            bus,
            own,
            to,
            begun,
            sent: 0,
            got: 0,
            heard: (0, begun),
            queue: VecDeque::new(),
            pieces: String::new(),
        }
    }

    /// A new address, which nobody else has.
    pub(super) fn address() -> String {
        format!("{:016x}", random())
    }

    /// Returns true if this may be the address of a link.
    pub(super) fn is_address(text: &str) -> bool {
        text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// Returns true if the other side has been silent for so long.
    pub(super) fn is_silent(&self, long: Duration) -> bool {
        since_boot().saturating_sub(self.heard.1) >= long
    }

    /// The time since the machine's start at which this side sent what a letter's sender had heard.
    pub(super) fn time_of(&self, heard: u64) -> Duration {
        self.begun + Duration::from_millis(heard)
    }

    fn now(&self) -> u64 {
        u64::try_from(since_boot().saturating_sub(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// Queues a frame, in pieces if it is larger than a letter.
    pub(super) fn push(&mut self, frame: &impl Serialize) {
        let raw = to_raw_value(frame).expect("frames are maps with text keys, and write to memory");
        if raw.get().len() <= LETTER_FULL {
            self.queue.push_back(Queued::Frame(raw));
            return;
        }
        let mut rest = raw.get();
        while !rest.is_empty() {
            let end = (0..=PIECE_BYTES.min(rest.len())).rev().find(|&end| rest.is_char_boundary(end));
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.queue.push_back(Queued::Piece(piece.to_owned(), after.is_empty()));
            rest = after;
        }
    }

    /// Returns true if frames wait to be sent.
    pub(super) fn has_frames(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends all frames, and at least one letter.
    ///
    /// # Errors
    /// NATS takes no messages.
    pub(super) async fn flush(&mut self, is_last: bool) -> Result<(), Error> {
        loop {
            let (mut frames, mut piece, mut bytes) = (Vec::new(), None, 0);
            while bytes < LETTER_FULL
                && let Some(queued) = self.queue.pop_front()
            {
                match queued {
                    Queued::Frame(frame) => {
                        bytes += frame.get().len();
                        frames.push(frame);
                    }
                    Queued::Piece(text, is_last) if frames.is_empty() => {
                        piece = Some((text, is_last));
                        break;
                    }
                    of_next @ Queued::Piece(..) => {
                        self.queue.push_front(of_next);
                        break;
                    }
                }
            }
            let is_done = self.queue.is_empty();
            self.sent += 1;
            let (number, heard, sent) = (self.sent, self.heard.0, self.now());
            let letter = Letter { number, sent, heard, is_last: is_last && is_done, frames, piece };
            let message = serde_json::to_vec(&letter).map_err(|error| lost(&error))?;
            let sending = self.bus.send(&self.to, &self.own, message.into());
            timeout(SEND_TIMEOUT, sending).await.map_err(|error| lost(&error))??;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Reads a letter. None if one before it is lost, or if it is not one.
    pub(super) fn read(&mut self, message: &[u8]) -> Option<Letter> {
        let mut letter: Letter = serde_json::from_slice(message)
            .inspect_err(|error| tracing::warn!(%error, "a letter of another replica cannot be read"))
            .ok()?;
        if letter.number != self.got + 1 {
            tracing::debug!(
                number = letter.number,
                expected = self.got + 1,
                "a letter between replicas is lost"
            );
            return None;
        }
        self.got = letter.number;
        self.heard = (self.heard.0.max(letter.sent), since_boot());
        if let Some((text, is_last)) = letter.piece.take() {
            self.pieces.push_str(&text);
            if self.pieces.len() > PIECES_MAX {
                tracing::warn!(bytes = self.pieces.len(), "a message of another replica is too large");
                return None;
            }
            if is_last {
                letter.frames.push(serde_json::from_str(&std::mem::take(&mut self.pieces)).ok()?);
            }
        }
        Some(letter)
    }
}

fn lost(error: &dyn std::fmt::Display) -> Error {
    Error::Unavailable { reason: error.to_string(), stored: Stored::Unknown }
}
