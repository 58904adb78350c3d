//! Health of JetStream: a majority of its servers is there, which the leader of the stream of create locks is asked
//! again and again, and its store accepts more. It recovers by itself.
//! Never: fails for good; NATS may return.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::create_lock;
use super::nats::Nats;
use crate::storage::Health;

/// How long NATS may be out of reach, or its leader without a majority, before readiness turns off.
const GRACE: Duration = Duration::from_secs(5);
/// The same where nobody answers: the servers that are left choose a new leader, which takes them 4 to 9 s
/// and is no reason to move clients.
const ELECTION: Duration = Duration::from_secs(10);
/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What to do about a full store.
const FULL: &str = "the store of NATS is full: trim or delete topics, or shorten retention";

/// What was answered to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The leader has heard of a majority, itself included, so long ago or later.
    Led(Duration),
    /// There is no leader, or no such stream.
    Refused(String),
    /// Nothing.
    Silence(String),
}

/// What is known.
#[derive(Debug)]
struct Judge {
    /// When a majority was last known to be there.
    good: Instant,
    /// What was answered last.
    last: Answer,
}

impl Judge {
    fn new(now: Instant) -> Self {
        Self { good: now, last: Answer::Led(Duration::ZERO) }
    }

    /// Takes in what was answered to a question asked then.
    fn take(&mut self, asked: Instant, answer: Answer) {
        if let Answer::Led(ago) = &answer {
            self.good = self.good.max(asked.checked_sub(*ago).unwrap_or(self.good));
        }
        self.last = answer;
    }

    /// When readiness turns off, if nothing better is heard.
    fn deadline(&self, connected: bool) -> Instant {
        let is_silent = connected && matches!(self.last, Answer::Silence(_));
        self.good + if is_silent { ELECTION } else { GRACE }
    }

    /// Why JetStream cannot be used; none where it can, or may still.
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

/// How long ago the leader of a stream has heard of a majority; none where there is no leader.
fn majority(cluster: Option<&ClusterInfo>) -> Option<Duration> {
    // A server by itself.
    let Some(cluster) = cluster else { return Some(Duration::ZERO) };
    let leader = cluster.leader.as_deref().filter(|leader| !leader.is_empty())?;
    let others = cluster.replicas.iter().filter(|replica| replica.name != leader);
    let mut heard: Vec<_> = others.map(|replica| replica.active).collect();
    heard.sort_unstable();
    // With the leader that makes more than half.
    let needed = heard.len().div_ceil(2);
    Some(needed.checked_sub(1).map_or(Duration::ZERO, |last| heard[last]))
}

async fn ask(nats: &Nats, deadline: Instant) -> Answer {
    match timeout_at(deadline, nats.ask(create_lock::STREAM)).await {
        Ok(Ok(Some(info))) => match majority(info.cluster.as_ref()) {
            Some(ago) => Answer::Led(ago),
            None => Answer::Refused("NATS has no leader".to_owned()),
        },
        // It was deleted, or is lost.
        Ok(Ok(None)) => match timeout_at(deadline, create_lock::open(nats)).await {
            Ok(Ok(())) => Answer::Led(Duration::ZERO),
            Ok(Err(why)) => Answer::Refused(format!("NATS cannot keep a topic: {why}")),
            Err(_) => Answer::Silence("JetStream does not answer".to_owned()),
        },
        Ok(Err(error)) => Answer::Refused(error.to_string()),
        Err(_) => Answer::Silence("JetStream does not answer".to_owned()),
    }
}

/// Asks until the log closes.
pub async fn watch(nats: Arc<Nats>, health: Arc<channel::Sender<Health>>) {
    let watching = async {
        let mut judge = Judge::new(Instant::now());
        loop {
            let asked = Instant::now();
            // What is asked of a connection that is lost is never answered.
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

/// A store that was full is tried again: whether there is room is known to those who write.
async fn look_for_room(nats: &Nats) {
    if nats.is_full() {
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, create_lock::probe(nats)).await;
    }
}

/// Says what has changed.
fn report(health: &channel::Sender<Health>, fault: Option<String>, nats: &Nats) {
    let now = match fault {
        Some(fault) => Health::Unavailable(fault.into()),
        None if nats.is_full() => Health::Full(FULL.into()),
        None => Health::Serving,
    };
    let changed = health.send_if_modified(|health| {
        // The first reason stays: the log has told it.
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

    /// Asks once a second of a NATS that fails after 100 s; answers after how long readiness is off.
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

    /// What operations.md promises: 5 s, and 10 s while a leader is chosen.
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
