//! Reading that yields to the runtime's other tasks. h2 reads a connection for as long as there are bytes, and queues
//! what comes for each call frame by frame until that call's task runs; it ends a connection on which too many small
//! frames are queued. With a bounded amount read at a turn, the calls take their frames in between.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::forward;

/// Bytes read before the other tasks have their turn. A frame with one byte of data takes ten, which makes some 6,500
/// frames; h2 takes 32,000 at the default window of a connection.
const TURN_BYTES: usize = 64 << 10;

/// Stream that reads a bounded amount, then yields once.
#[derive(Debug)]
pub(in crate::server) struct FairRead<S> {
    stream: S,
    /// Bytes read at this turn.
    read: usize,
}

impl<S> FairRead<S> {
    /// Bounds what is read from the stream at a turn.
    pub(in crate::server) const fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FairRead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.read >= TURN_BYTES {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.read = if polled.is_pending() { 0 } else { self.read + read };
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FairRead<S> {
    forward!(poll_write, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use super::{FairRead, TURN_BYTES};
    use std::pin::pin;
    use std::task::{Context, Waker};
    use tokio::io::{AsyncRead, ReadBuf};

    #[test]
    fn reading_yields_after_a_bounded_amount() {
        let mut stream = pin!(FairRead::new(tokio::io::repeat(7)));
        let cx = &mut Context::from_waker(Waker::noop());
        let mut buffer = vec![0; TURN_BYTES / 2];
        let mut is_ready = || stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut buffer)).is_ready();
        let polls: Vec<bool> = (0..6).map(|_| is_ready()).collect();
        assert_eq!(polls, [true, true, false, true, true, false]);
    }
}
