//! A member of a group, as a worker with a generated client is one.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use prost_types::Duration as ProtoDuration;
use streamway::proto::v1::consume_request::Kind;
use streamway::proto::v1::group_service_client::GroupServiceClient;
use streamway::proto::v1::{
    ConsumeRequest, ConsumeResponse, CreateGroupRequest, Credit, GetGroupRequest, Group, GroupSettings, Join,
    Joined, Leave, Nack, OffsetRange, Outcome, Record, Settlement, SettlementResult,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::{Server, within};

/// A client of GroupService.
pub type GroupClient = GroupServiceClient<Channel>;

/// Longest wait for an answer.
const SECONDS: u64 = 20;

/// Opens a connection for groups.
pub async fn groups(server: &Server) -> GroupClient {
    GroupClient::new(server.channel().await)
}

/// Makes a Join without anything special.
pub fn join(topic: &str, group: &str) -> Join {
    Join { topic: topic.into(), group: group.into(), member: "tester".into(), ..Join::default() }
}

/// Makes a message of a member.
pub fn message(kind: Kind) -> ConsumeRequest {
    ConsumeRequest { kind: Some(kind) }
}

/// Makes a duration.
pub fn millis(millis: i64) -> ProtoDuration {
    ProtoDuration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }
}

/// Makes a range of one offset.
pub fn only(offset: u64) -> OffsetRange {
    OffsetRange { start: offset, end: offset + 1 }
}

/// Creates a group, which must be accepted.
pub async fn create(server: &Server, topic: &str, name: &str, settings: GroupSettings) -> Group {
    let group =
        Group { topic: topic.into(), name: name.into(), settings: Some(settings), ..Group::default() };
    let request = CreateGroupRequest { group: Some(group), start: None };
    let created = groups(server).await.create_group(request).await.expect("created");
    created.into_inner().group.expect("a group")
}

/// Describes a group.
pub async fn get(server: &Server, topic: &str, name: &str) -> Group {
    let request = GetGroupRequest { topic: topic.into(), name: name.into() };
    let found = groups(server).await.get_group(request).await.expect("the group is there");
    found.into_inner().group.expect("a group")
}

/// One record that a member holds.
#[derive(Clone, Debug)]
pub struct Taken {
    pub offset: u64,
    pub record: Record,
    pub token: Bytes,
    pub fence: u64,
    pub delivery: u32,
}

impl Taken {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.record.value).into_owned()
    }
}

/// One Consume call.
pub struct Member {
    requests: mpsc::Sender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
    pub joined: Joined,
    /// Records that came and were not asked for yet.
    pub taken: VecDeque<Taken>,
    pub outcomes: VecDeque<Outcome>,
    pub revoked: Vec<OffsetRange>,
    pub notices: Vec<i32>,
    number: u64,
}

impl Member {
    /// Joins, which must be accepted, with credit for so many records.
    pub async fn open(server: &Server, topic: &str, group: &str, credit: u64) -> Self {
        let member = Self::join(server, join(topic, group)).await.expect("joined");
        member.credit(credit).await;
        member
    }

    /// Joins.
    pub async fn join(server: &Server, join: Join) -> Result<Self, Status> {
        Self::join_as(server, join, Request::new).await
    }

    /// Joins by a request that may carry an identity.
    pub async fn join_as(
        server: &Server,
        join: Join,
        request: impl FnOnce(ReceiverStream<ConsumeRequest>) -> Request<ReceiverStream<ConsumeRequest>>,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(64);
        requests.send(message(Kind::Join(join))).await.expect("open");
        let mut client = groups(server).await;
        let answers = client.consume(request(ReceiverStream::new(stream))).await?;
        let mut answers = answers.into_inner();
        let first = within(SECONDS, "Joined", answers.message()).await?.expect("an answer to Join");
        let joined = first.joined.expect("the first answer is Joined");
        let (taken, outcomes) = (VecDeque::new(), VecDeque::new());
        let (revoked, notices) = (Vec::new(), Vec::new());
        Ok(Self { requests, answers, joined, taken, outcomes, revoked, notices, number: 0 })
    }

    /// Sends a message.
    pub async fn send(&self, kind: Kind) {
        let _ = self.requests.send(message(kind)).await;
    }

