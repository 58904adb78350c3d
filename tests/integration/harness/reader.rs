//! A subscription that checks on every message what is guaranteed to a subscriber (P2, P3).

use streamway::proto::v1::{Notice, Position, Record, SubscribeRequest, SubscribeResponse};
use tonic::{Status, Streaming};

use super::{StreamClient, within};

/// Longest wait for one message, which exceeds the default heartbeat and its jitter.
const MESSAGE_SECONDS: u64 = 30;

/// Record with its offset.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub offset: u64,
    /// Offset of the first record of the part of a batch in which it came.
    pub batch: u64,
    pub record: Record,
}

impl Seen {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.record.value).into_owned()
    }
}

/// Checked subscription.
pub struct Reader {
    stream: Streaming<SubscribeResponse>,
    /// Position at which to resume after the last message.
    pub next: Option<Position>,
    /// Tail in the last message.
    pub tail: u64,
    /// All notices so far.
    pub notices: Vec<Notice>,
    time: i64,
    sparse: bool,
}

impl Reader {
    pub async fn open(client: &mut StreamClient, request: SubscribeRequest) -> Result<Self, Status> {
        let answer = within(MESSAGE_SECONDS, "subscribe", client.subscribe(request)).await?;
        let stream = answer.into_inner();
        Ok(Self { stream, next: None, tail: 0, notices: Vec::new(), time: i64::MIN, sparse: false })
    }

    /// Next message, or none at the end.
    pub async fn message(&mut self) -> Result<Option<SubscribeResponse>, Status> {
        let message = within(MESSAGE_SECONDS, "a message or a heartbeat", self.stream.message()).await?;
        if let Some(message) = &message {
            self.check(message);
        }
        Ok(message)
    }

    /// Records of the next message that has any, or none at the end.
    pub async fn records(&mut self) -> Result<Option<Vec<Seen>>, Status> {
        while let Some(message) = self.message().await? {
            if !message.batches.is_empty() {
                return Ok(Some(flatten(message)));
            }
        }
        Ok(None)
    }

    /// Reads at least `n` records.
    pub async fn take(&mut self, n: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        while seen.len() < n {
            let more = self.records().await.expect("the subscription goes on");
            seen.extend(more.expect("the subscription has not ended"));
        }
        seen
    }

    /// Reads until the server ends the call.
    pub async fn rest(&mut self) -> Result<Vec<Seen>, Status> {
        let mut seen = Vec::new();
        while let Some(more) = self.records().await? {
            seen.extend(more);
        }
        Ok(seen)
    }

    /// Reads until a notice comes, and returns the records before it.
    pub async fn until(&mut self, notice: Notice) -> Vec<Seen> {
        let mut seen = Vec::new();
        while !self.notices.contains(&notice) {
            let message = self.message().await.expect("the subscription goes on").expect("not ended");
            seen.extend(flatten(message));
        }
        seen
    }

    /// Accepts gaps between offsets, as the JetStream engine leaves.
    pub fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }

    fn follows(&self, found: u64, at: u64) -> bool {
        found == at || self.sparse && found > at
    }

    fn check(&mut self, message: &SubscribeResponse) {
        let next = message.next.clone().expect("a position on every message");
        assert_eq!(next.epoch.len(), 16, "{next:?}");
        let gap = message.notice() == Notice::Gap;
        let mut at = self.next.as_ref().map(|position| position.offset);
        for batch in &message.batches {
            assert!(!batch.records.is_empty(), "a batch holds records");
            if let Some(at) = at.filter(|_| !gap) {
                assert!(
                    self.follows(batch.first_offset, at),
                    "no gap, no repeat: {} at {at}",
                    batch.first_offset
                );
            }
            at = Some(batch.first_offset + batch.records.len() as u64);
            let time = super::make::micros(batch.publish_time.as_ref().expect("a time on every batch"));
            assert!(time >= self.time, "publish_time never decreases");
            self.time = time;
        }
        if let Some(at) = at.filter(|_| !gap || !message.batches.is_empty()) {
            assert!(self.follows(next.offset, at), "next follows the last record: {next:?} at {at}");
        }
        if let Some(before) = &self.next {
            assert_eq!(before.epoch, next.epoch, "one incarnation a subscription");
        }
        assert!(message.tail >= next.offset, "next is at most the tail");
        assert!(message.tail >= self.tail, "the tail never goes back");
        self.tail = message.tail;
        self.next = Some(next);
        if message.notice() != Notice::Unspecified {
            self.notices.push(message.notice());
        }
    }
}

fn flatten(message: SubscribeResponse) -> Vec<Seen> {
    let mut seen = Vec::new();
    for batch in message.batches {
        for (offset, record) in (batch.first_offset..).zip(batch.records) {
            seen.push(Seen { offset, batch: batch.first_offset, record });
        }
    }
    seen
}

/// Reads a topic from the oldest record to the tail.
pub async fn read_all(client: &mut StreamClient, topic: &str) -> Vec<Seen> {
    let mut reader = Reader::open(client, super::make::history(topic)).await.expect("subscribed");
    reader.rest().await.expect("read to the tail")
}
