//! The TCP connection. Long writes of one poll go out together: h2 writes a long answer in frames of 16 KiB with one
//! system call each, and each would be a segment, an acknowledgement and a wake-up of its own; corked until the poll
//! is over, they fill segments of 64 KiB. A connection whose peer is gone fails.

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

use crate::registry::Peer;

/// Has the system close the connection once the peer leaves what it was sent unacknowledged for so long, or keeps its
/// receive window closed. Without this TCP keeps a connection for ever whose peer only repeats that it has no room.
pub(in crate::server) fn set_user_timeout(stream: &TcpStream, timeout: Duration) {
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    // Where the system does not support it, the connection lasts until its maximum age or the end of the process.
    let _ = set_tcp_user_timeout(stream, timeout);
}

/// Bytes of a write that is most likely one of several.
const LONG_WRITE: usize = 8 << 10;

/// TCP connection that corks long writes, and fails once its peer is gone.
#[derive(Debug)]
pub(in crate::server) struct Socket {
    read: OwnedReadHalf,
    cork: Cork,
    liveness: Liveness,
    /// Counter of the bytes; `None` if nobody counts them.
    peer: Option<Arc<Peer>>,
}

/// Signs of life of the peer: it sends anything, or makes room for what is sent to it. An unanswered ping is no proof
/// that the peer is gone: to a peer that reads slowly, it queues behind all that is still to be read.
#[derive(Debug)]
struct Liveness {
    timeout: Duration,
    /// Time of the last sign of life.
    last_seen: Instant,
    /// The last read found nothing.
    read_blocked: bool,
    /// The last write found no room.
    write_blocked: bool,
    timer: Pin<Box<Sleep>>,
}

impl Liveness {
    fn new(timeout: Duration) -> Self {
        let timer = Box::pin(sleep(timeout));
        Self { timeout, last_seen: Instant::now(), read_blocked: false, write_blocked: false, timer }
    }

    fn note_read(&mut self) {
        (self.last_seen, self.read_blocked) = (Instant::now(), false);
    }

    fn note_write<T>(&mut self, written: &Poll<Result<T>>) {
        if written.is_pending() {
            self.write_blocked = true;
        } else if std::mem::take(&mut self.write_blocked) {
            self.last_seen = Instant::now();
        }
    }

    /// Becomes ready once reads find nothing, and the peer gave no sign of life for the timeout.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The time in which nobody tried to read does not count.
        if !self.read_blocked {
            (self.last_seen, self.read_blocked) = (Instant::now(), true);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.last_seen.elapsed() >= self.timeout {
                return Poll::Ready(());
            }
            let deadline = self.last_seen + self.timeout;
            self.timer.as_mut().reset(deadline);
        }
    }
}

/// Head of a record of TLS 1.3 that has room for an alert alone: two bytes, their type and the tag of 16 bytes. A peer that
/// leaves sends one (close_notify), and no byte of an HTTP request is like the first.
const TLS_ALERT: [u8; 5] = [23, 3, 3, 0, 19];
/// First byte of an alert of TLS 1.2, and of none of an HTTP request.
const TLS12_ALERT: u8 = 21;

/// Returns true for bytes that begin with an alert of TLS.
fn is_alert(bytes: &[u8]) -> bool {
    bytes == TLS_ALERT || bytes.first() == Some(&TLS12_ALERT)
}

/// Handle that uncorks a [`Socket`].
#[derive(Clone, Debug)]
pub(in crate::server) struct Cork(Arc<Mutex<WriteHalf>>);

#[derive(Debug)]
struct WriteHalf {
    half: OwnedWriteHalf,
    corked: bool,
}

impl WriteHalf {
    /// Corks or uncorks the socket. Where that fails, each write goes out by itself.
    fn set_corked(&mut self, corked: bool) {
        if self.corked != corked {
            self.corked = set_tcp_cork(self.half.as_ref(), corked).is_ok() && corked;
        }
    }
}

impl Cork {
    fn lock(&self) -> MutexGuard<'_, WriteHalf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes ready once the peer has closed its side, within TLS or of TCP, or is gone. Not while something else is
    /// unread that it sent before.
    pub(in crate::server) fn poll_peer_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut head = [0; TLS_ALERT.len()];
        let mut head = ReadBuf::new(&mut head);
        match self.lock().half.as_ref().poll_peek(cx, &mut head) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) if is_alert(head.filled()) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Sends what the cork holds back.
    pub(in crate::server) fn release(&self) {
        self.lock().set_corked(false);
    }
}

impl Socket {
    /// Wraps a connection, which fails with [`ErrorKind::TimedOut`] once its peer gave no sign of life for `timeout`.
    pub(in crate::server) fn new(stream: TcpStream, timeout: Duration) -> Self {
        let (read, half) = stream.into_split();
        let cork = Cork(Arc::new(Mutex::new(WriteHalf { half, corked: false })));
        Self { read, cork, liveness: Liveness::new(timeout), peer: None }
    }

    /// Has the bytes counted.
    pub(in crate::server) fn counted_by(self, peer: Arc<Peer>) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// The cork, to be released after every poll of what writes to the socket.
    pub(in crate::server) fn cork(&self) -> Cork {
        self.cork.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.read).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.liveness.note_read();
            if let Some(peer) = &self.peer {
                peer.received(bytes);
            }
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
        let Self { cork, liveness, peer, .. } = self.get_mut();
        let mut write = cork.lock();
        if bytes.iter().map(|slice| slice.len()).sum::<usize>() >= LONG_WRITE {
            write.set_corked(true);
        }
        let written = Pin::new(&mut write.half).poll_write_vectored(cx, bytes);
        liveness.note_write(&written);
        if let (Some(peer), Poll::Ready(Ok(bytes))) = (peer, &written) {
            peer.sent(*bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut write = self.cork.lock();
        write.set_corked(false);
        Pin::new(&mut write.half).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cork, ErrorKind, LONG_WRITE, Socket};
    use rustix::net::sockopt::tcp_cork;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, sleep};

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_silent_peer_times_out_and_one_that_sends_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (Socket::new(ours.unwrap(), TIMEOUT), theirs.unwrap().0);
        tokio::time::pause();
        let mut byte = [0];
        for _ in 0..3 {
            let sending = async {
                sleep(TIMEOUT / 2).await;
                theirs.write_all(b"!").await.unwrap();
            };
            tokio::join!(sending, async { ours.read_exact(&mut byte).await.unwrap() });
        }
        let began = Instant::now();
        assert_eq!(ours.read(&mut byte).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() >= TIMEOUT);
    }

    #[tokio::test]
    async fn long_writes_are_corked_until_the_cork_is_released() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let (mut ours, mut theirs) = (Socket::new(ours.unwrap(), TIMEOUT), theirs.unwrap().0);
        let is_corked = |cork: &Cork| tcp_cork(cork.lock().half.as_ref()).unwrap();
        let cork = ours.cork();
        ours.write_all(&[0; 100]).await.unwrap();
        assert!(!is_corked(&cork), "short");
        ours.write_all(&[0; LONG_WRITE]).await.unwrap();
        assert!(is_corked(&cork), "long");
        cork.release();
        assert!(!is_corked(&cork), "released");
        ours.write_all(&[0; LONG_WRITE]).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 100 + 2 * LONG_WRITE);
    }
}
