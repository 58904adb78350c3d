//! The one task of an active topic: it reads the stream into the tail cache, and appends to it.
//!
//! ```text
//! stream ──feed──▶ seen (sequence, request ids) ──▶ cache, tail ──▶ subscribers
//! queue ──build──▶ group ──publish, must follow `seen`──▶ stored: settled │ taken: read on, rebuild
//! ```
//! One group is in flight; what comes meanwhile makes the next one. The condition makes it safe to
//! send a group again and again: at most one copy can follow `seen`, and whoever reads the message
//! there knows by its nonce whose it is.
//!
//! Never: holds a lock over an await, or waits for anything but in [`Follower::step`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{MessagesError, Stream};
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, warn};

use super::attach::{self, Attached, Lost};
use super::cached::Cached;
use super::flight::{Flight, Outcome};
use super::group::{Basis, Built, Seen, build};
use super::ids::Ids;
use super::message::{Message, end_of, start_of};
use super::names::{Meta, RECORDS_MAX};
use super::nats::unavailable;
use super::search;
use super::topic::Topic;
use crate::record::UnixMicros;
use crate::storage::{Error, Stored};

/// How long publishers wait for a NATS that does not answer: longer than a new leader takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a log that closes waits for NATS: less than the part of the drain that is kept for closing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a topic nobody uses is followed on.
const IDLE: Duration = Duration::from_secs(60);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often NATS is asked what was trimmed and changed by others.
const LOOK_TICKS: u32 = 20;
/// The longest pause between two attempts to read on.
const PAUSE_MOST: Duration = Duration::from_secs(2);

