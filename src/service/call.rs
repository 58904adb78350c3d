//! What rules over one open call: its end, by the server's wish, its connection's, its own age, the
//! end of its caller's identity, or a policy that no longer allows what it does.
//! Never: says how a call ends; its stream does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use http::Extensions;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::Streams;
use super::expiry::Expiry;
use super::status::Error;
use crate::auth::{self, Action, Caller, SubscriptionPermit};
use crate::backoff::spread;
use crate::record::TopicName;
use crate::topic::{self, Cause, Connection, ShutdownSignal};

/// How much calls' ages differ, so that those that began together do not end together.
const AGE_JITTER: f64 = 0.1;

/// Returns the shutdown signal of the connection that a request came by.
#[must_use]
pub fn connection_shutdown(extensions: &Extensions) -> Option<&ShutdownSignal> {
    extensions.get::<Arc<Connection>>().map(|connection| &connection.shutdown)
}

/// One open call.
#[derive(Debug)]
pub(super) struct Call {
    shutdown: ShutdownSignal,
    /// Until the call is as old as it may get; none where it may get as old as it likes.
    age: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
    caller: Caller,
    /// None where the caller's identity never ends, or has.
    expiry: Option<Expiry>,
    /// What the call does to which topics; at most a publish and a subscription.
    permitted: Vec<(Action, TopicName)>,
    /// Until the rules that permitted that are replaced; none where there are none.
    rules_replaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Held for as long as the call lasts, however it ends.
    subscribed: Option<SubscriptionPermit>,
    /// While the first message is waited for: wakes where the end begins.
    begun: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Call {
    /// A call that begins now; its [`Connection`] is in the request's extensions.
    ///
    /// # Errors
    /// Nobody knows who calls.
    pub(super) fn begin(streams: &Streams, extensions: &Extensions) -> Result<Self, Error> {
        let caller = streams.caller(extensions)?;
        let connection = streams.connection(extensions);
        let age = streams
            .stream_age_max
            .map(|most| Box::pin(tokio::time::sleep(spread(most, 1.0 - AGE_JITTER..1.0 + AGE_JITTER))));
        let expiry = Expiry::of(&caller);
        Ok(Self {
            shutdown: connection.shutdown.child(),
            age,
            connection,
            caller,
            expiry,
            permitted: Vec::new(),
            rules_replaced: None,
            subscribed: None,
            begun: None,
        })
    }

    /// Who publishes by it, and when it should end.
    pub(super) fn caller_and_shutdown(&self) -> (Caller, ShutdownSignal) {
        (self.caller.clone(), self.shutdown.clone())
    }

    /// What it came by.
    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// Asks whether the caller may do this, now and for as long as the call lasts.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn permit(&mut self, action: Action, topic: &TopicName) -> Result<(), Error> {
        // Before the check: what comes in between is looked at again.
        if self.rules_replaced.is_none() {
            self.rules_replaced = self.caller.rules_replaced().map(Box::pin);
        }
        self.caller.permit(action, topic.as_str())?;
        self.permitted.push((action, topic.clone()));
        Ok(())
    }

    /// Counts the call's subscription.
    ///
    /// # Errors
    /// It would be one too many.
    pub(super) fn subscribe(&mut self) -> Result<(), Error> {
        self.subscribed = Some(self.caller.subscribe().map_err(auth::Error::from)?);
        Ok(())
    }

    /// The first message of a call that sends many, unless the call ends before it; none where the
    /// client sends nothing.
    pub(super) fn poll_first<R>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut (impl Stream<Item = Result<R, Status>> + Unpin),
    ) -> Poll<Option<Result<R, Error>>> {
        self.poll(cx);
        if self.begun.get_or_insert_with(|| Box::pin(self.shutdown.cancelled())).as_mut().poll(cx).is_ready()
            && let Some(cause) = self.shutdown.cause()
        {
            return Poll::Ready(Some(Err(topic::Error::from(cause).into())));
        }
        let first = ready!(Pin::new(requests).poll_next(cx));
        self.begun = None;
        Poll::Ready(first.map(|first| first.map_err(Error::Transport)))
    }

    /// Begins the end where the call's time has come. To be polled before anything that looks at
    /// [`Self::shutdown`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(age) = &mut self.age
            && age.as_mut().poll(cx).is_ready()
        {
            self.age = None;
            self.shutdown.cancel(Cause::MaxAge);
        }
        if let Some(expiry) = &mut self.expiry
            && expiry.poll(cx).is_ready()
        {
            self.expiry = None;
            self.shutdown.cancel(Cause::IdentityExpired);
        }
        self.poll_rules(cx);
    }

    fn poll_rules(&mut self, cx: &mut Context<'_>) {
        while let Some(replaced) = &mut self.rules_replaced {
            if replaced.as_mut().poll(cx).is_pending() {
                return;
            }
            self.rules_replaced = self.caller.rules_replaced().map(Box::pin);
            if !self.permitted.iter().all(|(action, topic)| self.caller.allows(*action, topic.as_str())) {
                self.rules_replaced = None;
                self.shutdown.cancel(Cause::PermissionWithdrawn);
            }
        }
    }
}
