//! One commit that is being sent to NATS. It is resent until its outcome is known. The follower decides when to give
//! up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;

use super::commit::Commit;
use super::link::{Link, State};
use super::nats::{Nats, unavailable};
use super::topic::Topic;
use crate::backoff::spread;
use crate::storage::{Error, Stored};
use crate::telemetry::trace::Steps;

/// Time that one attempt waits for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Minimum time before a second copy of an attempt is sent. The time is longer for slow commits: four times their
/// average duration. Copies are needed because a server that is about to stop, or a leader that is replaced, loses the
/// messages it has just received.
const COPY_AFTER: Duration = Duration::from_millis(250);
/// Time added per KiB of payload, so that copies do not slow down a slow connection.
const COPY_AFTER_KIB: Duration = Duration::from_millis(4);
/// Maximum number of copies of an attempt. The time between them doubles.
const COPIES_MAX: usize = 4;
/// Time within which the message that took the place of a commit must be read: on the first attempt, and at most.
const FORGOTTEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// Answer of NATS to a commit.
#[derive(Debug)]
pub enum Outcome {
    /// The commit is stored with this sequence.
    Stored(u64),
    /// The commit is not stored, because the stream already ends with this sequence.
    Taken(u64),
    /// The commit is not stored, because another message of the same subject is being stored at this moment.
    Racing,
    /// The commit is not stored, for this reason.
    Refused(Error),
    /// The commit may be stored. The text is the reason for the doubt.
    Unknown(String),
    /// The commit is not stored, because nobody receives messages of this subject.
    Nobody,
}

impl Outcome {
    /// Adds a topic's base to the sequences of an answer.
    #[must_use]
    pub fn after(self, base: u64) -> Self {
        match self {
            Self::Stored(sequence) => Self::Stored(base + sequence),
            Self::Taken(sequence) => Self::Taken(base + sequence),
            other => other,
        }
    }
}

/// One commit that is being sent to NATS.
pub struct Flight {
    /// The commit.
    pub commit: Commit,
    topic: Arc<Topic>,
    attempts: u32,
    started: Instant,
    /// Average duration of a commit.
    takes: Duration,
    /// Time at which another message was found in its place.
    taken: Option<Instant>,
    /// Set once an attempt was sent.
    sent: Arc<AtomicBool>,
    /// Set once a copy was sent whose answer is not known.
    doubtful: Arc<AtomicBool>,
    answer: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
}

impl Flight {
    /// Sends a commit. `takes` is the average duration of a commit.
    #[must_use]
    pub fn new(topic: &Arc<Topic>, commit: Commit, takes: Duration) -> Self {
        let mut flight = Self {
            commit,
            topic: topic.clone(),
            attempts: 0,
            started: Instant::now(),
            takes,
            taken: None,
            sent: Arc::default(),
            doubtful: Arc::default(),
            answer: None,
        };
        flight.resend();
        flight
    }

    /// Returns true if the commit may be stored.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// Returns the error to report for a refusal. A refusal says nothing about an earlier attempt with an unknown
    /// outcome.
    #[must_use]
    pub fn refused(&self, error: Error) -> Error {
        if self.doubtful.load(Ordering::Acquire) {
            let reason = format!("NATS: {error}, and an earlier attempt may be stored");
            return Error::Unavailable { reason, stored: Stored::Unknown };
        }
        error
    }

