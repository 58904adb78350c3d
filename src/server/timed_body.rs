//! Bodies of requests to the HTTP listener. One that stops fails, so that nobody holds a request open by sending nothing.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;

use crate::http::BODY_TIMEOUT;
use crate::registry::Call;
use crate::service::body_fn;

/// Makes the body fail after `silence` without a byte while somebody waits for one. Counts its bytes for the call.
pub(super) fn timed<B>(body: B, silence: Duration, call: Option<Arc<Call>>) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    let mut timer: Option<std::pin::Pin<Box<Sleep>>> = None;
    body_fn(body, move |body, cx| match body.poll_frame(cx) {
        Poll::Ready(frame) => {
            timer = None;
            if let (Some(call), Some(Ok(frame))) = (&call, &frame) {
                call.received(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
        }
        Poll::Pending => {
            ready!(timer.get_or_insert_with(|| Box::pin(sleep(silence))).as_mut().poll(cx));
            Poll::Ready(Some(Err(Status::deadline_exceeded(BODY_TIMEOUT))))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::timed;
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
        let mut body = timed(Sent(receiver), SILENCE, None);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap();
        for _ in 0..3 {
            let sends = async {
                tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
                sender.send(()).unwrap();
            };
            assert!(tokio::join!(next(), sends).0.is_ok());
        }
        let began = Instant::now();
        assert!(next().await.is_err());
        assert_eq!(began.elapsed(), SILENCE);
    }
}
