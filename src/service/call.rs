//! What rules over one open call: its end, by the server's wish, its connection's, or its own age.
//! Never: says how a call ends; its stream does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use http::Extensions;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::Streams;
use super::status::Error;
use crate::topic::{self, Cause, Ending};

/// How much calls' ages differ, so that those that began together do not end together.
const AGE_JITTER: f64 = 0.1;

/// One open call.
#[derive(Debug)]
pub(super) struct Call {
    ending: Ending,
    /// Until the call is as old as it may get; none where it may get as old as it likes.
    age: Option<Pin<Box<Sleep>>>,
    /// While the first message is waited for: wakes where the end begins.
    begun: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Call {
    /// A call that begins now; its connection's [`Ending`] is in the request's extensions.
    pub(super) fn begin(streams: &Streams, extensions: &Extensions) -> Self {
        let connection = extensions.get::<Ending>().unwrap_or_else(|| streams.topics.ending());
        let age = streams.stream_age_max.map(|most| {
            let jitter = 1.0 - AGE_JITTER + 2.0 * AGE_JITTER * fastrand::f64();
            Box::pin(tokio::time::sleep(most.mul_f64(jitter)))
        });
        Self { ending: connection.child(), age, begun: None }
    }

    /// Whether the call should end, and why.
    pub(super) const fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The first message of a call that sends many, unless the call ends before it; none where the
    /// client sends nothing.
    pub(super) fn poll_first<R>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut (impl Stream<Item = Result<R, Status>> + Unpin),
    ) -> Poll<Option<Result<R, Error>>> {
        self.poll(cx);
        if self.begun.get_or_insert_with(|| Box::pin(self.ending.begun())).as_mut().poll(cx).is_ready()
            && let Some(cause) = self.ending.cause()
        {
            return Poll::Ready(Some(Err(topic::Error::from(cause).into())));
        }
        let first = ready!(Pin::new(requests).poll_next(cx));
        self.begun = None;
        Poll::Ready(first.map(|first| first.map_err(Error::Transport)))
    }

    /// Begins the end where the call's time has come. To be polled before anything that looks at
    /// [`Self::ending`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(age) = &mut self.age else { return };
        if let Poll::Ready(()) = age.as_mut().poll(cx) {
            self.age = None;
            self.ending.begin(Cause::MaxAge);
        }
    }
}
