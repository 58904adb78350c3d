//! Request ids that are stored in a topic (P5). The follower notes the ids of the messages that it reads. Before it
//! appends anything, it also reads the ids that were stored earlier within the window.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::ages::Ages;
use super::id_budget::CountedWindow;
use super::message::{Head, IdEntry, sequence_of, start_of};
use super::names::RECORDS_MAX;
use super::nats::{micros, unavailable};
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::contract::FirstIds;
use crate::storage::window::{Stored, Window};
use crate::storage::{Error, StoredId};

/// Request ids that a topic's follower knows.
pub struct Ids {
    topic: Arc<Topic>,
    state: State,
    /// Clock readings for the ages of messages.
    ages: Ages,
}

/// Completeness of the window.
enum State {
    /// Ids may be missing.
    Unknown(CountedWindow),
    Loading {
        loading: Loading,
        /// Ids that are stored while the earlier ones are being read.
        later: CountedWindow,
        /// Set if a message was missed in the meantime, so that the ids must be read again.
        again: bool,
    },
    Known(CountedWindow),
}

/// Pending read of the missing ids. It returns the window with all ids that were read.
type Loading = Pin<Box<dyn Future<Output = (CountedWindow, Result<(), Error>)> + Send>>;

fn empty(topic: &Topic) -> CountedWindow {
    let storage = &topic.nats.storage;
    let window = Window::new(storage.request_id_window, storage.request_ids_max, topic.nats.clock.steady());
    CountedWindow::new(window, topic.nats.ids.clone())
}

impl Ids {
    /// Creates an empty set of ids for a topic.
    #[must_use]
    pub fn new(topic: Arc<Topic>) -> Self {
        Self { state: State::Unknown(empty(&topic)), topic, ages: Ages::default() }
    }

    /// Returns the window if it holds every id stored up to the message `last`. Otherwise returns none and starts to
    /// read the missing ids after a pause.
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

    /// Waits for the ids that are being read; stays pending if none are. Cancel-safe.
    ///
    /// # Errors
    /// NATS did not deliver all ids.
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

    /// Sets the clock readings for messages that are read from now on.
    pub const fn read_from(&mut self, ages: Ages) {
        self.ages = ages;
    }

    /// Adds the ids of a message. `published` is the time at which NATS stored it; none if this replica has just stored
    /// it.
    pub fn note(&mut self, head: &Head, first: Offset, published: Option<UnixMicros>) {
        let now = self.topic.nats.clock.steady();
        let at = published.map_or(now, |published| self.ages.at(first, published, now));
        let insert = |window: &mut Window| insert(window, head, first, (at, now));
        match &mut self.state {
            State::Unknown(window) | State::Known(window) => window.change(insert),
            State::Loading { later, .. } => later.change_newest(insert),
        }
    }

    /// Drops ids that exceed the budget because other topics hold more than before.
    pub fn keep_to_budget(&mut self) {
        match &mut self.state {
            State::Unknown(window) | State::Known(window) => window.keep_to_budget(),
            State::Loading { later, .. } => later.keep_share(),
        }
    }

    /// Marks the ids as incomplete because a message was not read. They are read again.
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

    /// Forgets all ids, because messages were trimmed before their ids were read.
    pub fn forget(&mut self) {
        self.state = State::Unknown(empty(&self.topic));
    }
}

/// Adds the ids of a message to a window. The message begins at `first` and was stored at `at`.
fn insert(window: &mut Window, head: &Head, first: Offset, (at, now): (UnixMicros, UnixMicros)) {
    for IdEntry { index, count, digest, mark } in &head.ids {
        let (key, owner) = window.marked(0, digest, *mark);
        let first = first.plus(u64::from(*index));
        // Unused offsets follow the last batch of a message.
        let span = if index.saturating_add(*count) == head.records { RECORDS_MAX - index } else { *count };
        let content = mark.map_or(0, |mark| mark.content);
        window.insert(key, Stored { first, span, content, owner, time: head.time, at }, now);
    }
}

/// Reads the request ids of the window, up to the message `last`, into `window`. The window stays within its limit.
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
    // The ages of all these messages come from NATS's clock.
    let ages = topic.nats.ages(&topic.stream, Offset::MAX).await?;
    scan(topic, &ages, (0, last), |sequence, head, published| {
        let (first, now) = (start_of(sequence), topic.nats.clock.steady());
        let stored = ages.at(first, published, now);
        window.change(|window| insert(window, head, first, (stored, now)));
        ControlFlow::Continue(())
    })
    .await
}

