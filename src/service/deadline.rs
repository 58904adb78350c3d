//! The deadline of a call (`grpc-timeout`). The server ends the call by itself, so that a client that does not cancel, or a
//! proxy that does not pass the cancellation on, leaves no call behind. What was handed to the log is stored all the same.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::body::trailers;
use super::body_fn::body_fn;
use super::status::{self, Error};
use crate::storage::BoxFuture;

/// Service whose calls end at their deadlines.
#[derive(Clone, Debug)]
pub struct Deadlines<S>(pub S);

impl<S, F> Service<Request<Body>> for Deadlines<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<F, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let timeout = match timeout(request.headers()) {
            Ok(timeout) => timeout,
            Err(error) => {
                let status = status::status(&error, &status::Context::default());
                return Either::Right(Box::pin(std::future::ready(Ok(status.into_http()))));
            }
        };
        let call = self.0.call(request);
        match timeout {
            None => Either::Left(call),
            Some(timeout) => Either::Right(Box::pin(within(call, Box::pin(tokio::time::sleep(timeout))))),
        }
    }
}

async fn within<F>(call: F, mut deadline: Pin<Box<Sleep>>) -> Result<Response<Body>, Infallible>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    tokio::select! {
        biased;
        response = call => response.map(|response| {
            // An answer in headers alone is complete.
            let is_over = response.headers().contains_key(Status::GRPC_STATUS);
            if is_over { response } else { response.map(|body| ending_at(deadline, body)) }
        }),
        () = &mut deadline => Ok(exceeded().into_http()),
    }
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline has passed")
}

/// Makes the body end at the deadline, if not before.
fn ending_at(deadline: Pin<Box<Sleep>>, body: Body) -> Body {
    let mut deadline = Some(deadline);
    body_fn(body, move |mut body, cx| {
        // The deadline is polled first, so that a body that is always ready ends too.
        if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            deadline = None;
            body.set(Body::empty());
            return Poll::Ready(Some(trailers(&exceeded())));
        }
        body.poll_frame(cx)
    })
}

/// Reads the timeout of a request: at most eight digits and a unit, as gRPC over HTTP/2 writes it.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    let malformed =
        || Error::Protocol("grpc-timeout: not one to eight digits and a unit of HMSmun".to_owned());
    timeout.map(Some).ok_or_else(malformed)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{parse_timeout, timeout};
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn timeouts_are_parsed_as_grpc_writes_them() {
        let of = parse_timeout;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!([of("3S"), of("2M"), of("1H"), of("3000m")], [3, 120, 3600, 3].map(seconds));
        assert_eq!([of("5u"), of("5n")], [5_000, 5].map(|nanos| Some(Duration::from_nanos(nanos))));
        assert_eq!(of("99999999H"), seconds(99_999_999 * 3600));
        for bad in ["", "S", "3", "-1S", "+1S", "1.5S", "123456789S", "3s", "3 S", "S3"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        let malformed =
            HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), HeaderValue::from_static("x"))]);
        assert!(timeout(&malformed).is_err());
    }
}
