//! Clients that record what they do: publishers with each kind of call, and a subscriber that resumes after every
//! interruption. Each stops when told to, or when its call ends for good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::{GetTopicRequest, Position, PublishRequest, Receipt, TrimTopicRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Begun, Outcome, Recorder};
use crate::harness::make::{at, earliest, ingest, numbered, open, publish, record, subscribe};
use crate::harness::{Reader, Seen, StreamClient, TopicClient, detail, metadata};

/// A publisher.
pub struct Publisher {
    pub client: StreamClient,
    pub topic: String,
    pub name: String,
    pub rng: Rng,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
    /// Pause between two batches of one streaming call.
    pub pause: Duration,
}

static UNIQUE: AtomicU64 = AtomicU64::new(0);
/// Back-off of a client while its server is down or starting.
const BACK_OFF: Duration = Duration::from_millis(20);

fn outcome(receipt: &Receipt) -> Outcome {
    let next = receipt.next.as_ref().expect("a position on every receipt").offset;
    Outcome::Acknowledged { first: receipt.first_offset, next, duplicate: receipt.duplicate }
}

fn epoch(receipt: &Receipt) -> &str {
    receipt.next.as_ref().map_or("", |next| &next.epoch)
}

/// Trims a topic repeatedly: within its first batch, to its middle, and to its tail.
pub async fn trimming(
    mut topics: TopicClient,
    topic: String,
    recorder: Recorder,
    mut rng: Rng,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        // This paces the load; it does not wait for a condition.
        tokio::time::sleep(BACK_OFF).await;
        let Ok(found) = topics.get_topic(GetTopicRequest { name: topic.clone() }).await else { continue };
        let found = found.into_inner().topic.expect("a topic");
        let (earliest, tail) = (found.earliest_offset, found.tail);
        let before_offset = match rng.u8(..8) {
            0 => tail,
            1..4 => tail.min(earliest + 1),
            _ => rng.u64(earliest..=earliest.midpoint(tail)),
        };
        let begun = recorder.begin_trim(before_offset);
        let request = TrimTopicRequest { name: topic.clone(), before_offset, epoch: found.epoch };
        match topics.trim_topic(request).await {
            Ok(answer) => recorder.end_trim(begun, Some(answer.into_inner().earliest_offset)),
            // Without `side_effects` the trim may have happened.
            Err(status) if detail(&status).error_info().is_none() => {}
            Err(status) if status.code() == Code::Unavailable => {}
            Err(_) => recorder.end_trim(begun, None),
        }
    }
}

