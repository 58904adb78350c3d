//! Memory limit of the tutorial's calls, which answer with the messages that they receive. tonic keeps the largest
//! message of a call for as long as the call lasts, and an answer that the peer does not read stays in memory too.
//! Messages above a small size are therefore charged to the budget of bytes in flight until the call is over and its
//! answers are sent.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::body_fn::body_fn;
use super::status::{self, Error};
use crate::topic::{self, Connection, Permit};

/// Size up to which a message is not charged. The limit on the number of calls bounds the memory of such messages.
const FREE_BYTES: usize = 16 << 10;
/// Number of copies of a message that exist at once: as received, as text, as answered, and as handed to HTTP/2.
const COPIES: usize = 4;

/// Charge of one call. It grows with the largest message, and is released when the last handle is dropped.
#[derive(Clone, Debug)]
struct Charge(Arc<Mutex<Charged>>);

#[derive(Debug)]
struct Charged {
    connection: Arc<Connection>,
    bytes: usize,
    /// One permit for each time that `bytes` grew.
    permits: Vec<Permit>,
}

/// Charges a message of `len` bytes to the call with these extensions.
///
/// # Errors
/// Fails if too many bytes are in flight.
pub(super) fn charge(extensions: &Extensions, len: usize) -> Result<(), Status> {
    let Some(Charge(charged)) = extensions.get().filter(|_| len > FREE_BYTES) else { return Ok(()) };
    let mut charged = charged.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = COPIES * len.next_power_of_two();
    let Some(more) = bytes.checked_sub(charged.bytes).filter(|more| *more > 0) else { return Ok(()) };
    let overloaded = || status::status(&Error::Topic(topic::Error::Overloaded), &status::Context::default());
    let permit = charged.connection.admission.try_acquire(more).ok_or_else(overloaded)?;
    charged.permits.push(permit);
    charged.bytes = bytes;
    Ok(())
}

/// Service whose calls may charge the memory that they keep.
#[derive(Clone, Debug)]
pub struct EchoBudget<S>(S);

impl<S> EchoBudget<S> {
    /// Wraps a service of the tutorial.
    pub const fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: NamedService> NamedService for EchoBudget<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for EchoBudget<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        let charge = connection.map(|connection| {
            Charge(Arc::new(Mutex::new(Charged { connection, bytes: 0, permits: Vec::new() })))
        });
        if let Some(charge) = &charge {
            request.extensions_mut().insert(charge.clone());
        }
        Answer { call: self.0.call(request), charge }
    }
}

/// Answer whose frames hold the charge until HTTP/2 has sent them.
#[derive(Debug)]
pub struct Answer<F> {
    call: F,
    charge: Option<Charge>,
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(Pin::new(&mut self.call).poll(cx));
        Poll::Ready(Ok(match self.charge.take() {
            Some(charge) => response.map(|body| charged(body, charge)),
            None => response,
        }))
    }
}

fn charged(body: Body, charge: Charge) -> Body {
    body_fn(body, move |body, cx| {
        body.poll_frame(cx).map_ok(|frame| match frame.into_data() {
            Ok(bytes) if bytes.len() > FREE_BYTES => {
                Frame::data(Bytes::from_owner(ChargedBytes { bytes, _charge: charge.clone() }))
            }
            Ok(bytes) => Frame::data(bytes),
            Err(frame) => frame,
        })
    })
}

struct ChargedBytes {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
