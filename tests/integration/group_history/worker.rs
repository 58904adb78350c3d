//! A worker that handles records of a group, badly at times, and records what it sees.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use streamway::proto::v1::consume_request::Kind;
use streamway::proto::v1::group_service_client::GroupServiceClient;
use streamway::proto::v1::{
    ConsumeRequest, ConsumeResponse, Credit, Join, Joined, Lease, Leave, Nack, OffsetRange, Settlement,
    SettlementResult,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::{Event, Recorder};

/// Back-off of a worker while its server is down or starting.
const BACK_OFF: Duration = Duration::from_millis(20);
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// A worker.
pub struct Worker {
    /// Servers of which each call goes to one.
    pub servers: Vec<SocketAddr>,
    pub topic: String,
    pub group: String,
    pub rng: Rng,
    pub recorder: Recorder,
    /// Longest delay of a record that it fails to handle.
    pub delay_max: Duration,
    /// True once records are only acknowledged.
    pub careful: watch::Receiver<bool>,
    pub stop: watch::Receiver<bool>,
}

/// A session that may be taken up again.
struct Session {
    id: Bytes,
    number: u64,
    /// Records that came and were not acknowledged, with the tokens of their leases.
    open: Vec<(Bytes, u64, u64)>,
}

/// Next step of a worker.
enum Next {
    GoOn,
    /// Ends the call at once, as a connection that is cut off does.
    Cut,
    Leave,
}

/// One call of a worker.
struct Call {
    requests: mpsc::UnboundedSender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
    process: u64,
    session: Session,
    /// Acknowledgements without an answer: fence and offsets by the number of the settlement.
    asked: HashMap<u64, (u64, Vec<u64>)>,
    number: u64,
}

impl Worker {
    /// Works until it is told to stop.
    pub async fn work(mut self) {
        let mut session = None;
        while !*self.stop.borrow() {
            match self.join(session.take()).await {
                Ok(Some(call)) => session = self.take_part(call).await,
                // The process changed meanwhile, or there is none. This paces the attempts.
                Ok(None) | Err(_) => tokio::time::sleep(BACK_OFF).await,
            }
        }
    }

    async fn join(&mut self, former: Option<Session>) -> Result<Option<Call>, Status> {
        let process = self.recorder.process();
        let server = self.rng.choice(&self.servers).expect("a server");
        let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("a URL");
        let mut client = GroupServiceClient::new(endpoint.connect_lazy());
        let (requests, sent) = mpsc::unbounded_channel();
        let join = Join {
            topic: self.topic.clone(),
            group: self.group.clone(),
            member: "worker".into(),
            session: former.as_ref().map(|former| former.id.clone()).unwrap_or_default(),
            ..Join::default()
        };
        let _ = requests.send(ConsumeRequest { kind: Some(Kind::Join(join)) });
        let mut answers = client.consume(UnboundedReceiverStream::new(sent)).await?.into_inner();
        let first = answers.message().await?.unwrap_or_default();
        let Some(joined) = first.joined else { return Err(Status::unknown("the call ended")) };
        if self.recorder.process() != process {
            return Ok(None);
        }
        let session = self.take_up(former, &joined);
        let mut call = Call { requests, answers, process, session, asked: HashMap::new(), number: 0 };
        call.return_unknown(&joined);
        let open = std::mem::take(&mut call.session.open);
        for (token, fence, offset) in open {
            call.ack(&self.recorder, token, fence, vec![offset]);
        }
        let records = self.rng.u64(1..100);
        call.send(Kind::Credit(Credit { records, bytes: 1 << 20 }));
        Ok(Some(call))
    }

    fn take_up(&self, former: Option<Session>, joined: &Joined) -> Session {
        let id = joined.session.clone();
        let Some(former) = former.filter(|former| former.id == id) else {
            return Session { id, number: SESSIONS.fetch_add(1, Ordering::Relaxed), open: Vec::new() };
        };
        for range in joined.held.iter().flat_map(|held| &held.ranges) {
            for offset in range.start..range.end {
                self.recorder.record(Event::Held { session: former.number, offset });
            }
        }
        former
    }

    /// Takes part until the call ends. Returns the session if it may be taken up again.
    async fn take_part(&mut self, mut call: Call) -> Option<Session> {
        loop {
            let answer = tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                answer = call.answers.message() => answer,
            };
            // A session ends with its process.
            let Ok(Some(answer)) = answer else { return None };
            for outcome in answer.outcomes {
                let range = outcome.range.unwrap_or_default();
                call.outcome(&self.recorder, outcome.number, &range, outcome.result());
            }
            let came: Vec<_> = answer.leases.iter().map(|lease| self.came(&call, lease)).collect();
            for (lease, offsets) in answer.leases.iter().zip(came) {
                match self.handle(&mut call, lease, &offsets) {
                    Next::GoOn => {}
                    Next::Cut => return Some(call.session),
                    Next::Leave => {
                        call.send(Kind::Leave(Leave {}));
                        return self.leave(call).await;
                    }
                }
            }
        }
    }

    /// Waits for the answers that still come, and takes what comes with them for granted.
    async fn leave(&mut self, mut call: Call) -> Option<Session> {
        while let Ok(Some(answer)) = call.answers.message().await {
            for lease in &answer.leases {
                self.came(&call, lease);
            }
            for outcome in answer.outcomes {
                let range = outcome.range.unwrap_or_default();
                call.outcome(&self.recorder, outcome.number, &range, outcome.result());
            }
        }
        None
    }

    fn came(&self, call: &Call, lease: &Lease) -> Vec<u64> {
        let offsets = lease
            .batches
            .iter()
            .flat_map(|batch| batch.first_offset..batch.first_offset + batch.records.len() as u64);
        let offsets: Vec<u64> = offsets.collect();
        for offset in &offsets {
            let (session, process, fence) = (call.session.number, call.process, lease.fence);
            self.recorder.record(Event::Leased { session, process, fence, offset: *offset });
        }
        offsets
    }

    /// Handles a lease: mostly acknowledges it, in one part or one by one.
    fn handle(&mut self, call: &mut Call, lease: &Lease, offsets: &[u64]) -> Next {
        let choice = if *self.careful.borrow() { 99 } else { self.rng.u8(..100) };
        let fault = if choice < 15 { self.rng.usize(..=offsets.len()) } else { offsets.len() };
        let (handled, rest) = offsets.split_at(fault);
        if self.rng.bool() {
            call.ack(&self.recorder, lease.token.clone(), lease.fence, handled.to_vec());
        } else {
            for offset in handled {
                call.ack(&self.recorder, lease.token.clone(), lease.fence, vec![*offset]);
            }
        }
        let (Some(first), Some(last)) = (rest.first(), rest.last()) else { return Next::GoOn };
        let range = OffsetRange { start: *first, end: last + 1 };
        let token = lease.token.clone();
        match choice {
            0..6 => {
                let delay = self.delay_max.mul_f64(self.rng.f64());
                let delay = (!delay.is_zero()).then(|| delay.try_into().expect("short"));
                let nack = Nack { range: Some(range), delay, reason: "tired".into() };
                call.settle(Settlement { token, nacks: vec![nack], ..Settlement::default() });
            }
            6..11 => call.settle(Settlement { token, returns: vec![range], ..Settlement::default() }),
            11..14 => {
                let open = rest.iter().map(|offset| (token.clone(), lease.fence, *offset));
                call.session.open.extend(open);
                return Next::Cut;
            }
            _ => return Next::Leave,
        }
        Next::GoOn
    }
}

