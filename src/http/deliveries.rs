//! The body of an answer that reads or follows a topic. As in the bodies of gRPC, a frame is made only while the peer has
//! little unread, and the rest of a delivery that a slow peer has not taken is dropped when memory is short and read from
//! the log again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tonic::Status;

use super::encoder::{Cursor, Encoder};
use super::problem::Problem;
use super::shared::{Shared, SharedTopic};
use crate::json::Place;
use crate::record::block::{Block, Blocks, runs_starting_at};
use crate::record::walk::Malformed;
use crate::record::{Offset, Position};
use crate::service::Follow;
use crate::storage::{self, BoxFuture};
use crate::topic::{Delivery, FRAME_MAX, Notice, Pieces, Remainder, StoredRange, UnreadFrames};

/// Size up to which what is ready is sent together.
const COALESCED_MAX: usize = 32 << 10;

/// Notices and heartbeats that an answer has beside records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It ends at a limit, and says only what was left out.
    Limit,
    /// It follows the topic, and says all.
    Followed,
}

/// Body of an answer.
pub struct Deliveries {
    follow: Follow,
    unread: UnreadFrames,
    encoder: Encoder,
    shared: SharedTopic,
    until: Until,
    /// Bytes that come before the first delivery.
    beginning: Option<BytesMut>,
    unsent: Option<Box<Unsent>>,
    ended: bool,
    /// Reason for which the answer is cut off.
    failure: Option<Status>,
}

/// Rest of a delivery.
struct Unsent {
    /// Place of the rest; it starts at the next record to send.
    source: StoredRange,
    /// Place in the text of that record.
    within: Place,
    /// The pieces that are kept are in buffers of their own.
    is_copied: bool,
    remainder: Remainder,
    reread: Option<BoxFuture<'static, Result<Vec<Bytes>, storage::Error>>>,
    next: Position,
    tail: Offset,
    notice: Option<Notice>,
}

impl Unsent {
    /// Keeps what follows a place.
    fn store(&mut self, at: Cursor, runs: &[Bytes]) -> Result<(), Malformed> {
        (self.source.from, self.within) = (at.offset, at.within);
        let mut rest = runs_starting_at(runs, at.offset)?;
        let bytes = rest.iter().map(Bytes::len).sum();
        if !self.is_copied && bytes <= FRAME_MAX {
            // A run may be a slice of a much larger buffer.
            rest.iter_mut().for_each(|run| *run = Bytes::copy_from_slice(run));
            self.is_copied = true;
        }
        self.remainder.put(Pieces::from(rest), bytes);
        Ok(())
    }
}

impl Deliveries {
    /// Makes the body of a subscription.
    #[must_use]
    pub fn new(follow: Follow, encoder: Encoder, shared: &Shared, until: Until) -> Self {
        let position = follow.position();
        let mut beginning = BytesMut::new();
        encoder.begin(position, &mut beginning);
        Self {
            unread: follow.unread(),
            shared: shared.of(position.epoch, encoder),
            follow,
            encoder,
            until,
            beginning: Some(beginning),
            unsent: None,
            ended: false,
            failure: None,
        }
    }

    /// Writes a delivery, or the part of it that fits.
    fn put(&mut self, delivery: Delivery, room: usize, out: &mut BytesMut) -> Result<(), Malformed> {
        let Delivery { runs, next, tail, notice } = delivery;
        if runs.is_empty() {
            match notice {
                Some(_) => self.put_notice(notice, next, tail, out),
                None if self.until == Until::Followed => {
                    self.shared.clear();
                    self.encoder.heartbeat(next, tail, out);
                }
                None => {}
            }
            return Ok(());
        }
        let from = Blocks::new(&runs[0]).next().transpose()?.map_or(next.offset, |block| block.first);
        let source = StoredRange { log: self.follow.log(), from, to: next.offset };
        let remainder = self.unread.remainder();
        let (within, is_copied) = (Place::default(), false);
        let mut unsent =
            Box::new(Unsent { source, within, is_copied, remainder, reread: None, next, tail, notice });
        if !self.put_records(&mut unsent, &runs, room, out)? {
            self.unsent = Some(unsent);
        }
        Ok(())
    }

    /// Writes records of a delivery. Returns true if those were the last ones; else the rest is stored.
    fn put_records(
        &self,
        unsent: &mut Unsent,
        runs: &[Bytes],
        room: usize,
        out: &mut BytesMut,
    ) -> Result<bool, Malformed> {
        let from = Cursor { offset: unsent.source.from, within: unsent.within };
        for block in runs.iter().flat_map(|run| Blocks::new(run)) {
            let block = block?;
            let end = block.first.plus(block.count());
            let mut at = if block.first > from.offset { Cursor::before(block.first) } else { from };
            if at.offset < end && out.len() < room {
                at = self.put_block(&block, at, room, out)?;
            }
            if at.offset < end && at.offset < unsent.source.to {
                unsent.store(at, runs)?;
                return Ok(false);
            }
        }
        self.put_notice(unsent.notice, unsent.next, unsent.tail, out);
        Ok(true)
    }

