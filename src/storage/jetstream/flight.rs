//! One group on its way to NATS, sent until the outcome is known.
//! Never: decides whether to go on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use serde::Deserialize;

use super::group::Group;
use super::nats::{Nats, unavailable};
use super::topic::Topic;
use crate::storage::{Error, Stored};
use crate::telemetry::trace::Steps;

/// How long one attempt waits for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest pause between two attempts.
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// What NATS answered.
#[derive(Debug)]
pub enum Outcome {
    /// It is stored, as this sequence.
    Stored(u64),
    /// Another message, up to this sequence, is where it was to be.
    Taken(u64),
    /// Not stored: another message of the same subject is being stored at this moment.
    Racing,
    /// It is not stored.
    Refused(Error),
    /// It may be stored.
    Unknown(String),
    /// Nobody takes messages of this subject: it is not stored.
    Nobody,
}

/// One group on its way.
pub struct Flight {
    /// What.
    pub group: Group,
    topic: Arc<Topic>,
    attempts: u32,
    begun: Instant,
    /// Whether an attempt was made whose outcome is not known.
    sent: Arc<AtomicBool>,
    /// Whether an attempt was not answered.
    doubtful: Arc<AtomicBool>,
    answer: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
}

impl Flight {
    /// Sends a group.
    #[must_use]
    pub fn new(topic: &Arc<Topic>, group: Group) -> Self {
        let mut flight = Self {
            group,
            topic: topic.clone(),
            attempts: 0,
            begun: Instant::now(),
            sent: Arc::default(),
            doubtful: Arc::default(),
            answer: None,
        };
        flight.again();
        flight
    }

    /// Whether it may be stored.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// What its refusal means: of an attempt before it, whose outcome is not known, it says nothing.
    #[must_use]
    pub fn refused(&self, error: Error) -> Error {
        if self.doubtful.load(Ordering::Acquire) {
            let reason = format!("NATS: {error}, and an earlier attempt may be stored");
            return Error::Unavailable { reason, stored: Stored::Unknown };
        }
        error
    }

    /// How long it has been on its way.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// When what was done with it, if it is stored now.
    #[must_use]
    pub fn steps(&self) -> Steps {
        Steps { taken: self.begun, written: None, durable: Instant::now() }
    }

    /// Sends the same message once more. Its condition lets at most one copy be stored.
    pub fn again(&mut self) {
        let pause = match self.attempts {
            0 => Duration::ZERO,
            n => (Duration::from_millis(25) * 2_u32.pow(n.min(8))).min(PAUSE_MOST),
        };
        self.attempts += 1;
        let (topic, sent, doubtful) = (self.topic.clone(), self.sent.clone(), self.doubtful.clone());
        let request = async_nats::Request::new()
            .headers(self.group.headers())
            .payload(self.group.payload.clone())
            .timeout(Some(ANSWER_TIMEOUT));
        self.answer = Some(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            }
            let connection = topic.nats.link.up().await;
            let first = !sent.swap(true, Ordering::AcqRel);
            let outcome = tokio::select! {
                outcome = send(&topic.nats, &topic.subject, request) => outcome,
                () = topic.nats.link.lost(connection) => Outcome::Unknown("the connection was lost".into()),
            };
            match outcome {
                Outcome::Nobody if first => sent.store(false, Ordering::Release),
                Outcome::Unknown(_) => doubtful.store(true, Ordering::Release),
                _ => {}
            }
            outcome
        }));
    }

    /// The outcome of the latest attempt; for ever pending once it was told. Cancel-safe.
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

/// Sends one message, and judges the answer.
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

/// What JetStream answers to a message.
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
        /// The condition does not hold: "wrong last sequence: 17".
        const WRONG_LAST: u64 = 10071;
        /// The same where another message of the subject is not stored yet, since 2.12: it has no sequence.
        const RACING: u64 = 10164;
        /// The store failed while it wrote: perhaps on some replicas only.
        const STORE_FAILED: u64 = 10077;
        /// What JetStream answers while it cannot say: no leader, no quorum, not ready.
        const LATER: u64 = 503;
        /// Resources used up: the account's, the server's, memory, storage.
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
    use super::{Answer, Outcome};
    use crate::storage::Error;

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
