//! A request's body that is read on, and dropped, where a call ends before its peer has ended the request:
//! an Exchange that is told of the drain, a publish that is refused. HTTP/2 lets a server reset such a
//! stream with NO_ERROR behind its whole answer, and h2 does where a body is dropped unread. But HAProxy
//! makes CANCEL of that (its issue 1219), and clients on grpc-core then take CANCELLED for the status of a
//! call that was answered UNAVAILABLE. So the answer goes out, and the peer, who has it, ends the stream.
//! A client that keeps its side open, as those on hyper do while more may be sent, is reset all the same.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Longest time that is read on: a round trip round the world and through a load balancer. A drain takes so much
/// longer if clients keep their side of a stream open.
const READ_ON_MAX: Duration = Duration::from_millis(500);
/// Most bytes discarded: what a publisher at full speed has on the way until it sees the answer.
const BYTES_MAX: usize = 4 << 20;

/// Body of a request that is read to its end after it is dropped.
#[derive(Debug)]
pub(super) struct ReadOn<B = Incoming>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// `None` once it has ended.
    body: Option<B>,
    /// Tasks that the drain waits for.
    tasks: TaskTracker,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> ReadOn<B> {
    pub(super) const fn new(body: B, tasks: TaskTracker) -> Self {
        Self { body: Some(body), tasks }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for ReadOn<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for ReadOn<B> {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // There is no runtime while the process exits.
        if let Ok(runtime) = Handle::try_current() {
            self.tasks
                .spawn_on(async move { drop(tokio::time::timeout(READ_ON_MAX, end(body)).await) }, &runtime);
        }
    }
}

/// Reads a body until the peer ends it.
async fn end<B: Body<Data = Bytes> + Unpin>(body: B) {
    let (mut body, mut read) = (pin!(body), 0);
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        read += frame.data_ref().map_or(0, Buf::remaining);
        if read > BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, ReadOn};
    use bytes::Bytes;
    use http_body::{Body, Frame};
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    /// A body of what is sent to it.
    struct Sent(mpsc::UnboundedReceiver<usize>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let data = |len| Ok(Frame::data(Bytes::from(vec![0; len])));
            self.0.poll_recv(cx).map(|len| len.map(data))
        }
    }

    fn body() -> (mpsc::UnboundedSender<usize>, ReadOn<Sent>, TaskTracker) {
        let ((sender, receiver), tasks) = (mpsc::unbounded_channel(), TaskTracker::new());
        let body = ReadOn::new(Sent(receiver), tasks.clone());
        tasks.close();
        (sender, body, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_dropped_is_read_to_the_peers_end() {
        let (sender, body, tasks) = body();
        drop(body);
        assert_eq!(tasks.len(), 1);
        sender.send(7).unwrap();
        drop(sender);
        let begun = tokio::time::Instant::now();
        tasks.wait().await;
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO, "it waited for the end alone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_ends_is_left_and_one_that_sends_on_sooner() {
        let (sender, body, tasks) = body();
        drop(body);
        tasks.wait().await;
        assert!(sender.is_closed());
        let (sender, body, tasks) = self::body();
        drop(body);
        for _ in 0..=BYTES_MAX >> 20 {
            let _ = sender.send(1 << 20);
        }
        let begun = tokio::time::Instant::now();
        tasks.wait().await;
        assert!(sender.is_closed() && begun.elapsed().is_zero());
    }

    #[tokio::test]
    async fn a_body_that_has_ended_costs_nothing() {
        let (sender, mut body, tasks) = body();
        drop(sender);
        assert!(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
        drop(body);
        assert_eq!(tasks.len(), 0);
    }
}
