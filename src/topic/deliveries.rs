//! What answers keep in memory until their peers have read them: frames handed to the transport, the rest of messages
//! too large for one, receipts not taken yet. Each is counted, for its connection and for the server. Where too much is
//! kept, frames become small, windows of publishes too, and the rests untouched for longest are dropped and read from
//! the log again once their peers go on. So a peer that does not read costs little, ends nobody, and slows no other:
//! those that read keep a frame for as long as it takes to send it.
//! Never: drops what cannot be had again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;

use super::limit;
use crate::record::{Offset, block};
use crate::storage::{Error, TopicLog};

/// Largest frame: two deliveries of the usual size.
pub const FRAME_MAX: usize = 160 << 10;
/// A call that has this much unread makes no other frame.
const AHEAD: usize = 64 << 10;
/// Largest frame where too much is unread already, made only once the one before it was read.
const FRAME_MIN: usize = 8 << 10;
/// One connection may have a part in so many of what all may have unread, before its frames become small.
const CONNECTION_SHARE: usize = 4;
/// Bytes a publish takes that is not acknowledged, or whose receipt is not taken.
const RECEIPT: usize = 64;
/// Publishes of one call not acknowledged yet, where too many receipts are not taken.
const WINDOW_MIN: usize = 256;
/// Bytes read at once where blocks are read again.
const AGAIN_BYTES: usize = 256 << 10;

/// Bytes of one part of the budget.
#[derive(Debug)]
struct Part {
    held: AtomicUsize,
    most: usize,
}

impl Part {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most })
    }

    fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.most
    }

    fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A handle to the budget, or to a connection's part of it.
#[derive(Clone, Debug)]
pub struct Deliveries {
    frames: Arc<Part>,
    connection: Arc<Part>,
    receipts: Arc<Part>,
    rests: Arc<Rests>,
}

impl Deliveries {
    /// A budget of so many bytes: half for frames, three eighths for rests, one for receipts.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let eighth = (bytes_max / 8).max(1);
        let frames = Part::new(4 * eighth);
        let rests = Arc::new(Rests { kept: Mutex::default(), most: 3 * eighth });
        Self { connection: Arc::clone(&frames), frames, receipts: Part::new(eighth), rests }
    }

    /// A connection's part.
    #[must_use]
    pub fn of_connection(&self) -> Self {
        Self { connection: Part::new(self.frames.most / CONNECTION_SHARE), ..self.clone() }
    }

    /// The part of one call.
    #[must_use]
    pub fn unread(&self) -> Unread {
        Unread(Arc::new(Call { held: AtomicUsize::new(0), waker: AtomicWaker::new(), all: self.clone() }))
    }

    /// The receipts of one call.
    #[must_use]
    pub fn receipts(&self) -> Receipts {
        Receipts { all: self.clone(), held: 0 }
    }

    /// Whether so much is unread that frames are small.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.frames.is_full() || self.connection.is_full()
    }

    /// Bytes counted now, of all connections.
    #[must_use]
    pub fn held(&self) -> usize {
        let rests = self.rests.lock().bytes;
        self.frames.held.load(Ordering::Relaxed) + self.receipts.held.load(Ordering::Relaxed) + rests
    }
}

/// The frames of one call.
#[derive(Clone, Debug)]
pub struct Unread(Arc<Call>);

#[derive(Debug)]
struct Call {
    held: AtomicUsize,
    /// Of the call, while it waits for its peer to read.
    waker: AtomicWaker,
    all: Deliveries,
}

impl Call {
    fn room(&self) -> Option<usize> {
        let held = self.held.load(Ordering::Acquire);
        match self.all.is_tight() {
            false => (held < AHEAD).then_some(FRAME_MAX),
            true => (held == 0).then_some(FRAME_MIN),
        }
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.frames.take(bytes);
        if !Arc::ptr_eq(&self.all.frames, &self.all.connection) {
            self.all.connection.take(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Release);
        self.all.frames.give_back(bytes);
        if !Arc::ptr_eq(&self.all.frames, &self.all.connection) {
            self.all.connection.give_back(bytes);
        }
        self.waker.wake();
    }
}

/// A frame on its way.
struct Sent {
    bytes: BytesMut,
    held: usize,
    call: Arc<Call>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.call.give_back(self.held);
    }
}

