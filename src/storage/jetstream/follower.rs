//! Task of an active topic. It reads the stream into the tail cache, and appends to the stream.
//!
//! ```text
//! stream ──feed──▶ seen (sequence, request ids) ──▶ cache, tail ──▶ subscribers
//! queue ──build──▶ commit ──publish, must follow `seen`──▶ stored: settled │ taken: read it, rebuild
//! ```
//! One commit is in flight at a time; appends that arrive in the meantime go into the next one. A commit can safely be
//! sent many times: at most one copy can follow `seen`, and a replica that reads the message there recognizes its own
//! commit by the nonce.
//!
//! A follower waits only in [`Follower::step`].

mod appending;
mod handed_over;
mod handing;
mod reading;
#[cfg(test)]
mod tests;
mod upkeep;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Info;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use self::handed_over::HandedOver;
use super::attach::{self, Attached, Feed, Lost};
use super::bus::{Bus, Received};
use super::cached::Cached;
use super::commit::{Commit, Seen};
use super::contest::Contest;
use super::flight::{Flight, Outcome};
use super::handover::{Held, Why};
use super::ids::Ids;
use super::marks::Marks;
use super::names::{Meta, RECORDS_MAX};
use super::nats::unavailable;
use super::topic::Topic;
use crate::storage::{Error, Stored};

/// Maximum wait of publishers for a NATS that does not answer. It is longer than an election of a leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum wait for NATS while the log closes. It is shorter than the part of the drain that is reserved for closing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Interval at which deadlines are checked.
const TICK: Duration = Duration::from_millis(250);
/// Longest pause between two attempts to continue reading.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Work in progress, if any.
type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Retention by count.
#[derive(Default)]
struct Trimming {
    running: Pending<Result<(), Error>>,
    /// Set if records were stored since the last trim.
    is_due: bool,
}

/// Follows a topic until nobody uses it, it is deleted, or the log closes.
pub async fn follow(topic: Arc<Topic>) {
    let mut follower = Follower::new(topic);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !follower.may_stop() {
        follower.begin();
        follower.step(&mut ticks).await;
    }
    // Other replicas may still wait for these messages.
    follower.bus.sent().await;
}

struct Follower {
    topic: Arc<Topic>,
    /// End of the messages that were read. None until the first attachment.
    seen: Option<Seen>,
    reading: Reading,
    /// Pause before the next request to NATS. It grows while requests fail.
    pause: Duration,
    ids: Ids,
    flight: Option<Flight>,
    bus: Bus,
    contest: Contest,
    marks: Marks,
    /// Commit that another replica is to store. There is no flight at the same time.
    handed: Option<HandedOver>,
    /// Commits that were handed over or sent earlier and may still be stored. They hold the same appends.
    open: Vec<Commit>,
    /// Commits that other replicas handed over.
    held: Held,
    /// Set if those commits go first into the next commit. It alternates.
    held_first: bool,
    /// Pending request for the state of the stream.
    fetching: Pending<Result<Option<Info>, Error>>,
    end_check: EndCheck,
    trimming: Trimming,
    cached: Cached,
    /// Time since which requests to NATS fail.
    trouble: Option<Instant>,
    /// Time at which the follower noticed that the log closes, or that the calls in progress are about to be ended.
    closing: Option<Instant>,
    refresh_at: Instant,
}

/// State of reading the stream.
#[expect(clippy::large_enum_variant, reason = "one a follower; most are the large one")]
enum Reading {
    /// The stream is not read. [`Follower::begin`] attaches to it.
    Stopped,
    Attaching(Pin<Box<dyn Future<Output = Result<Attached, Lost>> + Send>>),
    Attached(Feed),
}

impl Reading {
    /// Waits for the next event; stays pending while reading is stopped. Cancel-safe.
    async fn next(&mut self) -> Event {
        match self {
            Self::Stopped => std::future::pending().await,
            Self::Attaching(attaching) => {
                let attached = attaching.as_mut().await;
                *self = Self::Stopped;
                Event::Attached(attached)
            }
            Self::Attached(feed) => Event::Message(feed.next().await),
        }
    }
}

/// State of the request to NATS for the end of the stream. That end decides about conditions that do not hold at the
/// end read here.
#[derive(Clone, Copy)]
enum EndCheck {
    Unasked,
    /// NATS was asked when this number of appends waited.
    Asked {
        appends: usize,
    },
    /// The conditions of this number of appends fail for good if they do not hold after the message `sequence`.
    Known {
        appends: usize,
        sequence: u64,
    },
}

/// Event that a step waited for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; most are the large one")]
enum Event {
    Message(Result<jetstream::Message, String>),
    Attached(Result<Attached, Lost>),
    Answer(Outcome),
    Received(Received),
    Loaded(Result<(), Error>),
    Fetched(Result<Option<Info>, Error>),
    Trimmed(Result<(), Error>),
    Tick,
    Work,
}

