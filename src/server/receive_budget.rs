//! The budget of request messages that were received in part. Until a message is complete its bytes are kept, beyond
//! what flow control counts, and ten thousand calls of one connection could each have nearly a complete one kept. So
//! these bytes, and those of long headers, are counted for the connection and for the server, and the call that would
//! exceed either limit fails. A message that comes in one frame touches no counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;

use super::framing::Framing;
use crate::http::Held;
use crate::registry::Call;
use crate::service::body_fn;
use crate::service::status::PARTLY_RECEIVED;

/// Bytes used of one limit.
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

/// The server's budget for messages received in part.
#[derive(Clone, Debug)]
pub(super) struct ReceiveBudget {
    total: Arc<Counter>,
    connection_max: usize,
}

impl ReceiveBudget {
    /// Makes a budget with a limit in bytes for each connection and one for all together.
    pub(super) fn new(connection_max: usize, total_max: usize) -> Self {
        Self { total: Counter::new(total_max), connection_max }
    }

    /// Makes the budget of one connection.
    pub(super) fn connection(&self) -> ConnectionBudget {
        ConnectionBudget { connection: Counter::new(self.connection_max), total: Arc::clone(&self.total) }
    }
}

/// The budget that the calls of one connection share.
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

/// Header bytes that every call may have uncounted: more than its metadata and a token take.
const HEADERS_FREE: usize = 4096;

/// Counts the bytes of a request's body, and of its headers, which its call may keep for as long as the body.
pub(super) fn counted<B>(body: B, budget: ConnectionBudget, header_bytes: usize, call: Arc<Call>) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    let mut received = Received::new(budget, header_bytes);
    body_fn(body, move |body, cx| {
        if received.headers.is_none() {
            return Poll::Ready(Some(Err(Status::resource_exhausted(PARTLY_RECEIVED))));
        }
        body.poll_frame(cx).map(|next| {
            next.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(error.into()))?;
                if let Some(bytes) = frame.data_ref() {
                    call.received(bytes.len());
                    received.count(bytes)?;
                }
                Ok(frame)
            })
        })
    })
}

/// Counts the bytes of a body that its route gathers, up to `held_max`, until the body is dropped or the route says that it
/// holds less.
pub(super) fn gathered<B>(body: B, budget: ConnectionBudget, held_max: usize) -> (Body, Held)
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    let gathered = Arc::new(Gathered { budget, bytes: AtomicUsize::new(0) });
    let counted = Arc::downgrade(&gathered);
    let held = Held::new(move |bytes| {
        if let Some(gathered) = counted.upgrade() {
            gathered.lower_to(bytes);
        }
    });
    let body = body_fn(body, move |body, cx| {
        body.poll_frame(cx).map(|next| {
            next.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(error.into()))?;
                gathered.add(frame.data_ref().map_or(0, Bytes::len), held_max)?;
                Ok(frame)
            })
        })
    });
    (body, held)
}

/// Bytes counted for one body, given back when it is dropped. One task alone changes them.
#[derive(Debug)]
struct Gathered {
    budget: ConnectionBudget,
    bytes: AtomicUsize,
}

impl Gathered {
    fn add(&self, bytes: usize, max: usize) -> Result<(), Status> {
        let counted = self.bytes.load(Ordering::Relaxed);
        let bytes = bytes.min(max.saturating_sub(counted));
        if !self.budget.take(bytes) {
            return Err(Status::resource_exhausted(PARTLY_RECEIVED));
        }
        self.bytes.store(counted + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn lower_to(&self, bytes: usize) {
        let counted = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.budget.give_back(counted.saturating_sub(bytes));
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.lower_to(0);
    }
}

/// Bytes counted for one call, given back when it is dropped.
#[derive(Debug)]
struct Received {
    budget: ConnectionBudget,
    framing: Framing,
    /// Bytes received of a message that is not complete.
    partial: usize,
    counted: usize,
    /// Bytes counted for headers, or `None` if there was no room for them.
    headers: Option<usize>,
}

impl Received {
    fn new(budget: ConnectionBudget, header_bytes: usize) -> Self {
        let long = header_bytes.saturating_sub(HEADERS_FREE);
        let headers = (long == 0 || budget.take(long)).then_some(long);
        Self { budget, framing: Framing::default(), partial: 0, counted: headers.unwrap_or(0), headers }
    }

    fn count(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let taken = self.framing.take(bytes);
            self.partial = if self.framing.is_between() { 0 } else { self.partial + taken };
            bytes = &bytes[taken..];
        }
        let counted = self.partial + self.headers.unwrap_or(0);
        if counted > self.counted {
            if !self.budget.take(counted - self.counted) {
                return Err(Status::resource_exhausted(PARTLY_RECEIVED));
            }
        } else if counted < self.counted {
            self.budget.give_back(self.counted - counted);
        }
        self.counted = counted;
        Ok(())
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.budget.give_back(self.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Gathered, ReceiveBudget, Received};
    use std::sync::atomic::Ordering;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(5 + len, 7);
        bytes
    }

    #[test]
    fn each_connection_and_all_together_are_limited_and_ended_calls_give_back() {
        let budget = ReceiveBudget::new(100, 150);
        let (first, second) = (budget.connection(), budget.connection());
        let partial = message(1000);
        let mut calls: Vec<Received> = (0..2).map(|_| Received::new(first.clone(), 100)).collect();
        calls[0].count(&partial[..60]).unwrap();
        let status = calls[1].count(&partial[..60]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let mut third = Received::new(second.clone(), 0);
        third.count(&partial[..90]).unwrap();
        assert!(third.count(&partial[90..91]).is_err(), "151 of 150");
        drop(calls);
        third.count(&partial[91..100]).unwrap();
        drop(third);
        let long = Received::new(first.clone(), super::HEADERS_FREE + 90);
        assert_eq!(first.connection.used.load(Ordering::Relaxed), 90);
        let mut refused = Received::new(first.clone(), super::HEADERS_FREE + 11);
        assert!(refused.headers.is_none(), "101 of 100");
        assert!(refused.count(&partial[..5]).is_ok());
        drop((long, refused));
        assert_eq!(budget.total.used.load(Ordering::Relaxed), 0);
        assert_eq!(first.connection.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_counts_what_its_route_holds() {
        let budget = ReceiveBudget::new(100, 150);
        let connection = budget.connection();
        let used = || budget.total.used.load(Ordering::Relaxed);
        let body = Gathered { budget: connection.clone(), bytes: Default::default() };
        for _ in 0..3 {
            body.add(80, 90).unwrap();
            assert_eq!(used(), 80);
            body.lower_to(30);
            assert_eq!(used(), 30);
            body.lower_to(0);
        }
        body.add(80, 90).unwrap();
        body.add(80, 90).unwrap();
        assert_eq!(used(), 90, "more is never held");
        assert!(Gathered { budget: connection, bytes: Default::default() }.add(11, 90).is_err());
        drop(body);
        assert_eq!(used(), 0);
    }
}
