//! Closing a connection so that the peer reads what it was sent last. A socket that is closed with unread bytes sends
//! a reset, and a peer that still publishes then fails on its next write, with receipts and status unread in its own
//! buffer. So our side is shut down first, and what comes is discarded until the peer has closed its side too.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::forward::forward;

/// Longest wait for the peer to close: generous for a round trip and for what is on the way.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Bytes discarded at a time.
const DISCARD_BYTES: usize = 4096;

/// Stream whose shutdown waits for the peer to close, for [`LINGER_MAX`] at most.
#[derive(Debug)]
pub(in crate::server) struct LingeringClose<S> {
    stream: S,
    /// Set once our side is shut down.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> LingeringClose<S> {
    /// Makes the stream's shutdown linger.
    pub(in crate::server) const fn new(stream: S) -> Self {
        Self { stream, deadline: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringClose<S> {
    forward!(poll_read);
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringClose<S> {
    forward!(poll_write, poll_flush);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.deadline.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_MAX)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; DISCARD_BYTES];
            let mut discarded = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut discarded));
            if read.is_err() || discarded.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LingeringClose;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_waits_for_the_peer_but_not_for_ever() {
        for closes in [true, false] {
            let (ours, mut theirs) = tokio::io::duplex(16);
            let mut ours = LingeringClose::new(ours);
            let peer = async {
                theirs.write_all(&[7; 100]).await.unwrap();
                assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0, "our side is shut down first");
                if closes {
                    theirs.shutdown().await.unwrap();
                }
            };
            let began = tokio::time::Instant::now();
            let (closed, ()) = tokio::join!(ours.shutdown(), peer);
            closed.unwrap();
            assert_eq!(began.elapsed().is_zero(), closes);
        }
    }
}
