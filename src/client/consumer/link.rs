//! The call of a consumer: made, open, or waiting to be made again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::client::connector::{Connector, Target};
use crate::client::error::Error;
use crate::proto::v1::{self, consume_request::Kind};
use crate::wire::ConsumeResponse;

/// Name of the call in telemetry.
const CONSUME: &str = "streamway.v1.GroupService/Consume";
/// Messages that wait to be written. Few, so that results that come meanwhile are settled together.
const UNWRITTEN_MAX: usize = 4;
/// Time without a message after which the connection counts as broken: three of the server's heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A call that was answered by Joined.
pub(super) struct Open {
    requests: Option<mpsc::Sender<v1::ConsumeRequest>>,
    answers: Streaming<ConsumeResponse>,
}

type Calling = Pin<Box<dyn Future<Output = Result<(Open, v1::Joined), Status>> + Send>>;

/// State of the call.
pub(super) enum Link {
    /// There is no call; the next one begins at this time.
    Waiting(Instant),
    /// A call was sent, and not answered by Joined until this time.
    Calling(Calling, Target, Instant),
    /// The consumer is a member; the time is that of the last message.
    Open(Box<Open>, Target, Instant),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Calling(..) => "Calling",
            Self::Open(..) => "Open",
        })
    }
}

/// Events that a consumer can take now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    pub(super) reads: bool,
    pub(super) writes: bool,
}

/// Event of a call.
pub(super) enum Event {
    /// It is time to call.
    Due,
    Joined(Box<v1::Joined>),
    Message(Box<ConsumeResponse>),
    /// A message can be written.
    Writable,
    /// The server has ended the call with OK, as it does after Leave.
    Ended,
    Broken(Error),
}

impl Link {
    /// Makes a call, whose first message is this.
    pub(super) fn call(connector: &Connector, join: v1::Join) -> Self {
        let target = connector.target(CONSUME, Some(&join.topic));
        let mut groups = connector.groups(&target);
        let calling = Box::pin(async move {
            let (requests, mut receiver) = mpsc::channel(UNWRITTEN_MAX);
            let _ = requests.try_send(message(Kind::Join(join)));
            let messages = stream::poll_fn(move |cx| receiver.poll_recv(cx));
            let mut answers = groups.consume(messages).await?.into_inner();
            let first = answers.message().await?;
            let joined = first.and_then(|first| first.rest.joined);
            let joined =
                joined.ok_or_else(|| Status::unavailable("the call ended before it was answered"))?;
            Ok((Open { requests: Some(requests), answers }, joined))
        });
        Self::Calling(calling, target, Instant::now() + SILENCE_MAX)
    }

    /// The server that is called.
    pub(super) const fn target(&self) -> Option<&Target> {
        match self {
            Self::Waiting(_) => None,
            Self::Calling(_, target, _) | Self::Open(_, target, _) => Some(target),
        }
    }

    /// Returns true if the consumer is a member.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open(..))
    }

    /// Writes a message, after [`Event::Writable`].
    pub(super) fn send(&mut self, kind: Kind) {
        if let Self::Open(open, ..) = self
            && let Some(requests) = &open.requests
            && requests.try_send(message(kind)).is_err()
        {
            // The answers say why.
            open.requests = None;
        }
    }

    /// Waits for the next event: a message if it `reads`, and room for one if it `writes`. Cancel-safe.
    pub(super) async fn next(&mut self, Wants { reads, writes }: Wants) -> Event {
        let silent = |url: &str| Event::Broken(Error::transport(format!("{url} has sent nothing in time")));
        match self {
            Self::Waiting(due) => {
                tokio::time::sleep_until((*due).into()).await;
                Event::Due
            }
            Self::Calling(calling, target, until) => {
                match tokio::time::timeout_at((*until).into(), calling).await {
                    Ok(Ok((open, joined))) => {
                        *self = Self::Open(Box::new(open), target.clone(), Instant::now());
                        Event::Joined(Box::new(joined))
                    }
                    Ok(Err(status)) => Event::Broken(Error::from_status(&status, &target.url)),
                    Err(_) => silent(&target.url),
                }
            }
            Self::Open(open, target, last) => {
                let Open { requests, answers } = &mut **open;
                let writable = async {
                    match requests.as_ref().filter(|_| writes) {
                        Some(requests) if requests.reserve().await.is_ok() => true,
                        Some(_) => false,
                        None => std::future::pending().await,
                    }
                };
                if !reads {
                    *last = Instant::now();
                }
                let deadline = (*last + SILENCE_MAX).into();
                tokio::select! {
                    is_writable = writable => {
                        if !is_writable {
                            *requests = None;
                        }
                        Event::Writable
                    }
                    message = tokio::time::timeout_at(deadline, answers.message()), if reads => match message {
                        Ok(Ok(Some(message))) => {
                            *last = Instant::now();
                            Event::Message(Box::new(message))
                        }
                        // An end without trailers is a broken connection, not a status.
                        Ok(Ok(None)) => match answers.trailers().await {
                            Ok(Some(_)) => Event::Ended,
                            _ => Event::Broken(Error::transport(format!("{} ended the call", target.url))),
                        },
                        Ok(Err(status)) => Event::Broken(Error::from_status(&status, &target.url)),
                        Err(_) => silent(&target.url),
                    },
                }
            }
        }
    }
}

fn message(kind: Kind) -> v1::ConsumeRequest {
    v1::ConsumeRequest { kind: Some(kind) }
}

/// The first message of a call.
pub(super) fn join(options: &super::options::ConsumerOptions, session: Bytes) -> v1::Join {
    v1::Join {
        topic: options.topic.clone(),
        group: options.group.clone(),
        member: options.member.clone(),
        session,
        create: options.create.clone(),
        start: options.start.clone(),
    }
}
