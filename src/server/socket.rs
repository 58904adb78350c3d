//! A TCP connection whose long writes of one turn go out together, and which ends once its peer is gone. h2
//! writes a long answer in frames of 16 KiB, one system call each, and each would be a segment, an
//! acknowledgement and a wake of its own; held back until the turn is over, they fill segments of 64 KiB.
//! Never: holds anything back beyond the turn.

use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_cork, set_tcp_user_timeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Sleep, sleep};

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
    liveness: Liveness,
}

/// Whether the peer is there: it sends anything, or makes room for what is sent to it. The answer to a ping is not
/// waited for by itself: a ping to a peer that reads slowly is behind all that it has yet to read.
#[derive(Debug)]
struct Liveness {
    patience: Duration,
    /// When the peer last showed that it is there.
    last: Instant,
    /// There is nothing to be read.
    waiting: bool,
    /// There is no room for what is to be sent.
    full: bool,
    timer: Pin<Box<Sleep>>,
}

impl Liveness {
    fn new(patience: Duration) -> Self {
        let timer = Box::pin(sleep(patience));
        Self { patience, last: Instant::now(), waiting: false, full: false, timer }
    }

    fn has_read(&mut self) {
        (self.last, self.waiting) = (Instant::now(), false);
    }

    fn has_written<T>(&mut self, written: &Poll<Result<T>>) {
        if written.is_pending() {
            self.full = true;
        } else if std::mem::take(&mut self.full) {
            self.last = Instant::now();
        }
    }

    /// Ready once nothing was to be read, and the peer showed nothing of itself, for too long.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The time in which nobody asked does not count.
        if !self.waiting {
            (self.last, self.waiting) = (Instant::now(), true);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.last.elapsed() >= self.patience {
                return Poll::Ready(());
            }
            let until = self.last + self.patience;
            self.timer.as_mut().reset(until);
        }
    }
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
    /// A connection that fails with [`ErrorKind::TimedOut`] where its peer shows nothing of itself for so long.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        let (read, half) = stream.into_split();
        let write = Turn(Arc::new(Mutex::new(Writing { half, held_back: false })));
        Self { read, write, liveness: Liveness::new(patience) }
    }

    /// To be ended whenever what writes has had its turn.
    pub(super) fn turn(&self) -> Turn {
        self.write.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.read).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.liveness.has_read();
        }
        if read.is_pending() && self.liveness.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        read
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
        let Self { write, liveness, .. } = self.get_mut();
        let mut writing = write.lock();
        if bytes.iter().map(|slice| slice.len()).sum::<usize>() >= LONG {
            writing.hold_back(true);
        }
        let written = Pin::new(&mut writing.half).poll_write_vectored(cx, bytes);
        liveness.has_written(&written);
        written
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
    use super::{ErrorKind, LONG, Socket, Turn};
    use rustix::net::sockopt::tcp_cork;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, sleep};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_peer_that_shows_nothing_of_itself_is_gone_and_one_that_speaks_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (Socket::new(ours.unwrap(), PATIENCE), theirs.unwrap().0);
        tokio::time::pause();
        let mut byte = [0];
        for _ in 0..3 {
            let speaking = async {
                sleep(PATIENCE / 2).await;
                theirs.write_all(b"!").await.unwrap();
            };
            tokio::join!(speaking, async { ours.read_exact(&mut byte).await.unwrap() });
        }
        let begun = Instant::now();
        assert_eq!(ours.read(&mut byte).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn long_writes_are_held_back_until_the_turn_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (Socket::new(ours.unwrap(), PATIENCE), theirs.unwrap().0);
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