    /// Time since the first attempt.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the duration of the first attempt. None after a second attempt.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        (self.attempts == 1).then(|| self.age())
    }

    /// Records that another message is in its place, which the feed will deliver.
    pub fn awaits_feed(&mut self) {
        self.taken = Some(Instant::now());
    }

    /// Returns true if the feed has not delivered that message for too long.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        let patience = (FORGOTTEN.0 * 2_u32.pow(self.attempts.saturating_sub(1).min(8))).min(FORGOTTEN.1);
        self.answer.is_none() && self.taken.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Returns true while another message is known to be in its place.
    #[must_use]
    pub const fn is_taken(&self) -> bool {
        self.answer.is_none() && self.taken.is_some()
    }

    /// Returns true if every copy was refused. The commit is then not stored if the stream holds a message in its
    /// place.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.is_taken() && !self.doubtful.load(Ordering::Acquire)
    }

    /// Returns the times of its steps, if it is stored now.
    #[must_use]
    pub fn steps(&self) -> Steps {
        Steps { taken: self.started, written: None, durable: Instant::now() }
    }

    /// Sends the same message again. At most one copy can be stored, because each names the sequence that it must
    /// follow.
    pub fn resend(&mut self) {
        let pause = match self.attempts {
            0 => Duration::ZERO,
            n => (Duration::from_millis(25) * 2_u32.pow(n.min(8))).min(PAUSE_MAX),
        };
        self.attempts += 1;
        self.taken = None;
        let (topic, sent, doubtful) = (self.topic.clone(), self.sent.clone(), self.doubtful.clone());
        let (headers, payload) = (self.commit.headers(self.topic.base), self.commit.payload.clone());
        let kib = u32::try_from(payload.len() >> 10).unwrap_or(u32::MAX);
        let wait = COPY_AFTER.max(4 * self.takes) + COPY_AFTER_KIB * kib;
        self.answer = Some(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(spread(pause, 0.5..1.0)).await;
            }
            let connection = topic.nats.link.up().await;
            let first = !sent.swap(true, Ordering::AcqRel);
            let copy = || {
                let request = async_nats::Request::new().headers(headers.clone()).payload(payload.clone());
                Box::pin(send(&topic.nats, &topic.subject, request.timeout(Some(ANSWER_TIMEOUT))))
            };
            let (outcome, copies) = tokio::select! {
                answered = copied(&topic.nats.link, connection, wait, copy) => answered,
                () = topic.nats.link.lost(connection) => {
                    (Outcome::Unknown("the connection was lost".into()), COPIES_MAX)
                }
            };
            // An answer says nothing about the other copies.
            if copies > 1 || matches!(outcome, Outcome::Unknown(_)) {
                doubtful.store(true, Ordering::Release);
            } else if first && matches!(outcome, Outcome::Nobody) {
                sent.store(false, Ordering::Release);
            }
            outcome
        }));
    }

    /// Resolves with the outcome of the latest attempt, once. Cancel-safe.
    pub async fn answer(&mut self) -> Outcome {
        match &mut self.answer {
            Some(answer) => {
                let outcome = answer.as_mut().await;
                self.answer = None;
                outcome
            }
            None => std::future::pending().await,
        }
    }
}

/// Sends copies of one message until one is answered. If a server announces its stop, the next copy is sent at once.
/// Returns the outcome and the number of copies.
async fn copied<F: Future<Output = Outcome> + Unpin>(
    link: &Link,
    connection: State,
    mut wait: Duration,
    copy: impl Fn() -> F,
) -> (Outcome, usize) {
    let mut copies = FuturesUnordered::new();
    let mut warned = Box::pin(link.warned(connection));
    let mut is_warned = false;
    loop {
        copies.push(copy());
        let sent = copies.len();
        tokio::select! {
            Some(outcome) = copies.next() => return (outcome, sent),
            () = tokio::time::sleep(wait), if sent < COPIES_MAX => wait *= 2,
            () = &mut warned, if sent < COPIES_MAX && !is_warned => is_warned = true,
        }
    }
}

/// Sends one message, and returns its outcome.
pub async fn send(nats: &Nats, subject: &str, request: async_nats::Request) -> Outcome {
    let outcome = attempt(nats, subject, request).await;
    if matches!(outcome, Outcome::Refused(Error::DiskFull)) {
        nats.found_full();
    }
    outcome
}