type Doing<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Follows a topic until nobody uses it, it is deleted, or the log closes.
pub async fn follow(topic: Arc<Topic>) {
    let mut follower = Follower {
        seen: None,
        feed: None,
        attaching: None,
        pause: Duration::ZERO,
        ids: Ids::new(topic.clone()),
        flight: None,
        looking: None,
        asked: None,
        certain: None,
        trimming: None,
        grown: false,
        cached: Cached::new(topic.clone()),
        trouble: None,
        closing: None,
        ticks: fastrand::u32(..LOOK_TICKS),
        topic,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !follower.may_stop() {
        follower.begin();
        follower.step(&mut ticks).await;
    }
}

struct Follower {
    topic: Arc<Topic>,
    /// The end of what was read; none until attached for the first time.
    seen: Option<Seen>,
    feed: Option<Stream>,
    attaching: Doing<Result<Attached, Lost>>,
    /// Before the next attempt to attach.
    pause: Duration,
    ids: Ids,
    flight: Option<Flight>,
    looking: Doing<Result<Option<Info>, Error>>,
    /// Where it is asked for the sake of conditions: how many appends waited then,
    asked: Option<usize>,
    /// and with them the end it had, once it has answered.
    certain: Option<(usize, u64)>,
    trimming: Doing<Result<(), Error>>,
    /// Whether there is more than when it was trimmed last.
    grown: bool,
    cached: Cached,
    /// Since when NATS has not done what it was asked.
    trouble: Option<Instant>,
    /// Since when the log closes.
    closing: Option<Instant>,
    ticks: u32,
}

/// What a step waited for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; most are the large one")]
enum Event {
    Message(Option<Result<jetstream::Message, MessagesError>>),
    Attached(Result<Attached, Lost>),
    Answer(Outcome),
    Loaded(Result<(), Error>),
    Looked(Result<Option<Info>, Error>),
    Trimmed(Result<(), Error>),
    Tick,
    Work,
}

/// Polls what is under way; for ever pending where nothing is.
async fn done<T>(doing: &mut Doing<T>) -> T {
    match doing {
        Some(future) => {
            let result = future.as_mut().await;
            *doing = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl Follower {
    /// Waits for one thing and takes it in. Every branch is cancel-safe: what is under way stays in
    /// its field.
    async fn step(&mut self, ticks: &mut tokio::time::Interval) {
        let event = {
            let feed = async {
                match &mut self.feed {
                    Some(feed) => feed.next().await,
                    None => std::future::pending().await,
                }
            };
            let answer = async {
                match &mut self.flight {
                    Some(flight) => flight.answer().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                outcome = answer => Event::Answer(outcome),
                message = feed => Event::Message(message),
                attached = done(&mut self.attaching) => Event::Attached(attached),
                loaded = self.ids.loaded() => Event::Loaded(loaded),
                looked = done(&mut self.looking) => Event::Looked(looked),
                trimmed = done(&mut self.trimming) => Event::Trimmed(trimmed),
                () = self.topic.work.notified() => Event::Work,
                _ = ticks.tick() => Event::Tick,
                () = self.topic.nats.closing.cancelled(), if self.trouble.is_some() => Event::Tick,
            }
        };
        match event {
            Event::Message(Some(Ok(message))) => self.message(&message),
            Event::Message(Some(Err(error))) => self.detach(&error),
            Event::Message(None) => self.detach(&"the consumer ended"),
            Event::Attached(Ok(attached)) => self.attached(attached),
            Event::Attached(Err(Lost::Gone)) => self.topic.delete(),
            Event::Attached(Err(Lost::Error(error))) => self.detach(&error),
            Event::Answer(outcome) => self.answered(outcome),
            Event::Loaded(loaded) => self.loaded(loaded),
            Event::Looked(looked) => self.looked(looked),
            Event::Trimmed(Ok(())) => {}
            Event::Trimmed(Err(error)) => {
                debug!(topic = %self.topic.name, %error, "retention by count is put off");
                self.grown = true;
            }
            Event::Tick => self.tick(),
            Event::Work => {}
        }
    }

    /// Begins what can be begun.
    fn begin(&mut self) {
        if self.topic.is_deleted() {
            return self.fail_all(&Error::TopicNotFound, Stored::Nothing);
        }
        if self.feed.is_none() && self.attaching.is_none() {
            let (topic, seen, pause) = (self.topic.clone(), self.seen, self.pause);
            self.attaching = Some(Box::pin(attach::attach(topic, seen, pause)));
        }
        if self.flight.is_none() {
            self.begin_flight();
        }
    }

    fn begin_flight(&mut self) {
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
            let basis = Basis { epoch: topic.epoch, seen, certain, window, bytes_max };
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

    /// Takes in what the stream delivers.
    fn message(&mut self, message: &jetstream::Message) {
        let Some(seen) = self.seen else { return };
        let sequence = match message.info() {
            Ok(info) => info.stream_sequence,
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
            Ok(message) => self.take(message),
            Err(what) => {
                // Whoever reads it is told; what comes after it is served.
                error!(topic = %self.topic.name, reason = what, "stored data is damaged");
                self.cached.clear();
                self.ids.reload();
                let next = end_of(sequence);
                self.seen = Some(Seen { sequence, next, ..seen });
                self.topic.advance(next, UnixMicros(0));
            }
        }
    }

    /// Shows a stored message to everyone, and settles the flight that it decides.
    fn take(&mut self, message: Message) {
        let Message { head, run, next } = message;
        let sequence = super::message::sequence_of(run.first);
        debug_assert!(self.seen.is_none_or(|seen| sequence == seen.sequence + 1), "each once, in order");
        self.ids.note(run.first, run.first_time, &head.ids);
        let (records, time) = (head.before + u64::from(head.records), run.first_time);
        self.seen = Some(Seen { sequence, next, records, time });
        self.grown = true;
        self.cached.push(run);
        self.topic.advance(end_of(sequence), time);
        let decided = self.flight.take_if(|flight| flight.group.sequence() <= sequence);
        let ours =
            |flight: &Flight| flight.group.sequence() == sequence && flight.group.head.nonce == head.nonce;
        // Somebody else's message in its place means that it is not, and will not be, stored.
        if let Some(flight) = decided.filter(ours) {
            self.trouble = None;
            let steps = flight.steps();
            flight.group.settle(&mut self.topic.queue().appends, Some(steps));
        }
    }

    fn answered(&mut self, outcome: Outcome) {
        let Some(flight) = &mut self.flight else { return };
        match outcome {
            Outcome::Stored(sequence) if sequence == flight.group.sequence() => {
                let head = flight.group.head.headers(flight.group.after.sequence);
                match Message::read(sequence, Some(&head), &flight.group.payload) {
                    Ok(message) => self.take(message),
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
                    flight.group.fail(&mut self.topic.queue().appends, &error);
                }
            }
            Outcome::Unknown(reason) => {
                debug!(topic = %self.topic.name, reason, "publishing again");
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
            }
            Outcome::Nobody => {
                self.trouble.get_or_insert_with(Instant::now);
                flight.again();
                // The stream may be gone, or its leader is.
                self.looking.get_or_insert_with(|| attach::look(&self.topic, Duration::ZERO));
            }
        }
    }

    /// Reads on later, from where it stopped.
    fn detach(&mut self, why: &dyn std::fmt::Display) {
        debug!(topic = %self.topic.name, reason = %why, "reading on");
        self.feed = None;
        self.put_off();
    }

    /// NATS did not do what it was asked: the next request waits a little, each time longer.
    fn put_off(&mut self) {
        self.trouble.get_or_insert_with(Instant::now);
        self.pause = (self.pause * 2).clamp(TICK / 5, PAUSE_MOST);
    }

    fn attached(&mut self, attached: Attached) {
        let Attached { seen, feed, jumped } = attached;
        self.feed = Some(feed);
        self.pause = Duration::ZERO;
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
            if let Some(flight) = self.flight.take_if(|flight| flight.was_sent()) {
                let reason = "what was stored meanwhile is trimmed already".to_owned();
                let error = Error::Unavailable { reason, stored: Stored::Unknown };
                flight.group.fail(&mut self.topic.queue().appends, &error);
            }
            self.flight = None;
        }
        self.seen = Some(seen);
        self.topic.advance(end_of(seen.sequence), seen.time);
    }

    fn loaded(&mut self, loaded: Result<(), Error>) {
        match loaded {
            Ok(()) => self.trouble = None,
            Err(error) => {
                warn!(topic = %self.topic.name, %error, "reading the request ids again");
                self.put_off();
            }
        }
    }

    fn looked(&mut self, looked: Result<Option<Info>, Error>) {
        let Ok(found) = looked else { return self.put_off() };
        match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
            Some((meta, info)) if meta.epoch == self.topic.epoch => {
                self.topic.refresh(meta, info);
                if let Some(appends) = self.asked.take() {
                    self.certain = Some((appends, info.state.last_sequence));
                }
            }
            _ => self.topic.delete(),
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(LOOK_TICKS) && self.topic.nats.link.state().up {
            self.looking.get_or_insert_with(|| attach::look(&self.topic, Duration::ZERO));
        }
        self.trim();
        let closing = self.topic.nats.closing.is_cancelled();
        let troubled = self.trouble.is_some_and(|since| closing || since.elapsed() >= PATIENCE);
        // A group that NATS can be sent gets its time, however long the trouble has lasted: it ends it.
        let late = self.flight.as_ref().is_none_or(|flight| flight.age() >= PATIENCE);
        let closing_since = closing.then(|| *self.closing.get_or_insert_with(Instant::now));
        let is_stuck = closing_since.is_some_and(|since| since.elapsed() >= CLOSE_PATIENCE);
        if is_stuck || troubled && (closing || late || !self.topic.nats.link.state().up) {
            self.fail_all(&unavailable("it does not answer"), Stored::Unknown);
        }
    }

    /// Answers everyone: what is in flight may have been `stored`, what waits was not.
    fn fail_all(&mut self, error: &Error, stored: Stored) {
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

    /// Retention by count, which NATS knows only of messages.
    fn trim(&mut self) {
        let retention = self.topic.settings.load().retention;
        let (Some(records), Some(seen)) = (retention.max_records, self.seen) else { return };
        if !self.grown || self.trimming.is_some() || seen.records <= records {
            return;
        }
        self.grown = false;
        let topic = self.topic.clone();
        self.trimming = Some(Box::pin(async move {
            let first = search::first_keeping(&topic, seen.sequence, seen.records, records).await?;
            if start_of(first) > topic.floor() {
                topic.nats.purge(&topic.stream, first).await?;
                topic.trim(start_of(first));
            }
            Ok(())
        }));
    }

    /// Whether there is nothing left to do; from then on nobody follows.
    fn may_stop(&self) -> bool {
        if self.flight.is_some() {
            return false;
        }
        let over =
            self.topic.is_deleted() || self.topic.nats.closing.is_cancelled() || self.topic.is_idle(IDLE);
        let mut queue = self.topic.queue();
        let stops = over && queue.appends.is_empty();
        queue.followed &= !stops;
        stops
    }
}

const _: () = assert!(RECORDS_MAX == 1024, "docs/engines.md says so");
