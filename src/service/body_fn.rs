//! Bodies that wrap another and look at its frames.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Result of polling a body for its next frame.
pub type PollFrame = Poll<Option<Result<Frame<Bytes>, Status>>>;

struct BodyFn<B, F> {
    inner: B,
    poll_frame: F,
}

/// Makes a body of `inner` whose frames are what `poll_frame` makes of it.
pub fn body_fn<B, F>(inner: B, poll_frame: F) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    F: FnMut(Pin<&mut B>, &mut Context<'_>) -> PollFrame + Send + Unpin + 'static,
{
    Body::new(BodyFn { inner, poll_frame })
}

impl<B, F> http_body::Body for BodyFn<B, F>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    F: FnMut(Pin<&mut B>, &mut Context<'_>) -> PollFrame + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = &mut *self;
        (this.poll_frame)(Pin::new(&mut this.inner), cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