async fn attempt(nats: &Nats, subject: &str, request: async_nats::Request) -> Outcome {
    let answer = match nats.client.send_request(subject.to_owned(), request).await {
        Ok(answer) => answer,
        Err(error) => {
            return match error.kind() {
                RequestErrorKind::NoResponders => Outcome::Nobody,
                RequestErrorKind::MaxPayloadExceeded => Outcome::Refused(unavailable(error)),
                _ => Outcome::Unknown(error.to_string()),
            };
        }
    };
    match serde_json::from_slice::<Answer>(&answer.payload) {
        Ok(Answer { error: Some(fault), .. }) => fault.judge(),
        Ok(Answer { seq, .. }) if seq > 0 => Outcome::Stored(seq),
        Ok(_) => Outcome::Unknown("an answer without a sequence".into()),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Answer of JetStream to a message.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Fault {
    fn judge(self) -> Outcome {
        /// The expected sequence is not the last one: "wrong last sequence: 17".
        const WRONG_LAST: u64 = 10071;
        /// The same error without a sequence, since 2.12: another message of the subject is being stored.
        const RACING: u64 = 10164;
        /// The store failed during a write, perhaps only on some of its replicas.
        const STORE_FAILED: u64 = 10077;
        /// JetStream cannot answer now, because it has no leader, no quorum, or is not ready.
        const LATER: u64 = 503;
        /// Resources of the account, the server, the memory or the store are exhausted.
        const FULL: [u64; 4] = [10002, 10023, 10028, 10047];
        let text = format!("{} ({})", self.description, self.err_code);
        match self.err_code {
            WRONG_LAST => {
                let last = self.description.rsplit(' ').next().and_then(|last| last.parse().ok());
                last.map_or(Outcome::Unknown(text), Outcome::Taken)
            }
            RACING => Outcome::Racing,
            code if FULL.contains(&code) => Outcome::Refused(Error::DiskFull),
            STORE_FAILED => Outcome::Unknown(text),
            _ if self.code == LATER => Outcome::Unknown(text),
            _ => Outcome::Refused(unavailable(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, COPIES_MAX, Duration, Link, Outcome, copied};
    use crate::storage::Error;
    use futures_util::future::BoxFuture;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    const MS: Duration = Duration::from_millis(1);

    /// Answers only the copy with this number.
    fn answering(nth: usize) -> impl Fn() -> BoxFuture<'static, Outcome> {
        let count = AtomicUsize::new(0);
        move || {
            let is_it = count.fetch_add(1, Ordering::Relaxed) + 1 == nth;
            Box::pin(async move { if is_it { Outcome::Stored(1) } else { std::future::pending().await } })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_is_sent_again_each_time_later() {
        let link = Link::default();
        for (nth, after) in [(1, 0), (2, 250), (3, 750), (COPIES_MAX, 1750)] {
            let started = Instant::now();
            let (outcome, copies) = copied(&link, link.state(), 250 * MS, answering(nth)).await;
            assert!(matches!(outcome, Outcome::Stored(1)));
            assert_eq!((copies, started.elapsed().as_millis()), (nth, after));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_about_to_stop_is_sent_everything_again_at_once() {
        let link = Link::default();
        let started = Instant::now();
        let warning = async {
            tokio::time::sleep(10 * MS).await;
            link.notice(&async_nats::Event::LameDuckMode);
        };
        let sending = copied(&link, link.state(), 250 * MS, answering(2));
        let ((_, copies), ()) = tokio::join!(sending, warning);
        assert_eq!((copies, started.elapsed().as_millis()), (2, 10));
    }

    fn judge(text: &str) -> Outcome {
        serde_json::from_str::<Answer>(text).unwrap().error.unwrap().judge()
    }

    #[test]
    fn refusals_are_told_from_what_may_be_stored() {
        let taken =
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 17"},"seq":0}"#;
        assert!(matches!(judge(taken), Outcome::Taken(17)));
        let racing = r#"{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}"#;
        assert!(matches!(judge(racing), Outcome::Racing));
        let full = r#"{"error":{"code":503,"err_code":10047,"description":"insufficient storage"}}"#;
        assert!(matches!(judge(full), Outcome::Refused(Error::DiskFull)));
        let later = r#"{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}"#;
        assert!(matches!(judge(later), Outcome::Unknown(_)));
        let other = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"}}"#;
        assert!(matches!(judge(other), Outcome::Refused(Error::Unavailable { .. })));
    }
}