    /// Writes records of a batch. Returns the place at which to go on.
    fn put_block(
        &self,
        block: &Block<'_>,
        from: Cursor,
        room: usize,
        out: &mut BytesMut,
    ) -> Result<Cursor, Malformed> {
        if !from.is_within() {
            let at = self.shared.put(block, from.offset, room, out)?;
            if at > from.offset {
                return Ok(Cursor::before(at));
            }
        }
        self.encoder.block(self.follow.position().epoch, (block, from), room, out)
    }

    fn put_notice(&self, notice: Option<Notice>, next: Position, tail: Offset, out: &mut BytesMut) {
        let Some(notice) = notice else { return };
        if self.until == Until::Followed || notice != Notice::CaughtUp {
            self.encoder.notice(notice, next, tail, out);
        }
    }

    /// Writes more of the delivery that was not sent whole.
    fn poll_unsent(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        out: &mut BytesMut,
    ) -> Poll<Result<(), storage::Error>> {
        let Some(mut unsent) = self.unsent.take() else { return Poll::Ready(Ok(())) };
        let runs = match unsent.remainder.take() {
            Some(pieces) => Vec::from(pieces),
            None => {
                let source = &unsent.source;
                let reread = unsent.reread.get_or_insert_with(|| Box::pin(source.clone().read()));
                match reread.as_mut().poll(cx) {
                    Poll::Ready(runs) => {
                        (unsent.reread, unsent.is_copied) = (None, false);
                        runs?
                    }
                    Poll::Pending => {
                        self.unsent = Some(unsent);
                        return Poll::Pending;
                    }
                }
            }
        };
        let is_whole = self.put_records(&mut unsent, &runs, room, out);
        let is_whole = is_whole.map_err(|Malformed(why)| storage::Error::Damaged(why.to_owned()))?;
        self.unsent = (!is_whole).then_some(unsent);
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, problem: &Problem, next: Position, out: &mut BytesMut) {
        self.encoder.problem(problem, Some(next), out);
        (self.ended, self.unsent) = (true, None);
    }

    fn fail_with(&mut self, error: storage::Error, next: Position, out: &mut BytesMut) {
        let topic = self.follow.log().name().as_str().to_owned();
        let context =
            crate::service::status::Context { resume: Some(next), topic: Some(topic), ..Default::default() };
        self.fail(&Problem::of(&error.into(), &context), next, out);
    }

    /// Writes more of the delivery that was not sent whole, or why that fails.
    fn poll_rest(&mut self, cx: &mut Context<'_>, room: usize, out: &mut BytesMut) -> Poll<()> {
        let Some(unsent) = &self.unsent else { return Poll::Ready(()) };
        let from = Position { offset: unsent.source.from, ..unsent.next };
        let is_within = unsent.within != Place::default();
        match ready!(self.poll_unsent(cx, room, out)) {
            Ok(()) => {}
            // What follows a part of a record would be read as its rest, and the event as whole.
            Err(error) if is_within => {
                let failed = crate::service::status::status(&error.into(), &Default::default());
                (self.failure, self.ended, self.unsent) = (Some(failed), true, None);
            }
            Err(error) => self.fail_with(error, from, out),
        }
        Poll::Ready(())
    }

    /// Writes what is ready. Pending if there is nothing.
    fn poll_write(&mut self, cx: &mut Context<'_>, room: usize, out: &mut BytesMut) -> Poll<()> {
        if self.unsent.is_some() {
            return self.poll_rest(cx, room, out);
        }
        let before = self.follow.position();
        match ready!(self.follow.poll_next(cx)) {
            Some(Ok(delivery)) => {
                if let Err(Malformed(why)) = self.put(delivery, room, out) {
                    self.fail_with(storage::Error::Damaged(why.to_owned()), before, out);
                }
            }
            Some(Err(status)) => self.fail(&Problem::from(&status), self.follow.position(), out),
            None => {
                self.encoder.end(self.follow.position(), out);
                self.ended = true;
            }
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Deliveries {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(this.failure.take().map(Err));
        }
        let room = ready!(this.unread.poll_room(cx));
        let mut out = this.beginning.take().unwrap_or_default();
        // Half the room is enough: what is left would be filled with a part of a record.
        while !this.ended && out.len() < COALESCED_MAX.min(room / 2) {
            if this.poll_write(cx, room, &mut out).is_pending() {
                break;
            }
        }
        if out.is_empty() {
            return if this.ended { Poll::Ready(this.failure.take().map(Err)) } else { Poll::Pending };
        }
        Poll::Ready(Some(Ok(Frame::data(this.unread.frame(out)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.failure.is_none()
    }
}
