//! A member at work: its messages are carried out, and its events become messages.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::super::status::Error;
use super::answers;
use super::calls::refused;
use super::request;
use crate::group::{Event, Member, Token};
use crate::proto::v1::{self, consume_request::Kind};
use crate::telemetry::METRICS;
use crate::topic::{self, Cause, ShutdownSignal};
use crate::wire::{ConsumeResponse, Wire};

/// Most settlements and extensions of a call that are not answered; above it, the server does not read.
const UNANSWERED_MAX: usize = 1024;
/// Number of ranges settled since everything was answered from which on the server does not read: 32 bytes each, and a
/// reason of at most 1 KiB.
const UNANSWERED_RANGES_MAX: usize = 16 << 10;
/// Size from which on a message takes no further leases: two frames of HTTP/2's default size.
const MESSAGE_FULL: usize = 32 << 10;
/// Most outcomes, extensions and revocations of a message, some 30 bytes each and a range more.
const ANSWERS_MAX: usize = 256;
/// Messages read before the thread's other tasks run.
const READS_MAX: usize = 256;
/// Time for which a member may still settle once it was told that the call ends.
const NOTICE_GRACE: Duration = Duration::from_millis(250);

/// Item of the stream of answers.
pub(super) type Out = Option<Result<ConsumeResponse, Status>>;

/// A member at work.
pub(super) struct Running {
    member: Member,
    /// Answer to the Join, which is sent first.
    joined: Option<Box<v1::Joined>>,
    shutdown: ShutdownSignal,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// True while the client is read from.
    reading: bool,
    /// Settlements and extensions that are not answered.
    unanswered: usize,
    /// Ranges of the settlements since there was none of those.
    ranges: usize,
    /// Credit so far: records and bytes.
    credit: (u64, u64),
    /// Reason why the call ends, or that the member left.
    end: Option<Result<(), Error>>,
    /// Set once the client was told why the call ends: until then it may settle.
    grace: Option<Pin<Box<Sleep>>>,
    heartbeat: Pin<Box<Sleep>>,
    heartbeat_interval: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        METRICS.groups.members.add(-1);
    }
}

impl Running {
    /// A member that has joined.
    pub(super) fn new(member: Member, heartbeat_interval: Duration, shutdown: ShutdownSignal) -> Self {
        METRICS.groups.members.add(1);
        Self {
            joined: Some(Box::new(answers::joined(&member))),
            member,
            ended: Box::pin(shutdown.cancelled()),
            shutdown,
            reading: true,
            unanswered: 0,
            ranges: 0,
            credit: (0, 0),
            end: None,
            grace: None,
            heartbeat: Box::pin(tokio::time::sleep(heartbeat_interval)),
            heartbeat_interval,
        }
    }

