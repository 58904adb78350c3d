//! Writing that waits for the tasks that are ready, once. The runtime may run a connection right after each call that
//! answers on it; what several calls answer then goes out with one system call instead of one each.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::forward;

/// Stream that lets the tasks that are ready run before it writes.
#[derive(Debug)]
pub(in crate::server) struct CoalescedWrite<S> {
    stream: S,
    state: State,
}

/// Progress of one turn's writing. h2 reads until nothing is left, then writes; so a read that finds nothing marks the
/// beginning of a poll of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No write was tried yet.
    Idle,
    /// A write was put off: the connection's task was queued behind those that were ready.
    Yielded,
    /// This poll writes.
    Writing,
}

impl State {
    const fn next_poll(self) -> Self {
        match self {
            Self::Yielded => Self::Writing,
            Self::Idle | Self::Writing => Self::Idle,
        }
    }
}

impl<S> CoalescedWrite<S> {
    /// Coalesces what is written to the stream.
    pub(in crate::server) const fn new(stream: S) -> Self {
        Self { stream, state: State::Idle }
    }

    /// Yields to the tasks that are ready, once a turn.
    fn poll_yielded(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.state != State::Idle {
            return Poll::Ready(());
        }
        self.state = State::Yielded;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescedWrite<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() {
            self.state = self.state.next_poll();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescedWrite<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_yielded(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        ready!(self.poll_yielded(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    forward!(is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use super::CoalescedWrite;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    #[tokio::test]
    async fn each_poll_that_writes_yields_first() {
        let (ours, _theirs) = tokio::io::duplex(1 << 10);
        let mut stream = pin!(CoalescedWrite::new(ours));
        let cx = &mut Context::from_waker(Waker::noop());
        let mut buffer = [0; 8];
        for turn in 0..3 {
            let read = stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut buffer));
            assert!(read.is_pending(), "turn {turn}");
            assert!(stream.as_mut().poll_write(cx, b"x").is_pending(), "turn {turn}");
            assert!(stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut buffer)).is_pending());
            for _ in 0..2 {
                let written = stream.as_mut().poll_write(cx, b"x");
                assert!(matches!(written, Poll::Ready(Ok(1))), "turn {turn}");
            }
        }
    }
}
