//! A TCP connection whose long writes of one turn go out together. h2 writes a long answer in frames of
//! 16 KiB, one system call each, and each would be a segment, an acknowledgement and a wake of its own;
//! held back until the turn is over, they fill segments of 64 KiB.
//! Never: holds anything back beyond the turn.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_cork, set_tcp_user_timeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// How long a peer may leave what it was sent unread or unacknowledged, until the system ends the connection: TCP alone
/// keeps one for ever whose peer only says, again and again, that it has no room. A peer that answers pings reads.
pub(super) fn cut_off_after(stream: &TcpStream, patience: Duration) {
    let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    // A system that cannot leaves it to the end of the process, as before.
    let _ = set_tcp_user_timeout(stream, patience);
}

/// A write as long as this is one of several, most likely.
const LONG: usize = 8 << 10;

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Socket {
    read: OwnedReadHalf,
    write: Turn,
}

/// The writes of one turn of a connection.
#[derive(Clone, Debug)]
pub(super) struct Turn(Arc<Mutex<Writing>>);

#[derive(Debug)]
struct Writing {
    half: OwnedWriteHalf,
    held_back: bool,
}

impl Writing {
    /// A socket that cannot has its writes go out one by one.
    fn hold_back(&mut self, held_back: bool) {
        if self.held_back != held_back {
            self.held_back = set_tcp_cork(self.half.as_ref(), held_back).is_ok() && held_back;
        }
    }
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go what was written.
    pub(super) fn end(&self) {
        self.lock().hold_back(false);
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (read, half) = stream.into_split();
        Self { read, write: Turn(Arc::new(Mutex::new(Writing { half, held_back: false }))) }
    }

    /// To be ended whenever what writes has had its turn.
    pub(super) fn turn(&self) -> Turn {
        self.write.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let mut writing = self.write.lock();
        if bytes.iter().map(|slice| slice.len()).sum::<usize>() >= LONG {
            writing.hold_back(true);
        }
        Pin::new(&mut writing.half).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut writing = self.write.lock();
        writing.hold_back(false);
        Pin::new(&mut writing.half).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{LONG, Socket, Turn};
    use rustix::net::sockopt::tcp_cork;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn long_writes_are_held_back_until_the_turn_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (Socket::new(ours.unwrap()), theirs.unwrap().0);
        let is_held_back = |turn: &Turn| tcp_cork(turn.lock().half.as_ref()).unwrap();
        let turn = ours.turn();
        ours.write_all(&[0; 100]).await.unwrap();
        assert!(!is_held_back(&turn), "short");
        ours.write_all(&[0; LONG]).await.unwrap();
        assert!(is_held_back(&turn), "long");
        turn.end();
        assert!(!is_held_back(&turn), "ended");
        ours.write_all(&[0; LONG]).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 100 + 2 * LONG);
    }
}