/// Waits for the work in progress; stays pending if there is none.
async fn done<T>(pending: &mut Pending<T>) -> T {
    match pending {
        Some(future) => {
            let result = future.as_mut().await;
            *pending = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl Follower {
    /// Creates a follower that has read nothing yet.
    fn new(topic: Arc<Topic>) -> Self {
        Self {
            seen: None,
            reading: Reading::Stopped,
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
            fetching: None,
            end_check: EndCheck::Unasked,
            trimming: Trimming::default(),
            cached: Cached::new(topic.clone()),
            trouble: None,
            closing: None,
            // A random delay keeps followers that start together from asking at the same time.
            refresh_at: Instant::now() + topic.nats.idle_times.refresh.mul_f64(fastrand::f64()),
            topic,
        }
    }

    /// Waits for one event and handles it. Every branch is cancel-safe, because work in progress stays in its field.
    async fn step(&mut self, ticks: &mut tokio::time::Interval) {
        // Requests to NATS fail, and the server is not shutting down yet.
        let is_waiting = self.trouble.is_some() && self.closing.is_none();
        let event = {
            let answer = async {
                match &mut self.flight {
                    Some(flight) => flight.answer().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // This branch is first, so that the next commit includes the commits that were handed over while the
                // last one was stored.
                received = self.bus.next() => Event::Received(received),
                outcome = answer => Event::Answer(outcome),
                event = self.reading.next() => event,
                loaded = self.ids.loaded() => Event::Loaded(loaded),
                fetched = done(&mut self.fetching) => Event::Fetched(fetched),
                trimmed = done(&mut self.trimming.running) => Event::Trimmed(trimmed),
                () = self.topic.work.notified() => Event::Work,
                _ = ticks.tick() => Event::Tick,
                // These branches fire once. After that, the ticks handle the shutdown.
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
            Event::Fetched(fetched) => self.fetched(fetched),
            Event::Trimmed(Ok(())) => {}
            Event::Trimmed(Err(error)) => {
                debug!(topic = %self.topic.state.name, %error, "retention by count is tried again later");
                self.trimming.is_due = true;
            }
            Event::Tick => self.tick(),
            Event::Work if self.contest.is_handing() => {
                // Callers that were answered together publish again together. The yield lets one letter hold all their
                // batches.
                tokio::task::yield_now().await;
            }
            Event::Work => {}
        }
    }

    /// Starts everything that can be started.
    fn begin(&mut self) {
        if self.topic.state.is_deleted() {
            return self.fail_all(&Error::TopicNotFound, Stored::Nothing);
        }
        if matches!(self.reading, Reading::Stopped) {
            let (topic, seen, pause) = (self.topic.clone(), self.seen, self.pause);
            self.reading = Reading::Attaching(Box::pin(attach::attach(topic, seen, pause)));
        }
        if self.topic.nats.closing.is_cancelled() {
            self.give_back(Why::Stopping);
        }
        if self.may_begin() {
            self.begin_flight();
        }
    }

    fn loaded(&mut self, loaded: Result<(), Error>) {
        match loaded {
            Ok(()) => self.trouble = None,
            Err(error) => {
                warn!(topic = %self.topic.state.name, %error, "reading the request ids again");
                self.back_off();
            }
        }
    }

    /// Applies the state of the stream.
    fn fetched(&mut self, fetched: Result<Option<Info>, Error>) {
        let Ok(found) = fetched else { return self.back_off() };
        match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
            Some((meta, info)) if meta.epoch == self.topic.state.epoch => {
                self.topic.refresh(meta, info);
                if let EndCheck::Asked { appends } = self.end_check {
                    self.end_check =
                        EndCheck::Known { appends, sequence: self.topic.base + info.state.last_sequence };
                }
            }
            _ => self.topic.delete(),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.refresh_at && self.topic.nats.link.state().up {
            self.refresh_at = now + self.topic.nats.idle_times.refresh;
            self.fetching.get_or_insert_with(|| attach::fetch_info(&self.topic, Duration::ZERO));
        }
        self.trim();
        self.ids.keep_to_budget();
        self.take_back();
        self.sift_held();
        self.await_taken();
        let nats = &self.topic.nats;
        let closing = nats.closing.is_cancelled() || nats.hurried.is_cancelled();
        let troubled = self.trouble.is_some_and(|since| closing || since.elapsed() >= PATIENCE);
        // While NATS is connected, a commit gets its full time however long the trouble has lasted, because its success
        // ends the trouble.
        let age = self.age();
        let late = age.is_none_or(|age| age >= PATIENCE);
        let closing_since = closing.then(|| *self.closing.get_or_insert_with(Instant::now));
        // A commit that is sent while the server hurries gets the same time.
        let is_old = age.is_none_or(|age| age >= CLOSE_PATIENCE);
        let is_stuck = is_old && closing_since.is_some_and(|since| since.elapsed() >= CLOSE_PATIENCE);
        if is_stuck || troubled && (closing || late || !self.topic.nats.link.state().up) {
            self.fail_all(&unavailable("it does not answer"), Stored::Unknown);
        }
    }

    /// Returns true if nothing is left to do. From then on, the topic counts as not followed.
    fn may_stop(&self) -> bool {
        if self.flight.is_some() || self.handed.is_some() || !self.held.all().is_empty() {
            return false;
        }
        let nats = &self.topic.nats;
        let over = self.topic.state.is_deleted()
            || nats.closing.is_cancelled()
            || self.topic.is_idle(nats.idle_times.topic);
        let mut queue = self.topic.queue();
        let stops = over && queue.appends.is_empty();
        queue.followed &= !stops;
        stops
    }
}

const _: () = assert!(RECORDS_MAX == 1024, "docs/engines.md says so");