impl Unread {
    /// Bytes the next frame may have; pending while the peer has enough to read.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        if let Some(room) = self.0.room() {
            return Poll::Ready(room);
        }
        self.0.waker.register(cx.waker());
        // What was read before that woke nobody.
        self.0.room().map_or(Poll::Pending, Poll::Ready)
    }

    /// The frame, counted until the transport is done with it.
    #[must_use]
    pub fn frame(&self, bytes: BytesMut) -> Bytes {
        let held = bytes.capacity();
        self.0.add(held);
        Bytes::from_owner(Sent { bytes, held, call: Arc::clone(&self.0) })
    }

    /// A place for the rest of a message.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept { rests: Arc::clone(&self.0.all.rests), ticket: None, pieces: VecDeque::new() }
    }
}

/// What the publishes of one call keep until its peer takes their receipts.
#[derive(Debug)]
pub struct Receipts {
    all: Deliveries,
    held: usize,
}

impl Receipts {
    /// So many publishes are not acknowledged, or their receipts not taken.
    pub fn set(&mut self, publishes: usize) {
        let held = publishes * RECEIPT;
        match held.checked_sub(self.held) {
            Some(0) => {}
            Some(more) => self.all.receipts.take(more),
            None => self.all.receipts.give_back(self.held - held),
        }
        self.held = held;
    }

    /// How many publishes may be under way now, of a window.
    #[must_use]
    pub fn window(&self, asked: usize) -> usize {
        if self.all.receipts.is_full() { asked.min(WINDOW_MIN) } else { asked }
    }

    /// Whether messages must be small.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.all.is_tight()
    }
}

impl Drop for Receipts {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes in order, a few pieces of them.
pub type Pieces = VecDeque<Bytes>;

/// The rests that can be had again.
#[derive(Debug)]
struct Rests {
    kept: Mutex<ByAge>,
    most: usize,
}

#[derive(Debug, Default)]
struct ByAge {
    next: u64,
    bytes: usize,
    rests: BTreeMap<u64, (usize, Pieces)>,
}

impl Rests {
    fn lock(&self) -> MutexGuard<'_, ByAge> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, pieces: Pieces, bytes: usize) -> u64 {
        let mut dropped = Vec::new();
        let mut kept = self.lock();
        kept.bytes += bytes;
        while kept.bytes > self.most {
            let Some((_, (bytes, pieces))) = kept.rests.pop_first() else { break };
            kept.bytes -= bytes;
            dropped.push(pieces);
        }
        let ticket = kept.next;
        kept.next += 1;
        kept.rests.insert(ticket, (bytes, pieces));
        drop(kept);
        // Freeing takes its time; nobody waits for it.
        drop(dropped);
        ticket
    }

    fn take(&self, ticket: u64) -> Option<Pieces> {
        let mut kept = self.lock();
        let (bytes, pieces) = kept.rests.remove(&ticket)?;
        kept.bytes -= bytes;
        Some(pieces)
    }
}

/// The rest of one message.
#[derive(Debug)]
pub struct Kept {
    rests: Arc<Rests>,
    ticket: Option<u64>,
    /// What cannot be had again.
    pieces: Pieces,
}

impl Kept {
    /// Keeps the rest of a message that can be had again. Its pieces keep `bytes` in memory, whatever is left of them.
    pub fn put(&mut self, pieces: Pieces, bytes: usize) {
        self.forget();
        self.ticket = Some(self.rests.put(pieces, bytes));
    }

    /// Keeps the rest of a message that cannot.
    pub fn put_for_good(&mut self, pieces: Pieces) {
        self.forget();
        self.pieces = pieces;
    }

    /// What was kept; none where it was dropped meanwhile.
    pub fn take(&mut self) -> Option<Pieces> {
        match self.ticket.take() {
            Some(ticket) => self.rests.take(ticket),
            None if self.pieces.is_empty() => None,
            None => Some(std::mem::take(&mut self.pieces)),
        }
    }

