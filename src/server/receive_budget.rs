//! The budget of request messages that have come in part. A message is one only once it is whole;
//! until then its bytes are kept for it, beyond what flow control counts, and ten thousand calls of
//! one connection could each have nearly a whole one kept. So their bytes are counted, on the
//! connection and on the server, those of long headers too, and the call that would pass either limit fails.
//! Never: looks into a message, or touches a counter for one that comes whole in a frame.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;

use crate::service::status::PARTLY_RECEIVED;

/// Flag and length before every message of gRPC.
const PREFIX: usize = 5;

/// Bytes of one part of the budget.
#[derive(Debug)]
struct Counter {
    used: AtomicUsize,
    max: usize,
}

impl Counter {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The server's budget.
#[derive(Clone, Debug)]
pub(super) struct ReceiveBudget {
    total: Arc<Counter>,
    connection_max: usize,
}

impl ReceiveBudget {
    /// So many bytes on one connection, and so many on all together.
    pub(super) fn new(connection_max: usize, total_max: usize) -> Self {
        Self { total: Counter::new(total_max), connection_max }
    }

    /// A connection's part of it.
    pub(super) fn connection(&self) -> ConnectionBudget {
        ConnectionBudget { connection: Counter::new(self.connection_max), total: Arc::clone(&self.total) }
    }
}

/// What the calls of one connection take from.
#[derive(Clone, Debug)]
pub(super) struct ConnectionBudget {
    connection: Arc<Counter>,
    total: Arc<Counter>,
}

impl ConnectionBudget {
    fn take(&self, bytes: usize) -> bool {
        if !self.connection.take(bytes) {
            return false;
        }
        let fits = self.total.take(bytes);
        if !fits {
            self.connection.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.connection.give_back(bytes);
        self.total.give_back(bytes);
    }
}

/// Follows gRPC's framing.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have come.
    known: usize,
    /// Bytes of the message that have not.
    missing: usize,
    /// Bytes that have come of a message that is not whole.
    partial: usize,
}

impl Framing {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len;
            if self.missing > 0 {
                len = self.missing.min(bytes.len());
                self.missing -= len;
            } else {
                len = (PREFIX - self.known).min(bytes.len());
                self.prefix[self.known..self.known + len].copy_from_slice(&bytes[..len]);
                self.known += len;
                if self.known == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    (self.known, self.missing) = (0, u32::from_be_bytes(length) as usize);
                }
            }
            let whole = self.missing == 0 && self.known == 0;
            self.partial = if whole { 0 } else { self.partial + len };
            bytes = &bytes[len..];
        }
    }
}

/// A request's body that counts.
#[derive(Debug)]
pub(super) struct CountedBody<B> {
    body: B,
    budget: ConnectionBudget,
    framing: Framing,
    taken: usize,
    /// Of those, what is taken for headers. None where they did not fit.
    headers: Option<usize>,
}

/// Bytes of headers that every call may have uncounted: more than its metadata and a token take.
const HEADERS_FREE: usize = 4096;

impl<B> CountedBody<B> {
    /// A body that came with so many bytes of headers, which its call may keep for as long.
    pub(super) fn new(body: B, budget: ConnectionBudget, headers: usize) -> Self {
        let long = headers.saturating_sub(HEADERS_FREE);
        let headers = (long == 0 || budget.take(long)).then_some(long);
        Self { body, budget, framing: Framing::default(), taken: headers.unwrap_or(0), headers }
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.framing.follow(bytes);
        let partial = self.framing.partial + self.headers.unwrap_or(0);
        if partial > self.taken {
            if !self.budget.take(partial - self.taken) {
                return Err(Status::resource_exhausted(PARTLY_RECEIVED));
            }
        } else if partial < self.taken {
            self.budget.give_back(self.taken - partial);
        }
        self.taken = partial;
        Ok(())
    }
}

impl<B> Drop for CountedBody<B> {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.budget.give_back(self.taken);
        }
    }
}

impl<B> http_body::Body for CountedBody<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.headers.is_none() {
            return Poll::Ready(Some(Err(Status::resource_exhausted(PARTLY_RECEIVED))));
        }
        Pin::new(&mut self.body).poll_frame(cx).map(|next| {
            next.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(error.into()))?;
                if let Some(bytes) = frame.data_ref() {
                    self.count(bytes)?;
                }
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::{CountedBody, Framing, ReceiveBudget};
    use std::sync::atomic::Ordering;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(5 + len, 7);
        bytes
    }

    #[test]
    fn only_what_is_not_whole_counts_wherever_it_is_cut() {
        let bytes: Vec<u8> = [3, 0, 1, 300, 0, 0, 7].into_iter().flat_map(message).collect();
        let ends: Vec<usize> = [8, 13, 19, 324, 329, 334, 346].to_vec();
        for size in 1..bytes.len() {
            let (mut framing, mut at) = (Framing::default(), 0);
            for piece in bytes.chunks(size) {
                framing.follow(piece);
                at += piece.len();
                let whole = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or(0);
                assert_eq!(framing.partial, at - whole, "pieces of {size}, at {at}");
            }
        }
    }

    #[test]
    fn a_connection_and_all_together_are_limited_and_what_ends_is_given_back() {
        let budget = ReceiveBudget::new(100, 150);
        let (first, second) = (budget.connection(), budget.connection());
        let partial = message(1000);
        let mut calls: Vec<CountedBody<()>> =
            (0..2).map(|_| CountedBody::new((), first.clone(), 100)).collect();
        calls[0].count(&partial[..60]).unwrap();
        let status = calls[1].count(&partial[..60]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let mut third = CountedBody::new((), second.clone(), 0);
        third.count(&partial[..90]).unwrap();
        assert!(third.count(&partial[90..91]).is_err(), "151 of 150");
        drop(calls);
        third.count(&partial[91..100]).unwrap();
        drop(third);
        let long = CountedBody::new((), first.clone(), super::HEADERS_FREE + 90);
        assert_eq!(first.connection.used.load(Ordering::Relaxed), 90);
        let mut refused = CountedBody::new((), first.clone(), super::HEADERS_FREE + 11);
        assert!(refused.headers.is_none(), "101 of 100");
        assert!(refused.count(&partial[..5]).is_ok());
        drop((long, refused));
        assert_eq!(budget.total.used.load(Ordering::Relaxed), 0);
        assert_eq!(first.connection.used.load(Ordering::Relaxed), 0);
    }
}
