//! The request ids that are stored in a topic (P5): those the follower sees stored, and, read before it
//! appends anything, those stored in the window before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::ages::Ages;
use super::id_budget::CountedWindow;
use super::message::{Head, IdEntry, start_of};
use super::nats::{micros, unavailable};
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::Error;
use crate::storage::window::{Stored, Window};

/// Request ids that a topic's follower knows.
pub struct Ids {
    topic: Arc<Topic>,
    state: State,
    /// Ages of messages.
    ages: Ages,
}

/// Completeness of the window.
enum State {
    /// Some may be missing.
    Unknown(CountedWindow),
    Loading {
        loading: Loading,
        /// Ids that are stored meanwhile.
        later: CountedWindow,
        /// Set if a message was missed meanwhile.
        again: bool,
    },
    Known(CountedWindow),
}

/// The window, with all that was read of what is missing.
type Loading = Pin<Box<dyn Future<Output = (CountedWindow, Result<(), Error>)> + Send>>;

fn empty(topic: &Topic) -> CountedWindow {
    let storage = &topic.nats.storage;
    let window = Window::new(storage.request_id_window, storage.request_ids_max, topic.nats.clock.steady());
    CountedWindow::new(window, topic.nats.ids.clone())
}

impl Ids {
    /// Nothing yet.
    #[must_use]
    pub fn new(topic: Arc<Topic>) -> Self {
        Self { state: State::Unknown(empty(&topic)), topic, ages: Ages::default() }
    }

    /// Every id stored up to the message `last`. None where they must be read first: that is begun, after
    /// a pause.
    pub fn known(&mut self, last: u64, pause: Duration) -> Option<&Window> {
        if let State::Unknown(window) = &mut self.state {
            let later = window.empty();
            let empty = window.empty();
            let window = std::mem::replace(window, empty);
            let loading = Box::pin(load(self.topic.clone(), window, last, pause));
            self.state = State::Loading { loading, later, again: false };
        }
        match &self.state {
            State::Known(window) => Some(window),
            State::Unknown(_) | State::Loading { .. } => None,
        }
    }

    /// Reads what is being read; for ever pending where nothing is. Cancel-safe.
    ///
    /// # Errors
    /// NATS did not give all of them.
    pub async fn loaded(&mut self) -> Result<(), Error> {
        let State::Loading { loading, later, again } = &mut self.state else {
            return std::future::pending().await;
        };
        let (mut window, loaded) = loading.as_mut().await;
        let later = std::mem::replace(later, window.empty());
        window.absorb(later, self.topic.nats.clock.steady());
        let is_whole = loaded.is_ok() && !*again;
        self.state = if is_whole { State::Known(window) } else { State::Unknown(window) };
        loaded
    }

    /// Sets how old messages are that are read from now on.
    pub const fn read_from(&mut self, ages: Ages) {
        self.ages = ages;
    }

    /// Takes in those stored with a message: one that NATS says was `published` then, or that this replica
    /// stored just now.
    pub fn note(&mut self, head: &Head, first: Offset, published: Option<UnixMicros>) {
        let now = self.topic.nats.clock.steady();
        let at = published.map_or(now, |published| self.ages.at(first, published, now));
        let window = match &mut self.state {
            State::Unknown(window) | State::Known(window) => window,
            State::Loading { later, .. } => later,
        };
        window.change(|window| insert(window, head, first, (at, now)));
    }

    /// Drops ids that exceed the budget because other topics hold more than before.
    pub fn keep_to_budget(&mut self) {
        match &mut self.state {
            State::Unknown(window) | State::Known(window) => window.keep_to_budget(),
            State::Loading { later, .. } => later.keep_to_budget(),
        }
    }

    /// A message was not read: they are read again.
    pub fn reload(&mut self) {
        match &mut self.state {
            State::Unknown(_) => {}
            State::Loading { again, .. } => *again = true,
            State::Known(window) => {
                let empty = window.empty();
                let window = std::mem::replace(window, empty);
                self.state = State::Unknown(window);
            }
        }
    }

    /// Messages were trimmed before they were read, and their ids with them.
    pub fn forget(&mut self) {
        self.state = State::Unknown(empty(&self.topic));
    }
}

/// Puts the ids of the message that begins at `first`, stored at `at`, into a window.
fn insert(window: &mut Window, head: &Head, first: Offset, (at, now): (UnixMicros, UnixMicros)) {
    for IdEntry { index, count, digest, mark } in &head.ids {
        let (key, owner) = window.marked(0, digest, *mark);
        let (first, count) = (first.plus(u64::from(*index)), *count);
        let content = mark.map_or(0, |mark| mark.content);
        window.insert(key, Stored { first, count, content, owner, time: head.time, at }, now);
    }
}

/// Reads the request ids of the window, up to the message `last`, into `window`, which takes no more than
/// its limit however many there are.
async fn load(
    topic: Arc<Topic>,
    mut window: CountedWindow,
    last: u64,
    pause: Duration,
) -> (CountedWindow, Result<(), Error>) {
    tokio::time::sleep(pause).await;
    topic.nats.link.up().await;
    let loaded = read(&topic, &mut window, last).await;
    (window, loaded)
}

