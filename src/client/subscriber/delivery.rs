//! One message of a subscription. Its records are parsed when they are asked for, and not copied.

use bytes::Bytes;

use crate::client::damaged::damaged;
use crate::client::error::Error;
use crate::proto::v1::Notice;
use crate::record::block::{Block, Blocks};
use crate::record::{Offset, Position, RecordRef};
use crate::wire::SubscribeResponse;

/// A delivery. One without batches is a heartbeat, or a notice alone.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Runs of stored batches, as bytes ([`crate::record::block`]).
    pub runs: Vec<Bytes>,
    /// The position to resume at. The subscriber uses it itself, and the application can store it.
    pub next: Position,
    /// Offset of the next record to be published to the topic, when this message was sent.
    pub tail: Offset,
    /// A notice about this point of the subscription.
    pub notice: Notice,
}

impl Delivery {
    pub(super) fn new(message: SubscribeResponse) -> Self {
        Self { runs: message.batches, next: message.next, tail: message.tail, notice: message.notice }
    }

    /// Returns true if the delivery has no records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns true if the topic had no further records when this message was sent.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.next.offset >= self.tail
    }

    /// The batches one by one.
    pub fn batches(&self) -> impl Iterator<Item = Result<Block<'_>, Error>> {
        let at = self.next.offset;
        self.runs
            .iter()
            .flat_map(move |run| Blocks::new(run).map(move |block| block.map_err(|why| damaged(at, why))))
    }

    /// The records one by one, parsed as they are asked for.
    pub fn records(&self) -> impl Iterator<Item = Result<RecordRef<'_>, Error>> {
        self.batches().flat_map(|block| {
            let (block, error) = match block {
                Ok(block) => (Some(block), None),
                Err(error) => (None, Some(Err(error))),
            };
            let records = block.into_iter().flat_map(|block| {
                block.records().zip(0..).map(move |(encoded, index)| {
                    let offset = block.first.plus(index);
                    RecordRef::parse(offset, block.time(), encoded).map_err(|why| damaged(offset, why))
                })
            });
            records.chain(error)
        })
    }
}
