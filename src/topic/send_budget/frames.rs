//! The frames of one call that its peer has not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;

use super::budget::SendBudget;
use super::remainders::Remainder;

/// Largest frame, in bytes: two deliveries of the usual size.
pub const FRAME_MAX: usize = 160 << 10;
/// Unread bytes of a call above which it produces no further frame.
const UNREAD_MAX: usize = 64 << 10;
/// Largest frame while the budget is tight, in bytes. A call then produces a frame only after its peer has read
/// the one before it.
const TIGHT_FRAME_MAX: usize = 8 << 10;

/// A counter of one call's unread frames.
#[derive(Clone, Debug)]
pub struct UnreadFrames(Arc<Call>);

#[derive(Debug)]
struct Call {
    unread: AtomicUsize,
    /// Wakes the call when its peer has read a frame.
    waker: AtomicWaker,
    budget: SendBudget,
}

impl Call {
    fn room(&self) -> Option<usize> {
        let unread = self.unread.load(Ordering::Acquire);
        match self.budget.is_tight() {
            false => (unread < UNREAD_MAX).then_some(FRAME_MAX),
            true => (unread == 0).then_some(TIGHT_FRAME_MAX),
        }
    }
}

/// A frame that the transport owns.
struct Sent {
    bytes: BytesMut,
    /// Bytes counted for this frame: the capacity it had when it was sent.
    counted: usize,
    call: Arc<Call>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.call.unread.fetch_sub(self.counted, Ordering::Release);
        self.call.budget.release_frame(self.counted);
        self.call.waker.wake();
    }
}

impl UnreadFrames {
    /// A counter for a new call on a connection with this budget.
    #[must_use]
    pub fn new(budget: &SendBudget) -> Self {
        let (unread, waker) = (AtomicUsize::new(0), AtomicWaker::new());
        Self(Arc::new(Call { unread, waker, budget: budget.clone() }))
    }

    /// Returns the largest size of the next frame; pending while the peer has enough to read.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        if let Some(room) = self.0.room() {
            return Poll::Ready(room);
        }
        self.0.waker.register(cx.waker());
        // A frame that was read before the registration woke nobody.
        self.0.room().map_or(Poll::Pending, Poll::Ready)
    }

    /// Makes a frame that is counted as unread until the transport drops it.
    #[must_use]
    pub fn frame(&self, bytes: BytesMut) -> Bytes {
        let counted = bytes.capacity();
        self.0.unread.fetch_add(counted, Ordering::Relaxed);
        self.0.budget.add_frame(counted);
        Bytes::from_owner(Sent { bytes, counted, call: Arc::clone(&self.0) })
    }

    /// An empty slot for the remainder of a message.
    #[must_use]
    pub fn remainder(&self) -> Remainder {
        Remainder::new(Arc::clone(&self.0.budget.remainders))
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_MAX, SendBudget, TIGHT_FRAME_MAX, UNREAD_MAX, UnreadFrames};
    use bytes::{Bytes, BytesMut};
    use std::task::{Context, Poll, Waker};

    fn frame(len: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(len);
        bytes.resize(len, 7);
        bytes
    }

    #[test]
    fn frames_are_small_and_sent_one_at_a_time_while_much_is_unread() {
        let cx = &Context::from_waker(Waker::noop());
        let budget = SendBudget::new(8 << 20);
        let (first, second) = (budget.for_connection(), budget.for_connection());
        let stuck: Vec<_> = (0..8).map(|_| UnreadFrames::new(&first)).collect();
        let mut unread: Vec<Bytes> = Vec::new();
        for call in &stuck {
            assert!(call.poll_room(cx).is_ready());
            unread.push(call.frame(frame(FRAME_MAX)));
            assert!(call.poll_room(cx).is_pending(), "more than {UNREAD_MAX} bytes are unread");
        }
        // The first connection has used up its part; the second has not.
        let (late, other) = (UnreadFrames::new(&first), UnreadFrames::new(&second));
        assert_eq!(
            (late.poll_room(cx), other.poll_room(cx)),
            (Poll::Ready(TIGHT_FRAME_MAX), Poll::Ready(FRAME_MAX))
        );
        unread.push(late.frame(frame(10)));
        assert!(late.poll_room(cx).is_pending(), "one frame at a time");
        assert_eq!(budget.used(), 8 * FRAME_MAX + 10);
        unread.clear();
        assert_eq!((budget.used(), late.poll_room(cx)), (0, Poll::Ready(FRAME_MAX)));
    }

    #[tokio::test]
    async fn a_call_continues_once_its_peer_has_read() {
        let call = UnreadFrames::new(&SendBudget::new(8 << 20));
        let unread = call.frame(frame(UNREAD_MAX));
        let mut room = Box::pin(std::future::poll_fn(|cx| call.poll_room(cx)));
        assert!(futures_util::poll!(&mut room).is_pending());
        drop(unread);
        assert_eq!(room.await, FRAME_MAX);
    }
}