    /// Does all that can be done without waiting, and returns the next message.
    pub(super) fn poll<S>(&mut self, cx: &mut TaskContext<'_>, requests: &mut S) -> Poll<Out>
    where
        S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
    {
        if let Some(joined) = self.joined.take() {
            let rest = v1::ConsumeResponse { joined: Some(*joined), ..v1::ConsumeResponse::default() };
            return Poll::Ready(Some(Ok(ConsumeResponse { rest, ..ConsumeResponse::default() })));
        }
        let mut message = ConsumeResponse::default();
        self.poll_shutdown(cx, &mut message);
        self.read(cx, requests);
        self.collect(cx, &mut message);
        if message == ConsumeResponse::default() {
            if let Some(end) = self.poll_end(cx) {
                return Poll::Ready(end);
            }
            if self.heartbeat.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            message.rest.lag = Some(answers::lag(self.member.lag()));
        }
        self.heartbeat.as_mut().reset(Instant::now() + self.heartbeat_interval);
        Poll::Ready(Some(Ok(message)))
    }

    /// Tells the client why the call will end, where it can act on it.
    fn poll_shutdown(&mut self, cx: &mut TaskContext<'_>, message: &mut ConsumeResponse) {
        let is_over = self.shutdown.cause().is_some() || self.ended.as_mut().poll(cx).is_ready();
        let Some(cause) = self.shutdown.cause().filter(|_| is_over && self.end.is_none()) else { return };
        let notice = match cause {
            Cause::Draining => v1::Notice::Draining,
            Cause::MaxAge => v1::Notice::MaxAge,
            _ => v1::Notice::Unspecified,
        };
        if notice != v1::Notice::Unspecified {
            message.rest.notice = notice.into();
            self.grace = Some(Box::pin(tokio::time::sleep(NOTICE_GRACE)));
        }
        self.end = Some(Err(topic::Error::from(cause).into()));
    }

    /// Returns the end of the call once nothing is left to tell.
    fn poll_end(&mut self, cx: &mut TaskContext<'_>) -> Option<Out> {
        self.end.as_ref()?;
        if let Some(grace) = &mut self.grace
            && grace.as_mut().poll(cx).is_pending()
            && self.reading
        {
            return None;
        }
        self.reading = false;
        if self.unanswered > 0 {
            return None;
        }
        let info = self.member.info();
        let refused = refused(info.topic.as_str(), info.name.as_str());
        Some(self.end.take()?.err().map(|error| Err(refused(error))))
    }

    /// Carries out the client's messages. Credit is passed on once, however many messages give it.
    fn read<S>(&mut self, cx: &mut TaskContext<'_>, requests: &mut S)
    where
        S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
    {
        let before = self.credit;
        self.read_all(cx, requests);
        if self.credit != before {
            self.member.credit(self.credit.0, self.credit.1);
        }
    }

    fn read_all<S>(&mut self, cx: &mut TaskContext<'_>, requests: &mut S)
    where
        S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
    {
        for _ in 0..READS_MAX {
            if !self.reading || self.is_full() {
                return;
            }
            let request = match Pin::new(&mut *requests).poll_next(cx) {
                Poll::Pending => return,
                // The client settles nothing more by this call, and may go on to receive.
                Poll::Ready(None) => {
                    self.reading = false;
                    return;
                }
                Poll::Ready(Some(request)) => request.map_err(Error::Transport),
            };
            if let Err(error) = request.and_then(|request| self.take(request)) {
                self.reading = false;
                self.end = Some(Err(error));
                self.grace = None;
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Returns true if so much is unanswered that the server does not read.
    const fn is_full(&mut self) -> bool {
        if self.unanswered == 0 {
            self.ranges = 0;
        }
        self.unanswered >= UNANSWERED_MAX || self.ranges >= UNANSWERED_RANGES_MAX
    }

    /// Carries out a message of the client.
    fn take(&mut self, request: v1::ConsumeRequest) -> Result<(), Error> {
        match request.kind {
            None => Err(Error::Protocol(
                "an empty message, or one of a kind that this server does not know".to_owned(),
            )),
            Some(Kind::Join(_)) => Err(Error::Protocol("a second join".to_owned())),
            Some(Kind::Credit(credit)) => {
                self.credit = (self.credit.0.max(credit.records), self.credit.1.max(credit.bytes));
                Ok(())
            }
            Some(Kind::Settlement(asked)) => {
                let settled = request::settlement(asked, "settlement.")?;
                self.check(&settled.token, "settlement.token")?;
                self.ranges += settled.settlement.acts.len();
                self.unanswered += 1;
                self.member.settle(settled.number, settled.token, settled.settlement);
                Ok(())
            }
            Some(Kind::Extend(asked)) => {
                let extended = request::extend(&asked, "extend.")?;
                self.check(&extended.token, "extend.token")?;
                self.member.extend(extended.number, extended.token, extended.time);
                self.unanswered += 1;
                Ok(())
            }
            Some(Kind::Leave(v1::Leave {})) => {
                self.reading = false;
                self.member.leave();
                Ok(())
            }
        }
    }

    /// Checks that a token is of this member's group, which its call was permitted to use.
    fn check(&self, token: &Token, field: &str) -> Result<(), Error> {
        let info = self.member.info();
        let is_ours = (&token.topic, &token.group) == (&info.topic, &info.name);
        if is_ours { Ok(()) } else { Err(Error::field(field, "is of another group")) }
    }

    /// Adds what has happened to the message.
    fn collect(&mut self, cx: &mut TaskContext<'_>, message: &mut ConsumeResponse) {
        let mut bytes = 0;
        for _ in 0..ANSWERS_MAX {
            if bytes >= MESSAGE_FULL {
                return;
            }
            let Poll::Ready(event) = self.member.poll_next(cx) else { return };
            match event {
                Event::Lease(leased) => {
                    let info = self.member.info();
                    let lease = answers::lease(*leased, info.topic.as_str(), info.name.as_str());
                    bytes += lease.wire_len();
                    message.leases.push(lease);
                }
                Event::Settled { number, outcomes } => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    message.rest.outcomes.extend(answers::outcomes(number, &outcomes));
                }
                Event::Extended { number, left } => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    message.rest.extensions.push(answers::extension(number, left));
                }
                Event::Revoked { fence, spans } => {
                    message.rest.revocations.push(answers::revocation(fence, &spans));
                }
                Event::Left => {
                    (self.end, self.unanswered) = (Some(Ok(())), 0);
                    return;
                }
                Event::Ended(error) => {
                    (self.end, self.unanswered, self.grace) = (Some(Err((*error).into())), 0, None);
                    self.reading = false;
                    return;
                }
            }
        }
    }
}
