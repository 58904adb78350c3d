//! The one task of an active topic: it reads the stream into the tail cache, and appends to it.
//!
//! ```text
//! stream ──feed──▶ seen (sequence, request ids) ──▶ cache, tail ──▶ subscribers
//! queue ──build──▶ commit ──publish, must follow `seen`──▶ stored: settled │ taken: read on, rebuild
//! ```
//! One commit is in flight; what comes meanwhile makes the next one. The condition makes it safe to
//! send a commit again and again: at most one copy can follow `seen`, and whoever reads the message
//! there knows by its nonce whose it is.
//!
//! Never: holds a lock over an await, or waits for anything but in [`Follower::step`].

mod appending;
mod handing;
mod reading;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Info;
use futures_util::future;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use self::handing::HandedOver;
use super::attach::{self, Attached, Feed, Lost};
use super::bus::{Bus, Received};
use super::cached::Cached;
use super::commit::{Commit, Seen};
use super::contest::Contest;
use super::flight::{Flight, Outcome};
use super::handover::{Held, Why};
use super::ids::Ids;
use super::last_end;
use super::marks::Marks;
use super::message::start_of;
use super::names::{Meta, RECORDS_MAX};
use super::nats::unavailable;
use super::search;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::{Error, Stored};

/// How long publishers wait for a NATS that does not answer: longer than a new leader takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a log that closes waits for NATS: less than the part of the drain that is kept for closing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often NATS is asked what was trimmed and changed by others.
const LOOK_TICKS: u32 = 20;
/// The longest pause between two attempts to read on.
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// How long a follower that stops takes to send its last letters.
const LAST_LETTERS: Duration = Duration::from_millis(100);

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
        bus: Bus::new(topic.nats.client.clone()),
        contest: Contest::default(),
        marks: Marks::default(),
        handed: None,
        open: Vec::new(),
        held: Held::default(),
        held_first: false,
        looking: None,
        asked: None,
        certain: None,
        trimming: None,
        grown: false,
        unwritten_end: None,
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
    // What others still wait for they are told.
    let last_end = async {
        if let Some((end, _)) = follower.unwritten_end {
            last_end::write_of_expiring(&follower.topic, end).await;
        }
    };
    let _ = timeout(LAST_LETTERS, future::join(follower.bus.sent(), last_end)).await;
}

struct Follower {
    topic: Arc<Topic>,
    /// The end of what was read; none until attached for the first time.
    seen: Option<Seen>,
    feed: Option<Feed>,
    attaching: Doing<Result<Attached, Lost>>,
    /// Before the next attempt to attach.
    pause: Duration,
    ids: Ids,
    flight: Option<Flight>,
    bus: Bus,
    contest: Contest,
    marks: Marks,
    /// What another replica is to store; no flight meanwhile.
    handed: Option<HandedOver>,
    /// What was handed over or sent before, and may still be stored: made of the same appends.
    open: Vec<Commit>,
    /// What others handed over.
    held: Held,
    /// Whether that goes first into the next commit; it alternates.
    held_first: bool,
    looking: Doing<Result<Option<Info>, Error>>,
    /// Where it is asked for the sake of conditions: how many appends waited then,
    asked: Option<usize>,
    /// and with them the end it had, once it has answered.
    certain: Option<(usize, u64)>,
    trimming: Doing<Result<(), Error>>,
    /// Whether there is more than when it was trimmed last.
    grown: bool,
    /// Where the newest message ends, which this follower stored then: to be written down where it may expire.
    unwritten_end: Option<(Offset, Instant)>,
    cached: Cached,
    /// Since when NATS has not done what it was asked.
    trouble: Option<Instant>,
    /// Since when the log closes, or is about to.
    closing: Option<Instant>,
    ticks: u32,
}

