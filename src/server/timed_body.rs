//! Bodies of requests to the HTTP listener. One that stops or comes too slowly fails, so that nobody holds a request open by
//! sending nothing or next to nothing, nor the drain.

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

use crate::http::{BODY_TIMEOUT, BODY_TOO_SLOW};
use crate::registry::Call;
use crate::service::{body_fn, status};
use crate::topic::{self, ShutdownSignal};

/// Longest silence in a body while the server drains: what was on its way has come by then.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// Slowest average rate of a body, in bytes per second of waiting for it: a byte from time to time would keep what is held of a
/// body for ever. It is the one that Kestrel has, far below that of any network.
const RATE_MIN: u64 = 240;

/// Makes the body fail after `silence` without a byte while somebody waits for one, or if more than `silence` and the time that
/// its bytes take at [`RATE_MIN`] was spent waiting; and once `shutdown` is cancelled after a shorter silence. Counts its bytes
/// for the call.
pub(super) fn timed<B>(body: B, silence: Duration, shutdown: ShutdownSignal, call: Option<Arc<Call>>) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    let mut pace = Pace { silence, received: 0, waited: Duration::ZERO };
    let mut waiting: Option<Pin<Box<Waiting>>> = None;
    body_fn(body, move |body, cx| match body.poll_frame(cx) {
        Poll::Ready(frame) => {
            pace.waited += waiting.take().map_or(Duration::ZERO, |waiting| waiting.began.elapsed());
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                pace.received += bytes as u64;
                if let Some(call) = &call {
                    call.received(bytes);
                }
            }
            Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
        }
        Poll::Pending => {
            let new = || Box::pin(Waiting::new(&pace, &shutdown));
            let status = ready!(waiting.get_or_insert_with(new).as_mut().poll(cx));
            Poll::Ready(Some(Err(status)))
        }
    })
}

/// Time that a body has taken.
struct Pace {
    silence: Duration,
    /// Bytes that have come.
    received: u64,
    /// Time in which somebody waited for them.
    waited: Duration,
}

impl Pace {
    /// Returns how long the next bytes may take, and the message of the error if they take longer.
    fn rest(&self) -> (Duration, &'static str) {
        let earned = Duration::from_millis(self.received.saturating_mul(1000) / RATE_MIN);
        if earned >= self.waited {
            (self.silence, BODY_TIMEOUT)
        } else {
            ((self.silence + earned).saturating_sub(self.waited), BODY_TOO_SLOW)
        }
    }
}

/// Waiting for the next bytes of a body. Resolves to why it was in vain.
struct Waiting {
    began: Instant,
    timer: Pin<Box<Sleep>>,
    /// Message of the error of a timer that ends.
    message: &'static str,
    shutdown: ShutdownSignal,
    /// `None` once the signal was seen.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Waiting {
    fn new(pace: &Pace, shutdown: &ShutdownSignal) -> Self {
        let (rest, message) = pace.rest();
        let cancelled = Some(Box::pin(shutdown.cancelled()));
        let timer = Box::pin(sleep(rest));
        Self { began: Instant::now(), timer, message, shutdown: shutdown.clone(), cancelled }
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
            None => Status::deadline_exceeded(this.message),
            Some(cause) => status::status(&topic::Error::from(cause).into(), &status::Context::default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{RATE_MIN, timed};
    use crate::topic::{Cause, ShutdownSignal};
    use bytes::Bytes;
    use http_body::{Body as _, Frame};
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    const SILENCE: Duration = Duration::from_secs(30);
    /// Bytes that a body must send within the longest silence.
    const PIECE: &[u8] = &[0; RATE_MIN as usize * SILENCE.as_secs() as usize];

    struct Sent(mpsc::UnboundedReceiver<&'static [u8]>);

    impl http_body::Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|sent| sent.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_but_not_stop() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shutdown = ShutdownSignal::default();
        let mut body = timed(Sent(receiver), SILENCE, shutdown.clone(), None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        for _ in 0..3 {
            let sends = async {
                tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
                sender.send(PIECE).unwrap();
            };
            assert!(tokio::join!(next(), sends).0.is_ok());
        }
        let began = Instant::now();
        assert_eq!(next().await.unwrap_err().message(), super::BODY_TIMEOUT);
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_too_slowly_fails() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shutdown = ShutdownSignal::default();
        let mut body = timed(Sent(receiver), SILENCE, shutdown.clone(), None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        // Time in which nobody asks for more is not the peer's.
        sender.send(PIECE).unwrap();
        tokio::time::sleep(10 * SILENCE).await;
        assert!(next().await.is_ok());
        let began = Instant::now();
        let trickles = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sender.send(b"x").unwrap();
            }
        };
        let fails = async {
            loop {
                if let Err(failed) = next().await {
                    return failed;
                }
            }
        };
        let failed = tokio::select! {
            failed = fails => failed,
            () = trickles => unreachable!("it has no end"),
        };
        assert_eq!(failed.message(), super::BODY_TOO_SLOW);
        assert_eq!(
            began.elapsed().as_secs(),
            2 * SILENCE.as_secs(),
            "the time of the piece, and some silence"
        );
    }

    #[test]
    fn the_message_has_the_rate() {
        assert!(super::BODY_TOO_SLOW.contains(&format!(" {RATE_MIN} bytes per second ")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_does_not_hold_the_drain() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shutdown = ShutdownSignal::default();
        let mut body = timed(Sent(receiver), SILENCE, shutdown.clone(), None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        let begun = Instant::now();
        let drains = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            shutdown.cancel(Cause::Draining);
            tokio::time::sleep(super::DRAIN_SILENCE / 2).await;
            sender.send(b"x").unwrap();
        };
        assert!(tokio::join!(next(), drains).0.is_ok(), "what is on its way is read");
        let failed = next().await.unwrap_err();
        assert_eq!(failed.code(), tonic::Code::Unavailable, "{failed:?}");
        assert_eq!(begun.elapsed(), Duration::from_secs(1) + super::DRAIN_SILENCE * 3 / 2);
    }
}
