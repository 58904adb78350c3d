//! Publishers that write down what they sent and what was acknowledged, and the check of what is
//! then in the topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::PublishRequest;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::make::{numbered, open, publish, record};
use super::{Seen, StreamClient};

/// One batch a publisher sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The records' values: unique in the whole test.
    pub values: Vec<String>,
    /// Where it was stored, once that was acknowledged.
    pub acknowledged: Option<u64>,
}

/// Batches sent by one publisher through one pipelined call, in order.
pub type Journal = Vec<Sent>;

/// How many batches all publishers have had acknowledged.
#[derive(Clone, Debug)]
pub struct Acks(Arc<watch::Sender<u64>>);

impl Default for Acks {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Acks {
    pub fn add(&self, n: u64) {
        self.0.send_modify(|count| *count += n);
    }

    pub fn count(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until so many are acknowledged.
    pub async fn reach(&self, n: u64) {
        let mut count = self.0.subscribe();
        super::within(60, "acknowledgements", count.wait_for(|count| *count >= n)).await.expect("we hold it");
    }
}

static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// A batch of 1 to 8 records of 20 to 1000 bytes, none like any other.
pub fn batch(name: &str, rng: &mut Rng) -> Vec<String> {
    let filler = "x".repeat(rng.usize(0..1000));
    let one = |_| format!("{name}/{:012}/{filler}", UNIQUE.fetch_add(1, Ordering::Relaxed));
    (0..rng.usize(1..=8)).map(one).collect()
}

pub fn request(topic: &str, values: &[String]) -> PublishRequest {
    publish(topic, values.iter().map(|value| record(value.as_bytes())).collect())
}

/// Publishes through one Exchange as fast as the server takes it, until the call ends or `stop`
/// turns true; then half-closes and collects what is still acknowledged.
pub async fn pipelined(
    mut client: StreamClient,
    topic: String,
    name: String,
    mut rng: Rng,
    acks: Acks,
    stop: watch::Receiver<bool>,
) -> Journal {
    let (sender, requests) = mpsc::channel(64);
    sender.send(open(&topic)).await.expect("we hold the other end");
    let mut journal = Journal::new();
    let Ok(answers) = client.exchange(ReceiverStream::new(requests)).await else { return journal };
    let mut answers = answers.into_inner();
    let mut sender = Some(sender);
    let mut acknowledged = 0;
    loop {
        if *stop.borrow() {
            sender = None;
        }
        let answer = tokio::select! {
            has_room = has_room(sender.as_ref()), if sender.is_some() => {
                let values = batch(&name, &mut rng);
                let request = numbered(journal.len() as u64 + 1, request(&topic, &values));
                // One that could not even be queued was never sent.
                if has_room && sender.as_ref().is_some_and(|sender| sender.try_send(request).is_ok()) {
                    journal.push(Sent { values, acknowledged: None });
                } else {
                    sender = None;
                }
                continue;
            }
            answer = answers.message() => answer,
        };
        let Ok(Some(answer)) = answer else {
            println!("{name}: {} sent, {acknowledged} acknowledged, then {answer:?}", journal.len());
            return journal;
        };
        for numbered in answer.receipts {
            assert_eq!(numbered.number, acknowledged + 1, "receipts come in order, without a gap");
            acknowledged += 1;
            let receipt = numbered.receipt.expect("a receipt");
            assert!(!receipt.duplicate);
            journal[acknowledged as usize - 1].acknowledged = Some(receipt.first_offset);
            acks.add(1);
        }
    }
}

/// Waits until a message can be queued; false where the call has ended.
async fn has_room<T>(sender: Option<&mpsc::Sender<T>>) -> bool {
    match sender {
        Some(sender) => sender.reserve().await.is_ok(),
        None => false,
    }
}

/// Publishes batches with a `request_id` each, one after the other, and repeats each until it is
/// acknowledged, through whatever happens to the server. Every batch must be stored exactly once.
pub async fn persistent(
    mut client: StreamClient,
    topic: String,
    name: String,
    mut rng: Rng,
    acks: Acks,
    stop: watch::Receiver<bool>,
) -> Journal {
    let mut journal = Journal::new();
    while !*stop.borrow() {
        let values = batch(&name, &mut rng);
        let request_id = format!("{name}-{}", journal.len());
        let receipt = loop {
            let request = PublishRequest { request_id: request_id.clone(), ..request(&topic, &values) };
            match client.publish(request).await {
                Ok(response) => break response.into_inner().receipt.expect("a receipt"),
                // The server is down or starting: this is the client's back-off.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        journal.push(Sent { values, acknowledged: Some(receipt.first_offset) });
        acks.add(1);
    }
    journal
}

/// What [`verify`] found.
#[derive(Debug, Default)]
pub struct Found {
    pub acknowledged: usize,
    /// Stored, though the acknowledgement never came.
    pub unacknowledged: usize,
}

/// Holds a topic against what was sent: every acknowledged batch once, whole, where its receipt
/// said; every other one at most once, whole, and none behind one that is missing; each
/// publisher's in its order; and nothing else (P1, P2, P4).
pub fn verify(journals: &[Journal], topic: &[Seen]) -> Found {
    let mut places: HashMap<String, u64> = HashMap::new();
    for (i, seen) in topic.iter().enumerate() {
        assert_eq!(seen.offset, topic[0].offset + i as u64, "offsets are dense and in order");
        assert_eq!(places.insert(seen.text(), seen.offset), None, "stored twice: {}", short(&seen.text()));
    }
    let (mut found, mut explained) = (Found::default(), 0);
    for journal in journals {
        let (mut after, mut missing) = (0, None);
        for (number, sent) in journal.iter().enumerate() {
            let Some(first) = place(sent, &places) else {
                assert_eq!(sent.acknowledged, None, "acknowledged, and lost: {}", short(&sent.values[0]));
                missing = Some(number);
                continue;
            };
            assert_eq!(missing, None, "publish {number} was stored, and an earlier one was not");
            assert!(first >= after, "a publisher's batches are in its order");
            after = first + sent.values.len() as u64;
            explained += sent.values.len();
            match sent.acknowledged {
                Some(offset) => {
                    assert_eq!(offset, first, "stored where the receipt says");
                    found.acknowledged += 1;
                }
                None => found.unacknowledged += 1,
            }
        }
    }
    assert_eq!(explained, topic.len(), "the topic holds what was sent, and nothing else");
    found
}

/// A value without its filler.
fn short(value: &str) -> &str {
    value.rsplit_once('/').map_or(value, |(name, _)| name)
}

/// Where a batch begins; none where no record of it is stored.
fn place(sent: &Sent, places: &HashMap<String, u64>) -> Option<u64> {
    let found: Vec<Option<u64>> = sent.values.iter().map(|value| places.get(value).copied()).collect();
    if found.iter().all(Option::is_none) {
        return None;
    }
    let first = found[0].expect("a batch is stored whole: its first record is missing");
    for (i, offset) in found.iter().enumerate() {
        assert_eq!(*offset, Some(first + i as u64), "a batch is stored whole and in order");
    }
    Some(first)
}
