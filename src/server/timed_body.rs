//! Bodies of requests to the HTTP listener. One that stops fails, so that nobody holds a request open by sending nothing, nor
//! the drain.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;

use crate::http::BODY_TIMEOUT;
use crate::registry::Call;
use crate::service::{body_fn, status};
use crate::topic::{self, ShutdownSignal};

/// Longest silence in a body while the server drains: what was on its way has come by then.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// Makes the body fail after `silence` without a byte while somebody waits for one, and once `shutdown` is cancelled after a
/// shorter one. Counts its bytes for the call.
pub(super) fn timed<B>(body: B, silence: Duration, shutdown: ShutdownSignal, call: Option<Arc<Call>>) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    let mut waiting: Option<Pin<Box<Waiting>>> = None;
    body_fn(body, move |body, cx| match body.poll_frame(cx) {
        Poll::Ready(frame) => {
            waiting = None;
            if let (Some(call), Some(Ok(frame))) = (&call, &frame) {
                call.received(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
        }
        Poll::Pending => {
            let new = || Box::pin(Waiting::new(silence, &shutdown));
            let status = ready!(waiting.get_or_insert_with(new).as_mut().poll(cx));
            Poll::Ready(Some(Err(status)))
        }
    })
}

/// Waiting for the next bytes of a body. Resolves to why it was in vain.
struct Waiting {
    timer: Pin<Box<Sleep>>,
    shutdown: ShutdownSignal,
    /// `None` once the signal was seen.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Waiting {
    fn new(silence: Duration, shutdown: &ShutdownSignal) -> Self {
        let cancelled = Some(Box::pin(shutdown.cancelled()));
        Self { timer: Box::pin(sleep(silence)), shutdown: shutdown.clone(), cancelled }
    }
}

impl Future for Waiting {
    type Output = Status;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Status> {
        let this = &mut *self;
        if let Some(cancelled) = &mut this.cancelled
            && cancelled.as_mut().poll(cx).is_ready()
        {
            this.cancelled = None;
            this.timer.as_mut().reset(Instant::now() + DRAIN_SILENCE);
        }
        ready!(this.timer.as_mut().poll(cx));
        Poll::Ready(match this.shutdown.cause() {
            None => Status::deadline_exceeded(BODY_TIMEOUT),
            Some(cause) => status::status(&topic::Error::from(cause).into(), &status::Context::default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::timed;
    use crate::topic::{Cause, ShutdownSignal};
    use http_body::{Body as _, Frame};
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    struct Sent(mpsc::UnboundedReceiver<()>);

    impl http_body::Body for Sent {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|sent| sent.map(|()| Ok(Frame::data("x".into()))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_but_not_stop() {
        const SILENCE: Duration = Duration::from_secs(30);
        let (sender, receiver) = mpsc::unbounded_channel();
        let shutdown = ShutdownSignal::default();
        let mut body = timed(Sent(receiver), SILENCE, shutdown.clone(), None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        for _ in 0..3 {
            let sends = async {
                tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
                sender.send(()).unwrap();
            };
            assert!(tokio::join!(next(), sends).0.is_ok());
        }
        let began = Instant::now();
        assert_eq!(next().await.unwrap_err().message(), super::BODY_TIMEOUT);
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_does_not_hold_the_drain() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shutdown = ShutdownSignal::default();
        let mut body = timed(Sent(receiver), Duration::from_secs(30), shutdown.clone(), None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        let begun = Instant::now();
        let drains = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            shutdown.cancel(Cause::Draining);
            tokio::time::sleep(super::DRAIN_SILENCE / 2).await;
            sender.send(()).unwrap();
        };
        assert!(tokio::join!(next(), drains).0.is_ok(), "what is on its way is read");
        let failed = next().await.unwrap_err();
        assert_eq!(failed.code(), tonic::Code::Unavailable, "{failed:?}");
        assert_eq!(begun.elapsed(), Duration::from_secs(1) + super::DRAIN_SILENCE * 3 / 2);
    }
}