/// What a step waited for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; most are the large one")]
enum Event {
    Message(Result<jetstream::Message, String>),
    Attached(Result<Attached, Lost>),
    Answer(Outcome),
    Received(Received),
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
        // Whether NATS is waited for, and nobody hurries yet.
        let is_waiting = self.trouble.is_some() && self.closing.is_none();
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
                received = self.bus.next() => Event::Received(received),
                loaded = self.ids.loaded() => Event::Loaded(loaded),
                looked = done(&mut self.looking) => Event::Looked(looked),
                trimmed = done(&mut self.trimming) => Event::Trimmed(trimmed),
                () = self.topic.work.notified() => Event::Work,
                _ = ticks.tick() => Event::Tick,
                // Once: from then on the ticks do.
                () = self.topic.nats.closing.cancelled(), if is_waiting => Event::Tick,
                () = self.topic.nats.hurried.cancelled(), if is_waiting => Event::Tick,
            }
        };
        match event {
            Event::Message(Ok(message)) => self.message(&message),
            Event::Message(Err(why)) => self.detach(&why),
            Event::Attached(Ok(attached)) => self.attached(attached),
            Event::Attached(Err(Lost::Gone)) => self.topic.delete(),
            Event::Attached(Err(Lost::Error(error))) => self.detach(&error),
            Event::Answer(outcome) => self.answered(outcome),
            Event::Received(received) => self.received(received),
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
        if self.topic.nats.closing.is_cancelled() {
            self.give_back(Why::Stopping);
        }
        if self.flight.is_none() && self.handed.is_none() {
            self.begin_flight();
        }
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
        self.ids.keep_to_budget();
        self.write_end();
        self.take_back();
        self.sift_held();
        self.await_taken();
        let nats = &self.topic.nats;
        let closing = nats.closing.is_cancelled() || nats.hurried.is_cancelled();
        let troubled = self.trouble.is_some_and(|since| closing || since.elapsed() >= PATIENCE);
        // A commit that NATS can be sent gets its time, however long the trouble has lasted: it ends it.
        let age = self.age();
        let late = age.is_none_or(|age| age >= PATIENCE);
        let closing_since = closing.then(|| *self.closing.get_or_insert_with(Instant::now));
        // What is sent while the server hurries gets the same time.
        let is_old = age.is_none_or(|age| age >= CLOSE_PATIENCE);
        let is_stuck = is_old && closing_since.is_some_and(|since| since.elapsed() >= CLOSE_PATIENCE);
        if is_stuck || troubled && (closing || late || !self.topic.nats.link.state().up) {
            self.fail_all(&unavailable("it does not answer"), Stored::Unknown);
        }
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
                if first > seen.sequence
                    && let Some(end) = last_end::before(&topic, first).await
                {
                    last_end::write(&topic.nats, &topic.name, topic.epoch, end).await;
                }
                topic.nats.purge(&topic.stream, first).await?;
                topic.trim(start_of(first));
            }
            Ok(())
        }));
    }

    /// Writes down where the newest message ends once it has been so for a while.
    fn write_end(&mut self) {
        let quiet = self.topic.nats.idle_times.quiet;
        if let Some((end, _)) = self.unwritten_end.take_if(|(_, since)| since.elapsed() >= quiet) {
            let topic = self.topic.clone();
            let writing = async move { last_end::write_of_expiring(&topic, end).await };
            self.topic.nats.tasks.spawn(writing);
        }
    }

    /// Whether there is nothing left to do; from then on nobody follows.
    fn may_stop(&self) -> bool {
        if self.flight.is_some() || self.handed.is_some() || !self.held.all().is_empty() {
            return false;
        }
        let nats = &self.topic.nats;
        let over = self.topic.is_deleted()
            || nats.closing.is_cancelled()
            || self.topic.is_idle(nats.idle_times.topic);
        let mut queue = self.topic.queue();
        let stops = over && queue.appends.is_empty();
        queue.followed &= !stops;
        stops
    }
}

const _: () = assert!(RECORDS_MAX == 1024, "docs/engines.md says so");
