//! The lifetime of one open call. It ends with the server, with its connection, at its maximum age, with its caller's
//! identity, or when the policy no longer allows what it does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use http::Extensions;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::changes;
use super::expiry::Expiry;
use super::status::Error;
use super::streams::Streams;
use crate::auth::{self, Action, Caller, SubscriptionPermit};
use crate::backoff::spread;
use crate::group::logic::GroupName;
use crate::record::TopicName;
use crate::registry;
use crate::topic::{self, Cause, Connection, ShutdownSignal};

/// Fraction by which the ages of calls differ, so that those that began together do not end together.
const AGE_JITTER: f64 = 0.1;

/// Returns the shutdown signal of the call, or else of the connection that a request came by.
#[must_use]
pub fn connection_shutdown(extensions: &Extensions) -> Option<&ShutdownSignal> {
    let call = changes::registered(extensions).map(|call| call.shutdown());
    call.or_else(|| extensions.get::<Arc<Connection>>().map(|connection| &connection.shutdown))
}

/// One open call.
#[derive(Debug)]
pub(super) struct Call {
    shutdown: ShutdownSignal,
    /// Timer of the maximum age; `None` without one.
    age: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
    caller: Caller,
    /// The call in the registry; `None` without a connection.
    registered: Option<Arc<registry::Call>>,
    /// `None` if the caller's identity does not expire, or has expired.
    expiry: Option<Expiry>,
    /// Uses of the call: at most a publish and a subscription, or the use of a group.
    permitted: Vec<Permitted>,
    /// Waits until the rules that permitted these are replaced; `None` without rules.
    rules_replaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Counts the subscription for as long as the call lasts.
    subscribed: Option<SubscriptionPermit>,
    /// Wakes the call on shutdown while it waits for the first message.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Permission that a call was given.
#[derive(Debug)]
enum Permitted {
    Topic(Action, TopicName),
    Group(TopicName, GroupName),
}

impl Permitted {
    /// Tells whether the caller may still do this.
    fn holds(&self, caller: &Caller) -> bool {
        match self {
            Self::Topic(action, topic) => caller.allows(*action, topic.as_str()),
            Self::Group(topic, group) => caller.consumes(topic.as_str(), group.as_str()),
        }
    }
}

impl Call {
    /// Starts a call; its [`Connection`] is in the request's extensions.
    ///
    /// # Errors
    /// The caller is not known.
    pub(super) fn begin(streams: &Streams, extensions: &Extensions) -> Result<Self, Error> {
        let caller = streams.caller(extensions)?;
        let connection = streams.connection(extensions);
        let age = streams
            .stream_age_max
            .map(|most| Box::pin(tokio::time::sleep(spread(most, 1.0 - AGE_JITTER..1.0 + AGE_JITTER))));
        let expiry = Expiry::of(&caller);
        let registered = changes::registered(extensions).cloned();
        let shutdown = match &registered {
            Some(call) => call.shutdown().clone(),
            None => connection.shutdown.child(),
        };
        Ok(Self {
            shutdown,
            age,
            connection,
            caller,
            registered,
            expiry,
            permitted: Vec::new(),
            rules_replaced: None,
            subscribed: None,
            cancelled: None,
        })
    }

    /// Returns the caller and the call's shutdown signal.
    pub(super) fn caller_and_shutdown(&self) -> (Caller, ShutdownSignal) {
        (self.caller.clone(), self.shutdown.clone())
    }

    /// Returns the call in the registry; `None` without a connection.
    pub(super) fn registered(&self) -> Option<Arc<registry::Call>> {
        self.registered.clone()
    }

    /// Returns the connection of the call.
    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// Checks that the caller may do this, now and for as long as the call lasts.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn permit(&mut self, action: Action, topic: &TopicName) -> Result<(), Error> {
        self.follow_rules();
        self.caller.permit(action, topic.as_str())?;
        if let Some(call) = &self.registered {
            match action {
                Action::Publish => call.publish_to(topic),
                _ => call.subscribe_to(topic),
            }
        }
        self.permitted.push(Permitted::Topic(action, topic.clone()));
        Ok(())
    }

    /// Checks that the caller may use this group, now and for as long as the call lasts.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn permit_consume(&mut self, topic: &TopicName, group: &GroupName) -> Result<(), Error> {
        self.follow_rules();
        self.caller.permit_consume(topic.as_str(), group.as_str())?;
        if let Some(call) = &self.registered {
            call.subscribe_to(topic);
        }
        self.permitted.push(Permitted::Group(topic.clone(), group.clone()));
        Ok(())
    }

    /// Watches the rules. To be called before the check that they are watched for, so that rules replaced in between are
    /// seen.
    fn follow_rules(&mut self) {
        if self.rules_replaced.is_none() {
            self.rules_replaced = self.caller.rules_replaced().map(Box::pin);
        }
    }

    /// Counts the call's subscription.
    ///
    /// # Errors
    /// The caller has as many subscriptions as it may.
    pub(super) fn subscribe(&mut self) -> Result<(), Error> {
        self.subscribed = Some(self.caller.subscribe().map_err(auth::Error::from)?);
        Ok(())
    }

    /// Polls for the first message of a client stream, or for an earlier end of the call. `None` if the client sends
    /// nothing.
    pub(super) fn poll_first<R>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut (impl Stream<Item = Result<R, Status>> + Unpin),
    ) -> Poll<Option<Result<R, Error>>> {
        self.poll(cx);
        if self
            .cancelled
            .get_or_insert_with(|| Box::pin(self.shutdown.cancelled()))
            .as_mut()
            .poll(cx)
            .is_ready()
            && let Some(cause) = self.shutdown.cause()
        {
            return Poll::Ready(Some(Err(topic::Error::from(cause).into())));
        }
        let first = ready!(Pin::new(requests).poll_next(cx));
        self.cancelled = None;
        Poll::Ready(first.map(|first| first.map_err(Error::Transport)))
    }

    /// Cancels the call's signal where it must end. To be polled before anything that reads the signal.
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
            if !self.permitted.iter().all(|permitted| permitted.holds(&self.caller)) {
                self.rules_replaced = None;
                self.shutdown.cancel(Cause::PermissionWithdrawn);
            }
        }
    }
}