    fn forget(&mut self) {
        drop(self.take());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Where blocks that were delivered are stored.
#[derive(Clone)]
pub struct Source {
    /// Their topic.
    pub log: Arc<dyn TopicLog>,
    /// Offset of the first record.
    pub from: Offset,
    /// The offset after the last.
    pub to: Offset,
}

impl Source {
    /// The same blocks once more.
    ///
    /// # Errors
    /// They are no longer there.
    pub async fn read(self) -> Result<Vec<Bytes>, Error> {
        let malformed = |what: crate::record::walk::Malformed| Error::Damaged(what.0.to_owned());
        let (mut runs, mut at) = (Vec::new(), self.from);
        while at < self.to {
            let chunk = self.log.read(at, AGAIN_BYTES).await?;
            if chunk.runs.is_empty() || chunk.next <= at {
                return Err(Error::Damaged("what was delivered in part is no longer there".to_owned()));
            }
            let mut read = if chunk.first < at {
                limit::starting_at(&chunk.runs, at).map_err(malformed)?
            } else {
                chunk.runs
            };
            if chunk.next > self.to {
                let cut: Result<Vec<_>, _> = read.iter().map(|run| block::ending_at(run, self.to)).collect();
                read = cut.map_err(malformed)?.into_iter().flatten().collect();
            }
            runs.extend(read);
            at = chunk.next;
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD, Deliveries, FRAME_MAX, FRAME_MIN, Pieces, WINDOW_MIN};
    use bytes::{Bytes, BytesMut};
    use std::task::{Context, Poll, Waker};

    fn frame(len: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(len);
        bytes.resize(len, 7);
        bytes
    }

    fn pieces(len: usize) -> Pieces {
        [Bytes::from(vec![7; len])].into()
    }

    #[test]
    fn frames_are_small_while_much_is_unread_and_one_at_a_time() {
        let cx = &Context::from_waker(Waker::noop());
        let all = Deliveries::new(8 << 20);
        let (first, second) = (all.of_connection(), all.of_connection());
        let stuck: Vec<_> = (0..8).map(|_| first.unread()).collect();
        let mut held: Vec<Bytes> = Vec::new();
        for call in &stuck {
            assert!(call.poll_room(cx).is_ready());
            held.push(call.frame(frame(FRAME_MAX)));
            assert!(call.poll_room(cx).is_pending(), "{AHEAD} are unread");
        }
        // That connection has its part unread; another has not.
        let (late, other) = (first.unread(), second.unread());
        assert_eq!(
            (late.poll_room(cx), other.poll_room(cx)),
            (Poll::Ready(FRAME_MIN), Poll::Ready(FRAME_MAX))
        );
        held.push(late.frame(frame(10)));
        assert!(late.poll_room(cx).is_pending(), "one at a time");
        assert_eq!(all.held(), 8 * FRAME_MAX + 10);
        held.clear();
        assert_eq!((all.held(), late.poll_room(cx)), (0, Poll::Ready(FRAME_MAX)));
    }

    #[tokio::test]
    async fn a_call_goes_on_once_its_peer_has_read() {
        let all = Deliveries::new(8 << 20);
        let call = all.unread();
        let held = call.frame(frame(AHEAD));
        let mut room = tokio_test_room(&call);
        assert!(futures_util::poll!(&mut room).is_pending());
        drop(held);
        assert_eq!(room.await, FRAME_MAX);
    }

    fn tokio_test_room(call: &super::Unread) -> std::pin::Pin<Box<impl Future<Output = usize>>> {
        Box::pin(std::future::poll_fn(|cx| call.poll_room(cx)))
    }

    #[test]
    fn the_rest_untouched_for_longest_is_dropped_and_what_cannot_be_had_again_is_not() {
        let all = Deliveries::new(8 << 10);
        let call = all.unread();
        let mut kept: Vec<_> = (0..4).map(|_| call.kept()).collect();
        kept[0].put_for_good(pieces(5000));
        for kept in &mut kept[1..3] {
            kept.put(pieces(1), 1000);
        }
        // The first goes on, so that the second is the one untouched for longest.
        let rest = kept[1].take().expect("kept");
        kept[1].put(rest, 1000);
        kept[3].put(pieces(1), 1500);
        let left: Vec<_> = kept.iter_mut().map(|kept| kept.take().is_some()).collect();
        assert_eq!(left, [true, true, false, true]);
        kept[1].put(pieces(1), 9000);
        assert!(kept[1].take().is_some(), "one alone is kept whatever its size");
        kept[2].put(pieces(1), 10);
        drop(kept);
        assert_eq!(all.held(), 0);
    }

    #[test]
    fn windows_shrink_while_many_receipts_are_not_taken() {
        let all = Deliveries::new(8 * 64 * 1000);
        let (mut first, second) = (all.receipts(), all.receipts());
        first.set(999);
        assert_eq!(second.window(16_384), 16_384);
        first.set(1000);
        assert_eq!((second.window(16_384), second.window(10)), (WINDOW_MIN, 10));
        first.set(3);
        assert_eq!((all.held(), second.window(16_384)), (3 * 64, 16_384));
        drop(first);
        assert_eq!(all.held(), 0);
    }
}
