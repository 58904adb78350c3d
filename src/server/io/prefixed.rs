//! A stream whose first bytes were read before it was handed on.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::forward;
use super::preface::Preface;

/// Stream that yields the preface, then the rest of the inner stream.
#[derive(Debug)]
pub(in crate::server) struct PrefixedIo<S> {
    stream: S,
    preface: Preface,
    /// Bytes of the preface that were yielded already.
    yielded: usize,
}

impl<S> PrefixedIo<S> {
    /// Puts back what was read from the stream.
    pub(in crate::server) const fn new(stream: S, preface: Preface) -> Self {
        Self { stream, preface, yielded: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let left = &self.preface.bytes()[self.yielded..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let len = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..len]);
        self.yielded += len;
        // What has come behind it goes with it, so that a request is read at once. An error is met again by the next read.
        if buffer.remaining() > 0 {
            let _ = Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedIo<S> {
    forward!(poll_write, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use super::{Preface, PrefixedIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_preface_is_read_again_before_the_rest() {
        let (mut peer, mut stream) = tokio::io::duplex(64);
        peer.write_all(b"GET / HTTP/1.1").await.unwrap();
        drop(peer);
        let preface = Preface::read(&mut stream).await.unwrap();
        let mut stream = PrefixedIo::new(stream, preface);
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&two, rest.as_str()), (b"GE", "T / HTTP/1.1"));
    }

    #[tokio::test]
    async fn what_has_come_behind_the_preface_is_read_with_it() {
        let (mut peer, mut stream) = tokio::io::duplex(64);
        peer.write_all(&[b'x'; 40]).await.unwrap();
        let preface = Preface::read(&mut stream).await.unwrap();
        let mut stream = PrefixedIo::new(stream, preface);
        let mut bytes = [0; 64];
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 40);
        peer.write_all(b"y").await.unwrap();
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 1);
    }
}