    /// Gives credit for so many records in all.
    pub async fn credit(&self, records: u64) {
        self.send(Kind::Credit(Credit { records, bytes: u64::MAX })).await;
    }

    /// Reads the next message, and sorts what it holds. `false` at the end of the call.
    pub async fn read(&mut self) -> Result<bool, Status> {
        let Some(answer) = within(SECONDS, "an answer", self.answers.message()).await? else {
            return Ok(false);
        };
        assert!(answer.joined.is_none(), "Joined comes once");
        for lease in answer.leases {
            for batch in lease.batches {
                for (offset, record) in (batch.first_offset..).zip(batch.records) {
                    let again = lease.redeliveries.iter().find(|again| {
                        again.range.is_some_and(|range| (range.start..range.end).contains(&offset))
                    });
                    let delivery = again.map_or(1, |again| again.delivery);
                    let (token, fence) = (lease.token.clone(), lease.fence);
                    self.taken.push_back(Taken { offset, record, token, fence, delivery });
                }
            }
        }
        self.outcomes.extend(answer.outcomes);
        self.revoked.extend(answer.revocations.into_iter().flat_map(|revoked| revoked.ranges));
        if answer.notice != 0 {
            self.notices.push(answer.notice);
        }
        Ok(true)
    }

    /// Waits for so many records.
    pub async fn take(&mut self, records: usize) -> Vec<Taken> {
        while self.taken.len() < records {
            assert!(self.read().await.expect("leases go on"), "the call goes on");
        }
        self.taken.drain(..records).collect()
    }

    /// Asserts that no record comes for a while.
    pub async fn assert_nothing_for(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while let Ok(read) = tokio::time::timeout_at(until, self.answers.message()).await {
            let answer = read.expect("the call goes on").expect("the call goes on");
            assert!(answer.leases.is_empty(), "{answer:?}");
        }
        assert!(self.taken.is_empty(), "{:?}", self.taken);
    }

    /// Sends a settlement under a number of its own.
    pub async fn settle(&mut self, settlement: Settlement) -> u64 {
        self.number += 1;
        self.send(Kind::Settlement(Settlement { number: self.number, ..settlement })).await;
        self.number
    }

    /// Waits for the results of a settlement, one for each of `parts` parts.
    pub async fn results(&mut self, number: u64, parts: usize) -> Vec<SettlementResult> {
        let mut results = Vec::new();
        while results.len() < parts {
            while let Some(outcome) = self.outcomes.pop_front() {
                assert_eq!(outcome.number, number, "{outcome:?}");
                results.push(outcome.result());
            }
            if results.len() < parts {
                assert!(self.read().await.expect("outcomes come"), "the call goes on");
            }
        }
        results
    }

    /// Acknowledges records one by one, and waits until all are settled.
    pub async fn ack(&mut self, taken: &[Taken]) {
        for one in taken {
            let acks = vec![only(one.offset)];
            let number =
                self.settle(Settlement { token: one.token.clone(), acks, ..Settlement::default() }).await;
            let results = self.results(number, 1).await;
            assert_eq!(results, [SettlementResult::Settled], "{one:?}");
        }
    }

    /// Refuses a record, and waits until that is durable.
    pub async fn nack(&mut self, one: &Taken, delay: Option<i64>, reason: &str) {
        let nack =
            Nack { range: Some(only(one.offset)), delay: delay.map(millis), reason: reason.to_owned() };
        let number = self
            .settle(Settlement { token: one.token.clone(), nacks: vec![nack], ..Settlement::default() })
            .await;
        assert_eq!(self.results(number, 1).await, [SettlementResult::Settled], "{one:?}");
    }

    /// Leaves, and waits for the end of the call.
    pub async fn leave(mut self) {
        self.send(Kind::Leave(Leave {})).await;
        while self.read().await.expect("leaving ends the call with OK") {}
    }

    /// Reads until the call ends, which must be with a failure.
    pub async fn failure(&mut self) -> Status {
        loop {
            match self.read().await {
                Ok(true) => {}
                Ok(false) => panic!("the call ended with OK"),
                Err(status) => return status,
            }
        }
    }
}
