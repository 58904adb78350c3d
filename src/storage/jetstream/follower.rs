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
//! A follower waits in [`Follower::step`] only.

mod appending;
mod handed_over;
mod handing;
mod reading;
mod upkeep;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Info;
use futures_util::future;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
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
use super::last_end;
use super::marks::Marks;
use super::names::{Meta, RECORDS_MAX};
use super::nats::unavailable;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::{Error, Stored};

/// Maximum wait of publishers for a NATS that does not answer: longer than the election of a leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum wait for NATS while the log closes: less than the part of the drain that is reserved for closing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Interval at which deadlines are checked.
const TICK: Duration = Duration::from_millis(250);
/// The longest pause between two attempts to read on.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Maximum time for the last messages of a follower that stops.
const LAST_LETTERS: Duration = Duration::from_millis(100);

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
    let mut follower = Follower {
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
        unwritten_end: None,
        cached: Cached::new(topic.clone()),
        trouble: None,
        closing: None,
        // Followers that start together do not ask at the same moments.
        refresh_at: Instant::now() + topic.nats.idle_times.refresh.mul_f64(fastrand::f64()),
        topic,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !follower.may_stop() {
        follower.begin();
        follower.step(&mut ticks).await;
    }
    // Other replicas may still wait for these.
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
    reading: Reading,
    /// Pause before the next request to NATS, which grows while it does not do what it is asked.
    pause: Duration,
    ids: Ids,
    flight: Option<Flight>,
    bus: Bus,
    contest: Contest,
    marks: Marks,
    /// Commit that another replica is to store. There is no flight meanwhile.
    handed: Option<HandedOver>,
    /// Commits that were handed over or sent before and may still be stored. They are made of the same appends.
    open: Vec<Commit>,
    /// Commits that other replicas handed over.
    held: Held,
    /// Set if those go first into the next commit. It alternates.
    held_first: bool,
    /// The stream's state, while NATS is asked for it.
    fetching: Pending<Result<Option<Info>, Error>>,
    end_check: EndCheck,
    trimming: Trimming,
    /// End of the newest message, if this follower stored it, and when. It is written down if the message may expire.
    unwritten_end: Option<(Offset, Instant)>,
    cached: Cached,
    /// Since when NATS has not done what it was asked.
    trouble: Option<Instant>,
    /// Since when the log closes, or is about to.
    closing: Option<Instant>,
    refresh_at: Instant,
}

/// State of reading the stream.
#[expect(clippy::large_enum_variant, reason = "one a follower; most are the large one")]
enum Reading {
    /// It is not; [`Follower::begin`] attaches.
    Stopped,
    Attaching(Pin<Box<dyn Future<Output = Result<Attached, Lost>> + Send>>),
    Attached(Feed),
}

impl Reading {
    /// The next event; pending for ever while it is stopped. Cancel-safe.
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

/// State of asking NATS for the end of the stream, which decides about conditions that do not hold at the end seen here.
#[derive(Clone, Copy)]
enum EndCheck {
    Unasked,
    /// So many appends waited when NATS was asked.
    Asked {
        appends: usize,
    },
    /// Conditions of so many appends fail for good if they do not hold after this message.
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

/// Polls what is under way; pending for ever if nothing is.
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
    /// Waits for one event and handles it. Every branch is cancel-safe, because work in progress stays in its field.
    async fn step(&mut self, ticks: &mut tokio::time::Interval) {
        // NATS is waited for, and the server is not shutting down yet.
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
                // First, so that the next commit takes in what was handed over while the last was stored.
                received = self.bus.next() => Event::Received(received),
                outcome = answer => Event::Answer(outcome),
                event = self.reading.next() => event,
                loaded = self.ids.loaded() => Event::Loaded(loaded),
                fetched = done(&mut self.fetching) => Event::Fetched(fetched),
                trimmed = done(&mut self.trimming.running) => Event::Trimmed(trimmed),
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
            Event::Fetched(fetched) => self.fetched(fetched),
            Event::Trimmed(Ok(())) => {}
            Event::Trimmed(Err(error)) => {
                debug!(topic = %self.topic.state.name, %error, "retention by count is tried again later");
                self.trimming.is_due = true;
            }
            Event::Tick => self.tick(),
            Event::Work if self.contest.is_handing() => {
                // Callers that were answered together publish again together: in one letter, not in many.
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

    /// Takes in the stream's state.
    fn fetched(&mut self, fetched: Result<Option<Info>, Error>) {
        let Ok(found) = fetched else { return self.back_off() };
        match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
            Some((meta, info)) if meta.epoch == self.topic.state.epoch => {
                self.topic.refresh(meta, info);
                if let EndCheck::Asked { appends } = self.end_check {
                    self.end_check = EndCheck::Known { appends, sequence: info.state.last_sequence };
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

    /// Returns true if nothing is left to do; the topic counts as not followed from then on.
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