async fn read(topic: &Topic, window: &mut CountedWindow, last: u64) -> Result<(), Error> {
    /// Headers asked for at once: no more than a few MiB.
    const AT_ONCE: usize = 200;
    /// A little more than the window: the clocks of NATS's servers differ.
    const SLACK: Duration = Duration::from_secs(60);
    // How old they are, NATS's clock says of all of them.
    let ages = topic.nats.ages(&topic.stream, Offset::MAX).await?;
    let since = ages.before(topic.nats.storage.request_id_window.saturating_add(SLACK));
    let nanos = i128::from(since.0) * 1000;
    let start_time = async_nats::datetime::from_nanos(nanos).map_err(unavailable)?;
    let consumer =
        topic.nats.consumer(&topic.stream, DeliverPolicy::ByStartTime { start_time }, true).await?;
    // Where there is nothing so new, it begins behind what its server has.
    let mut at = consumer.cached_info().delivered.stream_sequence;
    while at < last {
        let mut messages = consumer.fetch().max_messages(AT_ONCE).messages().await.map_err(unavailable)?;
        let before = at;
        while let Some(message) =
            timeout(topic.nats.idle_times.answer, messages.next()).await.map_err(unavailable)?
        {
            let message = message.map_err(unavailable)?;
            let info = message.info().map_err(unavailable)?;
            at = at.max(info.stream_sequence);
            if info.stream_sequence > last {
                return Ok(());
            }
            let Some(head) = message.headers.as_ref().and_then(Head::parse) else { continue };
            let (first, now) = (start_of(info.stream_sequence), topic.nats.clock.steady());
            let stored = ages.at(first, micros(info.published), now);
            window.change(|window| insert(window, &head, first, (stored, now)));
        }
        // A server that was restarted has less than the others for a while.
        if at == before {
            return Err(unavailable("the server asked for request ids has not all of them"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Ages, Head, IdEntry, UnixMicros, Window, insert, start_of};
    use crate::record::{Offset, Scope};
    use crate::storage::window::Mark;
    use std::time::Duration;

    const AGE: u64 = 600_000_000;
    const SLACK: u64 = 60_000_000;
    /// Longest delay of a message to a replica that reads it live.
    const LATE: u64 = 4_000_000;

    /// A message of the stream: when NATS stored it, and what the replica that published it says.
    struct Stored {
        at: u64,
        head: Head,
    }

    fn digest(n: u64) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    /// An hour of a topic, published by replicas whose clocks are anything.
    fn topic(random: &mut fastrand::Rng) -> Vec<Stored> {
        let skews: Vec<i64> = (0..3).map(|_| random.i64(-86_400_000_000..86_400_000_000)).collect();
        let (mut at, mut time, mut stored) = (1 << 50, 0, Vec::new());
        for n in 0..random.u64(1..400) {
            at += random.u64(0..20_000_000);
            // Publish times never decrease: the replica that is ahead sets them for all.
            time = time.max(u64::saturating_add_signed(at, skews[random.usize(..3)]));
            let mark = Some(Mark { scope: Scope::NONE, content: 1 });
            let ids = vec![IdEntry { index: 0, count: 1, digest: digest(n), mark }];
            let head = Head {
                nonce: 0,
                time: UnixMicros(time),
                before: n,
                records: 1,
                crc: 0,
                ids,
                ..Head::default()
            };
            stored.push(Stored { at, head });
        }
        stored
    }

    /// A replica that begins to read at `begun` and reads to the end: the older ones as they come, while
    /// newer ones are noted. Its steady clock is anything at the start.
    fn known(stored: &[Stored], begun: usize, random: &mut fastrand::Rng) -> (Window, u64) {
        let ahead = random.u64(..1 << 50);
        let now = |at: u64| UnixMicros(at + ahead);
        let began_at = stored[begun].at;
        let ages = |live_from| Ages { live_from, nats: UnixMicros(began_at), steady: now(began_at) };
        let mut older = Window::new(Duration::from_micros(AGE), usize::MAX, now(began_at));
        let mut later = older.empty();
        // What it had not read when it attached, and what it reads live, comes before the older are read.
        let attached = random.usize(begun / 2..=begun);
        for (n, message) in stored.iter().enumerate().skip(attached) {
            let first = start_of(n as u64 + 1);
            let arrived = now(message.at.max(began_at) + random.u64(..LATE));
            let live = ages(start_of(begun as u64 + 2));
            let at = live.at(first, UnixMicros(message.at), arrived);
            insert(&mut later, &message.head, first, (at, arrived));
        }
        let since = ages(Offset::MAX).before(Duration::from_micros(AGE + SLACK));
        for (n, message) in stored.iter().enumerate().take(attached) {
            if message.at >= since.0 {
                let (first, published) = (start_of(n as u64 + 1), UnixMicros(message.at));
                let at = ages(Offset::MAX).at(first, published, now(began_at));
                insert(&mut older, &message.head, first, (at, now(began_at)));
            }
        }
        older.absorb(later, now(began_at));
        (older, ahead)
    }

    /// P5: whatever the clocks of replicas say, and whenever a replica began to read, it knows every id for
    /// the window, and none for longer.
    #[test]
    fn every_id_is_known_for_the_window_whatever_the_clocks_say() {
        let base = std::env::var("TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
        let base: u64 = base.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
        println!("TESTS_SEED={base}");
        for seed in base..base + 100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let stored = topic(&mut random);
            let begun = random.usize(..stored.len());
            let (window, ahead) = known(&stored, begun, &mut random);
            let end = stored.last().map_or(0, |last| last.at) + LATE;
            for at in [end, end + AGE / 2, end + AGE] {
                let find = |n: usize| {
                    window.find(0, Scope::NONE, &digest(n as u64), UnixMicros(at + ahead)).1.is_some()
                };
                for (n, message) in stored.iter().enumerate() {
                    let age = at - message.at;
                    assert!(age > AGE || find(n), "seed {seed}: {n} is forgotten after {age} µs");
                    assert!(age <= AGE + LATE || !find(n), "seed {seed}: {n} is known after {age} µs");
                }
            }
        }
    }
}
