//! A connection that is closed so that the peer reads what it was sent last. A socket closed with
//! unread bytes sends a reset, and a peer still publishing then fails on its next write, receipts
//! and status unread in its own buffer. So: end our side, then drop what comes until the peer ends.
//! What was read ahead of the connection is given back here first, and a bounded amount is read at a
//! turn, then the runtime's other tasks have theirs: what was read ahead of the calls of a connection is
//! kept, frame by frame, and h2 ends a connection on which too many small ones are. Writing waits for
//! the tasks that are ready, once: what they answer then goes out with one system call, not each by
//! itself, as the runtime would else run the connection right after every answer.
//! Never: waits longer than a second for the peer's end.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::preface::Ahead;

/// A round trip and what is under way, generously.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes read at a turn. Frames of one byte take ten: some 6,500, where h2 takes 32,000 at the default
/// window of a connection.
const TURN_BYTES: usize = 64 << 10;
/// Bytes dropped at a time.
const DISCARD: usize = 4096;

/// A stream that is read in turns, written once the ready tasks had theirs, and whose shutdown lingers.
#[derive(Debug)]
pub(super) struct Lingering<S> {
    stream: S,
    ahead: Ahead,
    /// Bytes of `ahead` given back already.
    given: usize,
    /// Bytes read at this turn.
    read: usize,
    writing: Writing,
    /// Set once our side has ended.
    until: Option<Pin<Box<Sleep>>>,
}

/// How far this turn's writing is. h2 reads until nothing is left, then writes; so a read that finds
/// nothing begins a poll of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// What there is to write waits for company.
    Gathering,
    /// It has waited: the connection was put behind the tasks that were ready.
    Waited,
    /// The poll that writes.
    Open,
}

impl Writing {
    const fn next_poll(self) -> Self {
        match self {
            Self::Waited => Self::Open,
            Self::Gathering | Self::Open => Self::Gathering,
        }
    }
}

impl<S> Lingering<S> {
    pub(super) const fn new(stream: S, ahead: Ahead) -> Self {
        Self { stream, ahead, given: 0, read: 0, writing: Writing::Gathering, until: None }
    }

    /// Lets the tasks that are ready go first, once a turn.
    fn poll_gathered(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.writing != Writing::Gathering {
            return Poll::Ready(());
        }
        self.writing = Writing::Waited;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let left = &self.ahead.bytes()[self.given..];
        if !left.is_empty() {
            let len = left.len().min(buf.remaining());
            buf.put_slice(&left[..len]);
            self.given += len;
            return Poll::Ready(Ok(()));
        }
        if self.read >= TURN_BYTES {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.read = if polled.is_pending() { 0 } else { self.read + read };
        if polled.is_pending() {
            self.writing = self.writing.next_poll();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.until.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let until = this.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; DISCARD];
            let mut dropped = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut dropped));
            if read.is_err() || dropped.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ahead, Lingering};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    #[tokio::test]
    async fn each_poll_that_writes_lets_the_others_go_first() {
        let (ours, _theirs) = tokio::io::duplex(1 << 10);
        let mut stream = pin!(Lingering::new(ours, Ahead::default()));
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
