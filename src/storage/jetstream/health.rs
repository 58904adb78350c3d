//! Health of JetStream. It is good if a majority of the servers is there and the store accepts messages. The leader of
//! the stream of create locks is asked for the majority once a second. The health recovers by itself when NATS returns.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::create_lock;
use super::nats::Nats;
use crate::storage::Health;

/// Time that NATS may be out of reach, or its leader without a majority, before readiness turns off.
const GRACE: Duration = Duration::from_secs(5);
/// Same time if nobody answers. The remaining servers then elect a new leader, which takes 4 to 9 s and is no reason to
/// move clients.
const ELECTION: Duration = Duration::from_secs(10);
/// Interval between two requests.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time of one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason that is reported while the store is full, with the remedy.
const FULL: &str = "the store of NATS is full: trim or delete topics, or shorten retention";

/// Result of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The leader answered. It heard from a majority, itself included, within this time.
    Led(Duration),
    /// There is no leader, or no such stream. The text says which.
    Refused(String),
    /// No answer came in time.
    Silence(String),
}

/// State from which the health is derived.
#[derive(Debug)]
struct Judge {
    /// Latest time at which a majority is known to have been there.
    good: Instant,
    /// Result of the latest request.
    last: Answer,
}

impl Judge {
    fn new(now: Instant) -> Self {
        Self { good: now, last: Answer::Led(Duration::ZERO) }
    }

    /// Records the answer to a request that was sent at `asked`.
    fn take(&mut self, asked: Instant, answer: Answer) {
        if let Answer::Led(ago) = &answer {
            self.good = self.good.max(asked.checked_sub(*ago).unwrap_or(self.good));
        }
        self.last = answer;
    }

    /// Returns the time at which readiness turns off unless a better answer comes first.
    fn deadline(&self, connected: bool) -> Instant {
        let is_silent = connected && matches!(self.last, Answer::Silence(_));
        self.good + if is_silent { ELECTION } else { GRACE }
    }

    /// Returns the reason why JetStream cannot be used. None if it can, or if the grace period is not over.
    fn fault(&self, now: Instant, connected: bool) -> Option<String> {
        if now < self.deadline(connected) {
            return None;
        }
        Some(match &self.last {
            _ if !connected => "not connected to NATS".to_owned(),
            Answer::Led(ago) => {
                format!(
                    "the leader of NATS has not heard of a majority of its servers for {} s",
                    ago.as_secs()
                )
            }
            Answer::Refused(why) | Answer::Silence(why) => why.clone(),
        })
    }
}

/// Returns the time since the leader of a stream heard from a majority. None if there is no leader.
fn majority(cluster: Option<&ClusterInfo>) -> Option<Duration> {
    // A single server has no cluster.
    let Some(cluster) = cluster else { return Some(Duration::ZERO) };
    let leader = cluster.leader.as_deref().filter(|leader| !leader.is_empty())?;
    let others = cluster.replicas.iter().filter(|replica| replica.name != leader);
    let mut heard: Vec<_> = others.map(|replica| replica.active).collect();
    heard.sort_unstable();
    // Together with the leader, these are more than half of the servers.
    let needed = heard.len().div_ceil(2);
    Some(needed.checked_sub(1).map_or(Duration::ZERO, |last| heard[last]))
}

async fn ask(nats: &Nats, deadline: Instant) -> Answer {
    match timeout_at(deadline, nats.ask(create_lock::STREAM)).await {
        Ok(Ok(Some(info))) => match majority(info.cluster.as_ref()) {
            Some(ago) => Answer::Led(ago),
            None => Answer::Refused("NATS has no leader".to_owned()),
        },
        // The stream of create locks was deleted or lost, so it is created again.
        Ok(Ok(None)) => match timeout_at(deadline, create_lock::open(nats)).await {
            Ok(Ok(())) => Answer::Led(Duration::ZERO),
            Ok(Err(why)) => Answer::Refused(format!("NATS cannot keep a topic: {why}")),
            Err(_) => Answer::Silence("JetStream does not answer".to_owned()),
        },
        Ok(Err(error)) => Answer::Refused(error.to_string()),
        Err(_) => Answer::Silence("JetStream does not answer".to_owned()),
    }
}

/// Asks NATS regularly until the log closes, and reports the health.
pub async fn watch(nats: Arc<Nats>, health: Arc<channel::Sender<Health>>) {
    let watching = async {
        let mut judge = Judge::new(Instant::now());
        loop {
            let asked = Instant::now();
            // A request on a lost connection is never answered.
            if nats.link.state().up {
                let answer = ask(&nats, asked + ANSWER_TIMEOUT).await;
                judge.take(asked, answer);
                look_for_room(&nats).await;
            }
            let connected = nats.link.state().up;
            report(&health, judge.fault(Instant::now(), connected), &nats);
            let (next, due) = (asked + INTERVAL, judge.deadline(connected));
            sleep_until(if due > Instant::now() { next.min(due) } else { next }).await;
        }
    };
    nats.closing.run_until_cancelled(watching).await;
}

