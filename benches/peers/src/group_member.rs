//! A member of a group of Streamway's: it reads leases without decoding their records, as the readers of other protocols do,
//! and settles them.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::transport::Channel;

use crate::grpc::{self, Field, next_field};
use crate::outcome::Outcome;
use crate::pace::Seen;
use crate::peer::{Member, Settle};
use crate::proto::v1::{
    ConsumeRequest, Credit, Join, OffsetRange, Settlement, SettlementResult, consume_request::Kind,
};

/// Bytes that a member may hold: its records are the limit.
const CREDIT_BYTES: u64 = 1 << 40;

/// Settlements that are not confirmed, by their number.
type Unconfirmed = HashMap<u64, (OffsetRange, Seen)>;

/// Takes part in the group until dropped.
pub async fn consume(channel: Channel, topic: &str, group: &str, member: Member) -> Outcome<()> {
    let (requests, queue) = mpsc::unbounded_channel::<Kind>();
    let join = Join { topic: topic.into(), group: group.into(), ..Join::default() };
    requests.send(Kind::Join(join))?;
    requests.send(Kind::Credit(Credit { records: member.credit as u64, bytes: CREDIT_BYTES }))?;
    let queue = stream::unfold(queue, |mut queue| async {
        let kind = queue.recv().await?;
        Some((ConsumeRequest { kind: Some(kind) }, queue))
    });
    let path = "/streamway.v1.GroupService/Consume";
    let mut messages = grpc::exchange(channel, path, Request::new(queue)).await?;
    let mut worker = Worker { member, requests, number: 0, unconfirmed: HashMap::new() };
    while let Some(message) = messages.message().await? {
        worker.take(&message)?;
    }
    Err("the call ended".into())
}

struct Worker {
    member: Member,
    requests: mpsc::UnboundedSender<Kind>,
    number: u64,
    unconfirmed: Unconfirmed,
}

impl Worker {
    /// Takes an encoded `ConsumeResponse`.
    fn take(&mut self, message: &Bytes) -> Outcome<()> {
        let (mut rest, mut confirmed) = (&message[..], Seen::default());
        while let Some((number, field)) = next_field(&mut rest)? {
            match (number, field) {
                (1, _) => self.member.settled.subscribed(),
                (2, Field::Bytes(lease)) => self.lease(message, lease)?,
                (3, Field::Bytes(outcome)) => confirmed = confirmed.and(self.confirmed(outcome)?),
                (7, _) => {}
                _ => return Err("a member is told something that no row expects".into()),
            }
        }
        self.member.settled.add(confirmed);
        Ok(())
    }

    fn lease(&mut self, message: &Bytes, lease: &[u8]) -> Outcome<()> {
        let (mut rest, mut token, mut batches) = (lease, Bytes::new(), Vec::new());
        while let Some((number, field)) = next_field(&mut rest)? {
            match (number, field) {
                (1, Field::Bytes(batch)) => batches.push(batch),
                (2, Field::Bytes(bytes)) => token = message.slice_ref(bytes),
                (5, _) => return Err("records are delivered again".into()),
                _ => {}
            }
        }
        for batch in batches {
            self.batch(&token, batch)?;
        }
        Ok(())
    }

    fn batch(&mut self, token: &Bytes, batch: &[u8]) -> Outcome<()> {
        let (mut rest, mut first, mut all) = (batch, 0, Seen::default());
        while let Some((number, field)) = next_field(&mut rest)? {
            match (number, field) {
                (1, Field::Number(offset)) => first = offset,
                (3, Field::Bytes(record)) => {
                    let mut seen = Seen::default();
                    seen.value(value(record)?);
                    if self.member.settle == Settle::OneByOne {
                        self.settle(token, first + all.records, seen)?;
                    }
                    all = all.and(seen);
                }
                _ => {}
            }
        }
        self.member.received.add(all);
        if self.member.settle == Settle::Together {
            self.settle(token, first, all)?;
        }
        Ok(())
    }

    /// Acknowledges these records, which begin with the one at `start`.
    fn settle(&mut self, token: &Bytes, start: u64, seen: Seen) -> Outcome<()> {
        let range = OffsetRange { start, end: start + seen.records };
        self.number += 1;
        let settlement = Settlement {
            number: self.number,
            token: token.clone(),
            acks: vec![range],
            ..Settlement::default()
        };
        self.unconfirmed.insert(self.number, (range, seen));
        Ok(self.requests.send(Kind::Settlement(settlement))?)
    }

    /// Takes an encoded `Outcome`.
    fn confirmed(&mut self, outcome: &[u8]) -> Outcome<Seen> {
        let (mut rest, mut number, mut range, mut result) = (outcome, 0, OffsetRange::default(), 0);
        while let Some(field) = next_field(&mut rest)? {
            match field {
                (1, Field::Number(value)) => number = value,
                (2, Field::Bytes(bytes)) => range = prost::Message::decode(bytes)?,
                (3, Field::Number(value)) => result = value,
                _ => {}
            }
        }
        match self.unconfirmed.remove(&number) {
            Some((asked, seen)) if asked == range && result == SettlementResult::Settled as u64 => Ok(seen),
            asked => Err(format!("{asked:?} is answered by {range:?}, {result}").into()),
        }
    }
}

/// The value of an encoded `Record`.
fn value(mut record: &[u8]) -> Outcome<&[u8]> {
    while let Some(field) = next_field(&mut record)? {
        if let (2, Field::Bytes(value)) = field {
            return Ok(value);
        }
    }
    Err("a record has no value".into())
}