/// Lists the request ids of the window that were stored with batches from `from` on, up to `limit`.
///
/// # Errors
/// NATS does not answer, or does not deliver all messages.
pub async fn first(topic: &Topic, from: Offset, limit: usize) -> Result<Vec<StoredId>, Error> {
    let info = topic.nats.info(&topic.stream).await?.ok_or(Error::TopicNotFound)?;
    let ages = topic.nats.ages(&topic.stream, Offset::MAX).await?;
    let mut found = FirstIds::new(from, limit);
    let last = topic.base + info.state.last_sequence;
    scan(topic, &ages, (sequence_of(from), last), |sequence, head, _| {
        if !found.wants(start_of(sequence)) {
            return ControlFlow::Break(());
        }
        // Those of earlier versions say neither whose they are nor what was stored.
        for (id, mark) in head.ids.iter().filter_map(|id| Some((id, id.mark?))) {
            found.add(start_of(sequence).plus(u64::from(id.index)), &id.digest, mark.scope);
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(found.finish())
}

/// Reads the headers of the window's messages from `first` to `last`, until `take` breaks off.
async fn scan(
    topic: &Topic,
    ages: &Ages,
    (first, last): (u64, u64),
    mut take: impl FnMut(u64, &Head, UnixMicros) -> ControlFlow<()>,
) -> Result<(), Error> {
    /// Number of messages whose headers are requested at a time, which is a few MiB at most.
    const AT_ONCE: usize = 200;
    if first > last {
        return Ok(());
    }
    let (nats, slack) = (&topic.nats, topic.nats.idle_times.ids_slack);
    let since = ages.before(nats.storage.request_id_window.saturating_add(slack));
    let nanos = i128::from(since.0) * 1000;
    let start_time = async_nats::datetime::from_nanos(nanos).map_err(unavailable)?;
    let begin = DeliverPolicy::ByStartTime { start_time };
    let mut consumer = nats.consumer(&topic.stream, begin, true).await?;
    // If no message is so new, the consumer begins after the newest message of its server.
    let mut at = topic.base + consumer.cached_info().delivered.stream_sequence;
    if at + 1 < first {
        let begin = DeliverPolicy::ByStartSequence { start_sequence: first - topic.base };
        consumer = nats.consumer(&topic.stream, begin, true).await?;
        at = topic.base + consumer.cached_info().delivered.stream_sequence;
    }
    while at < last {
        let mut messages = consumer.fetch().max_messages(AT_ONCE).messages().await.map_err(unavailable)?;
        let before = at;
        while let Some(message) =
            timeout(topic.nats.idle_times.answer, messages.next()).await.map_err(unavailable)?
        {
            let message = message.map_err(unavailable)?;
            let info = message.info().map_err(unavailable)?;
            let sequence = topic.base + info.stream_sequence;
            at = at.max(sequence);
            if sequence > last {
                return Ok(());
            }
            let Some(head) = message.headers.as_ref().and_then(Head::parse) else { continue };
            if take(sequence, &head, micros(info.published)).is_break() {
                return Ok(());
            }
        }
        // A restarted server has fewer messages than the others for a while.
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
    /// Maximum delay of a message to a replica that reads it live.
    const LATE: u64 = 4_000_000;

    /// Message of the stream: the time at which NATS stored it, and its headers.
    struct Stored {
        at: u64,
        head: Head,
    }

    fn digest(n: u64) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    /// Builds up to an hour of a topic that replicas with arbitrary clocks publish to.
    fn topic(random: &mut fastrand::Rng) -> Vec<Stored> {
        let skews: Vec<i64> = (0..3).map(|_| random.i64(-86_400_000_000..86_400_000_000)).collect();
        let (mut at, mut time, mut stored) = (1 << 50, 0, Vec::new());
        for n in 0..random.u64(1..400) {
            at += random.u64(0..20_000_000);
            // Publish times never decrease, so the replica whose clock is ahead sets them for all.
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

    /// Simulates a replica that starts to read at message `begun` and reads to the end. The older ids are read while
    /// newer ones are noted. Its steady clock starts at an arbitrary time. Returns its window and its clock's lead.
    fn known(stored: &[Stored], begun: usize, random: &mut fastrand::Rng) -> (Window, u64) {
        let ahead = random.u64(..1 << 50);
        let now = |at: u64| UnixMicros(at + ahead);
        let began_at = stored[begun].at;
        let ages = |live_from| Ages { live_from, nats: UnixMicros(began_at), steady: now(began_at) };
        let mut older = Window::new(Duration::from_micros(AGE), usize::MAX, now(began_at));
        let mut later = older.empty();
        // The messages that it reads when it attaches, and those that it reads live, are noted before the older ones
        // are read.
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

    /// P5: a replica knows every id for the window and not longer, whatever the clocks of replicas say and whenever it
    /// started to read.
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

    /// P5: ids that are stored while older ones are read get their share of the budget, even if other topics use all of it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ids_that_are_stored_while_older_ones_are_read_get_their_share() {
        use super::super::server::Nats;
        use super::super::tests::{config, open};
        use super::{CountedWindow, Ids, State};
        use crate::storage::conformance::name;
        use crate::storage::{Log, Retention};

        let nats = Nats::single("");
        let mut config = config(&nats);
        config.storage.request_ids_max = 80;
        let log = open(&config).await;
        log.create(name("t"), Retention::default()).await.unwrap();
        let mut ids = Ids::new(log.topics()[&name("t")].clone());
        let head = |n: u64| {
            let mark = Some(Mark { scope: Scope::NONE, content: 1 });
            let ids = vec![IdEntry { index: 0, count: 1, digest: digest(n), mark }];
            Head { records: 1, ids, ..Head::default() }
        };
        let new = Window::new(Duration::from_micros(AGE), usize::MAX, UnixMicros(0));
        let mut other = CountedWindow::new(new, log.nats.ids.clone());
        for n in 0..80 {
            other.change(|window| insert(window, &head(n), start_of(n + 1), (UnixMicros(n), UnixMicros(n))));
        }
        // The older ids are never read, because nothing polls for them.
        assert!(ids.known(0, Duration::from_secs(600)).is_none());
        for n in 0..60 {
            ids.note(&head(n), start_of(n + 1), None);
        }
        ids.keep_to_budget();
        let State::Loading { later, .. } = &ids.state else { panic!("they are not being read") };
        assert_eq!((later.count(), other.count()), (40, 80), "half of what all may hold");
    }
}