impl Call {
    fn send(&self, kind: Kind) {
        // The answers tell that the call ended.
        let _ = self.requests.send(ConsumeRequest { kind: Some(kind) });
    }

    fn settle(&mut self, settlement: Settlement) {
        self.number += 1;
        self.send(Kind::Settlement(Settlement { number: self.number, ..settlement }));
    }

    fn ack(&mut self, recorder: &Recorder, token: Bytes, fence: u64, offsets: Vec<u64>) {
        let Some(first) = offsets.first() else { return };
        for offset in &offsets {
            recorder.record(Event::Acking { fence, offset: *offset });
        }
        // Offsets between those of a lease are other members', and no part of the lease.
        let mut acks = vec![OffsetRange { start: *first, end: first + 1 }];
        for offset in &offsets[1..] {
            match acks.last_mut() {
                Some(last) if last.end == *offset => last.end += 1,
                _ => acks.push(OffsetRange { start: *offset, end: offset + 1 }),
            }
        }
        self.settle(Settlement { token, acks, ..Settlement::default() });
        self.asked.insert(self.number, (fence, offsets));
    }

    /// Gives back what the session holds and never came.
    fn return_unknown(&mut self, joined: &Joined) {
        for held in &joined.held {
            let all = held.ranges.iter().flat_map(|range| range.start..range.end);
            let is_known = |offset: &u64| {
                self.session.open.iter().any(|(_, fence, open)| (*fence, open) == (held.fence, offset))
            };
            let unknown: Vec<u64> = all.filter(|offset| !is_known(offset)).collect();
            if !unknown.is_empty() {
                let returns = unknown.iter().map(|start| OffsetRange { start: *start, end: start + 1 });
                let returns = returns.collect();
                self.settle(Settlement { token: held.token.clone(), returns, ..Settlement::default() });
            }
        }
    }

    fn outcome(&mut self, recorder: &Recorder, number: u64, range: &OffsetRange, result: SettlementResult) {
        let Some((fence, offsets)) = self.asked.get_mut(&number) else { return };
        let fence = *fence;
        offsets.retain(|offset| {
            if !(range.start..range.end).contains(offset) {
                return true;
            }
            recorder.record(match result {
                SettlementResult::Settled => Event::Settled { process: self.process, fence, offset: *offset },
                _ => Event::Lost { fence, offset: *offset },
            });
            false
        });
        if offsets.is_empty() {
            self.asked.remove(&number);
        }
    }
}