/// Tries a write if the store was full a moment ago, because only a write shows if there is room.
async fn look_for_room(nats: &Nats) {
    if nats.is_full() {
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, create_lock::probe(nats)).await;
    }
}

/// Reports and logs the health if it has changed.
fn report(health: &channel::Sender<Health>, fault: Option<String>, nats: &Nats) {
    let now = match fault {
        Some(fault) => Health::Unavailable(fault.into()),
        None if nats.is_full() => Health::Full(FULL.into()),
        None => Health::Serving,
    };
    let changed = health.send_if_modified(|health| {
        // The first reason stays, because it is the one that was logged.
        let same =
            std::mem::discriminant(health) == std::mem::discriminant(&now) || *health == Health::Closed;
        if !same {
            *health = now.clone();
        }
        !same
    });
    match now {
        _ if !changed => {}
        Health::Unavailable(reason) => {
            warn!(%reason, "JetStream cannot be used; going on as soon as it can");
        }
        Health::Full(reason) => warn!(%reason, "publishes are refused"),
        _ => info!("JetStream can be used again"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_nats::jetstream::stream::{ClusterInfo, PeerInfo};
    use tokio::time::Instant;

    use super::{Answer, ELECTION, GRACE, INTERVAL, Judge, majority};

    const SECOND: Duration = Duration::from_secs(1);

    fn cluster(leader: Option<&str>, heard: &[u64]) -> ClusterInfo {
        let replicas = heard.iter().enumerate().map(|(n, ago)| PeerInfo {
            name: format!("n{n}"),
            current: true,
            active: Duration::from_secs(*ago),
            offline: false,
            lag: None,
        });
        let mut info: ClusterInfo = serde_json::from_str("{\"replicas\": []}").unwrap();
        (info.leader, info.replicas) = (leader.map(Into::into), replicas.collect());
        info
    }

    #[test]
    fn a_majority_is_the_leader_and_half_of_the_others() {
        let ago = |leader, heard: &[u64]| majority(Some(&cluster(leader, heard))).map(|ago| ago.as_secs());
        assert_eq!(majority(None), Some(Duration::ZERO), "a server by itself");
        assert_eq!(ago(Some("l"), &[]), Some(0));
        assert_eq!(ago(Some("l"), &[7]), Some(7), "two of two are needed");
        assert_eq!(ago(Some("l"), &[1, 90]), Some(1), "one of two may be gone");
        assert_eq!(ago(Some("l"), &[8, 9]), Some(8));
        assert_eq!(ago(Some("l"), &[1, 90, 2, 80]), Some(2));
        assert_eq!(ago(Some("l"), &[1, 90, 60, 80]), Some(60));
        assert_eq!(ago(Some("n1"), &[8, 0, 9]), Some(8), "a leader that counts itself");
        assert_eq!(ago(None, &[0, 0, 0]), None);
        assert_eq!(ago(Some(""), &[0, 0, 0]), None);
    }

    /// Simulates one request per second to a NATS that fails after 100 s. Returns the time from the failure until
    /// readiness is off.
    fn off_after(connected: bool, answer: impl Fn(Duration) -> Answer) -> Duration {
        let begun = Instant::now();
        let lost = begun + 100 * SECOND;
        let mut judge = Judge::new(begun);
        let mut now = begun;
        loop {
            assert!(now < lost + 60 * SECOND, "never");
            let is_lost = now > lost;
            let heard = Answer::Led(INTERVAL);
            match (is_lost, connected) {
                (true, false) => {}
                (true, true) => judge.take(now, answer(now - lost)),
                (false, _) => judge.take(now, heard),
            }
            if judge.fault(now, connected || !is_lost).is_some() {
                return now.saturating_duration_since(lost);
            }
            now = (now + INTERVAL).min(judge.deadline(connected || !is_lost).max(now + SECOND / 100));
        }
    }

    /// Checks the times that operations.md promises: 5 s, and 10 s during an election.
    #[test]
    fn readiness_turns_off_when_the_documents_say() {
        let silence = |_| Answer::Silence("no answer".into());
        let alone = Answer::Led;
        let refused = |_| Answer::Refused("no leader".into());
        for after in [off_after(false, silence), off_after(true, alone), off_after(true, refused)] {
            assert!(after <= GRACE && after >= GRACE - 3 * SECOND, "{after:?}");
        }
        let after = off_after(true, silence);
        assert!(after <= ELECTION && after >= ELECTION - 3 * SECOND, "{after:?}");
    }

    #[test]
    fn what_answers_again_is_used_again() {
        let begun = Instant::now();
        let mut judge = Judge::new(begun);
        judge.take(begun + SECOND, Answer::Silence("no answer".into()));
        assert_eq!(judge.fault(begun + 11 * SECOND, true).as_deref(), Some("no answer"));
        assert_eq!(judge.fault(begun + 11 * SECOND, false).as_deref(), Some("not connected to NATS"));
        judge.take(begun + 11 * SECOND, Answer::Led(SECOND));
        assert_eq!(judge.fault(begun + 12 * SECOND, true), None);
    }
}
