//! State that the calls of GroupService share.

use std::sync::Arc;

use http::Extensions;
use tokio::sync::Mutex;
use tonic::Status;

use super::super::changes::{self, Change};
use super::super::status::{Context, Error, status};
use super::super::streams::Streams;
use crate::auth::{Action, Caller};
use crate::group::Groups;
use crate::group::logic::{GroupName, Settings};
use crate::record::TopicName;

/// State of the calls of GroupService.
#[derive(Clone)]
pub struct GroupCalls {
    pub(super) streams: Streams,
    pub(super) groups: Groups,
    /// Lock for calls that read a group's settings to change them.
    pub(super) settings: Arc<Mutex<()>>,
}

impl GroupCalls {
    /// Makes the state for calls on these groups.
    #[must_use]
    pub fn new(streams: Streams, groups: Groups) -> Self {
        Self { streams, groups, settings: Arc::default() }
    }

    /// Returns the caller.
    pub(super) fn caller(&self, extensions: &Extensions) -> Result<Caller, Status> {
        self.streams.caller(extensions).map_err(|error| status(&error, &Context::default()))
    }
}

/// Checks that a caller may see a group: it uses or administers it.
pub(super) fn permit_see(caller: &Caller, topic: &TopicName, group: &GroupName) -> Result<(), Error> {
    if caller.allows(Action::Admin, topic.as_str()) {
        return Ok(());
    }
    Ok(caller.permit_consume(topic.as_str(), group.as_str())?)
}

/// Checks that a caller may have the server publish to the dead letter topic of these settings.
pub(super) fn permit_settings(caller: &Caller, settings: &Settings) -> Result<(), Error> {
    let Some(topic) = &settings.dead_letter_topic else { return Ok(()) };
    Ok(caller.permit(Action::Publish, topic.as_str())?)
}

/// Begins the record of a change that a request asks for.
pub(super) fn change(
    extensions: &Extensions,
    caller: &Caller,
    action: &'static str,
    names: (&str, &str),
) -> Change {
    let call = changes::registered(extensions).map(|call| &**call);
    let shown = |name: &str| name.get(..name.len().min(TopicName::MAX_LEN)).unwrap_or_default().to_owned();
    let resource = format!("{}/{}", shown(names.0), shown(names.1));
    Change::new(changes::actor(caller, call), action, resource)
}

/// Makes the status of an error about a group of this topic.
pub(super) fn refused(topic: &str, group: &str) -> impl FnOnce(Error) -> Status + use<> {
    let context = Context { group: Some(group.to_owned()), ..Context::topic(topic) };
    move |error| status(&error, &context)
}