/// Outcome of a failed publish according to its error details (P7).
fn failure(status: &Status) -> Outcome {
    let details = detail(status);
    let Some(info) = details.error_info() else { return Outcome::Unknown };
    match info.metadata.get("side_effects").map(String::as_str) {
        Some("none") if info.reason == "EXPECTED_OFFSET_MISMATCH" => {
            let tail = metadata(status)["tail"].parse().expect("a number");
            Outcome::Mismatch { tail }
        }
        Some("none") => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

impl Publisher {
    /// A batch of 1 to 8 records of 20 to 1000 bytes, all unique.
    fn batch(&mut self) -> Vec<String> {
        let filler = "x".repeat(self.rng.usize(0..1000));
        let name = &self.name;
        let one = |_| format!("{name}/{:012}/{filler}", UNIQUE.fetch_add(1, Ordering::Relaxed));
        (0..self.rng.usize(1..=8)).map(one).collect()
    }

    fn request(&self, values: &[String]) -> PublishRequest {
        publish(&self.topic, values.iter().map(|value| record(value.as_bytes())).collect())
    }

    /// Makes one unary attempt.
    async fn attempt(
        &mut self,
        values: &[String],
        id: &str,
        expected: Option<u64>,
    ) -> (Outcome, Option<Status>) {
        let request =
            PublishRequest { request_id: id.into(), expected_offset: expected, ..self.request(values) };
        let begun = self.recorder.begin(None, values, id, expected);
        let (outcome, status) = match self.client.publish(request).await {
            Ok(response) => {
                let receipt = response.into_inner().receipt.expect("a receipt");
                self.recorder.of_epoch(begun, epoch(&receipt));
                (outcome(&receipt), None)
            }
            Err(status) => (failure(&status), Some(status)),
        };
        self.recorder.end(begun, outcome.clone());
        (outcome, status)
    }

    /// Publishes batches with a `request_id`, one after the other. Each is repeated until it is acknowledged, and
    /// sometimes once more afterwards.
    pub async fn faithful(mut self) {
        for number in 0.. {
            if *self.stop.borrow() {
                return;
            }
            let (values, id) = (self.batch(), format!("{}-{number}", self.name));
            let mut repeats = usize::from(self.rng.u8(..8) == 0);
            loop {
                match self.attempt(&values, &id, None).await.0 {
                    Outcome::Acknowledged { .. } if repeats == 0 => break,
                    Outcome::Acknowledged { .. } => repeats -= 1,
                    _ => tokio::time::sleep(BACK_OFF).await,
                }
            }
        }
    }

    /// Publishes batches with the tail of the last answer as `expected_offset`: compare-and-set in competition with others.
    pub async fn conditional(mut self) {
        let mut expected = 0;
        while !*self.stop.borrow() {
            let values = self.batch();
            match self.attempt(&values, "", Some(expected)).await.0 {
                Outcome::Acknowledged { next, .. } => expected = next,
                Outcome::Mismatch { tail } => expected = tail,
                _ => tokio::time::sleep(BACK_OFF).await,
            }
        }
    }

    /// Makes one Ingest after the other.
    pub async fn ingesting(mut self) {
        while !*self.stop.borrow() {
            let call = self.recorder.call();
            let (sender, requests) = mpsc::channel(8);
            let mut begun: Vec<Begun> = Vec::new();
            let (mut client, count) = (self.client.clone(), self.rng.u64(1..40));
            let answer = tokio::spawn(async move { client.ingest(ReceiverStream::new(requests)).await });
            for number in 0..count {
                let values = self.batch();
                // Recorded first, because it may be stored as soon as it is queued.
                let Some(room) = reserve(Some(&sender), self.pause).await else { break };
                begun.push(self.recorder.begin(Some((call, number)), &values, "", None));
                room.send(ingest(self.request(&values)));
            }
            drop(sender);
            let done = answer.await.expect("no panic");
            let all = done.is_ok_and(|sum| sum.into_inner().batches == begun.len() as u64);
            for begun in begun {
                self.recorder.end(begun, if all { Outcome::Stored } else { Outcome::Unknown });
            }
            if !all {
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    /// Makes one Exchange, pipelined as fast as the server and the pause allow, until it ends or is told to stop.
    pub async fn exchanging(mut self) {
        let call = self.recorder.call();
        let (sender, requests) = mpsc::channel(64);
        sender.send(open(&self.topic)).await.expect("we hold the other end");
        let Ok(answers) = self.client.exchange(ReceiverStream::new(requests)).await else { return };
        let mut answers = answers.into_inner();
        let (mut sender, mut begun, mut acknowledged) = (Some(sender), Vec::new(), 0);
        loop {
            if *self.stop.borrow() {
                sender = None;
            }
            let mut ended = false;
            let answer = tokio::select! {
                room = reserve(sender.as_ref(), self.pause), if sender.is_some() => {
                    match room {
                        Some(room) => {
                            let values = self.batch();
                            let number = begun.len() as u64 + 1;
                            begun.push(self.recorder.begin(Some((call, number)), &values, "", None));
                            room.send(numbered(number, self.request(&values)));
                        }
                        None => ended = true,
                    }
                    None
                }
                answer = answers.message() => Some(answer),
            };
            if ended {
                sender = None;
            }
            let Some(answer) = answer else { continue };
            let Ok(Some(answer)) = answer else { return };
            for numbered in answer.receipts {
                assert_eq!(numbered.number, acknowledged + 1, "receipts come in order, without a gap");
                acknowledged += 1;
                let receipt = numbered.receipt.expect("a receipt");
                let begun = begun[acknowledged as usize - 1];
                self.recorder.of_epoch(begun, epoch(&receipt));
                self.recorder.end(begun, outcome(&receipt));
            }
        }
    }
}

/// Reserves a place in the queue after a pause; `None` if the call has ended.
async fn reserve<T>(sender: Option<&mpsc::Sender<T>>, pause: Duration) -> Option<mpsc::Permit<'_, T>> {
    if !pause.is_zero() {
        // This paces the load; it does not wait for a condition.
        tokio::time::sleep(pause).await;
    }
    sender?.reserve().await.ok()
}

/// Subscribes from the beginning, and after every interruption again at `next`, until it has seen everything before `end`
/// (P3); then records what it saw.
pub async fn follow(
    mut client: StreamClient,
    topic: String,
    recorder: Recorder,
    mut end: watch::Receiver<Option<u64>>,
) {
    let mut seen: Vec<Seen> = Vec::new();
    let mut next: Option<Position> = None;
    let reached = |end: Option<u64>, seen: &[Seen]| {
        end.is_some_and(|end| end <= seen.last().map_or(0, |last| last.offset + 1))
    };
    'resume: loop {
        if reached(*end.borrow_and_update(), &seen) {
            break;
        }
        let start = next.as_ref().map_or_else(earliest, at);
        let mut reader = match Reader::open(&mut client, subscribe(&topic, start)).await {
            Ok(reader) => reader,
            Err(status) => {
                // An error without details means that the connection broke.
                let told = detail(&status).error_info().is_some();
                assert!(!told || status.code() == Code::Unavailable, "{status:?}");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        // Offsets may have gaps here; the checker decides about them.
        reader = reader.sparse();
        loop {
            if reached(*end.borrow_and_update(), &seen) {
                break 'resume;
            }
            tokio::select! {
                _ = end.changed() => {}
                more = reader.records() => {
                    let Ok(Some(more)) = more else { continue 'resume };
                    seen.extend(more);
                    next.clone_from(&reader.next);
                }
            }
        }
    }
    // A batch with an unknown outcome may be stored after the topic was read.
    let end = end.borrow().unwrap_or(u64::MAX);
    seen.retain(|seen| seen.offset < end);
    recorder.delivered(&seen);
}
