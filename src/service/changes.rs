//! Records of the audit log about what calls change.

use std::sync::Arc;

use http::Extensions;
use serde_json::{Value, json};

use super::status::{Error, is_certain};
use crate::auth::{self, Caller};
use crate::registry;
use crate::storage::{TopicInfo, TopicLog};
use crate::telemetry::audit::{self, Actor, Outcome};

/// Returns the registered call that a request belongs to; none in tests without a server.
pub(super) fn registered(extensions: &Extensions) -> Option<&Arc<registry::Call>> {
    extensions.get()
}

/// Returns who makes a call.
pub(super) fn actor(caller: &Caller, call: Option<&registry::Call>) -> Actor {
    call.map_or_else(
        || Actor { principal: caller.principal().into(), peer: None, method: "", request_id: None },
        registry::Call::actor,
    )
}

/// A change of a topic, or of a group, that was asked for.
pub(super) struct Change {
    actor: Actor,
    action: &'static str,
    topic: String,
    before: Option<String>,
}

impl Change {
    pub(super) const fn new(actor: Actor, action: &'static str, topic: String) -> Self {
        Self { actor, action, topic, before: None }
    }

    /// Notes the topic as it is before the change.
    pub(super) fn before(&mut self, info: &TopicInfo) {
        self.before = Some(described(info));
    }

    /// Notes a group as it is before the change, described as JSON.
    pub(super) fn before_text(&mut self, described: String) {
        self.before = Some(described);
    }

    /// Records the outcome.
    pub(super) fn end<T>(self, result: &Result<T, Error>, after: impl FnOnce(&T) -> Option<String>) {
        let (outcome, after, error) = match result {
            Ok(done) => (Outcome::Done, after(done), None),
            // A denial is recorded where the call ends.
            Err(Error::Auth(auth::Error::Denied { .. })) => return,
            Err(error) if is_certain(error) => (Outcome::Failed, None, Some(error.to_string())),
            Err(error) => (Outcome::Unknown, None, Some(error.to_string())),
        };
        let Self { actor, action, topic: resource, before } = self;
        audit::record(audit::Change { actor, action, resource, before, after, outcome, error });
    }
}

/// Records a topic that its first use created.
pub(super) fn created_on_use(caller: &Caller, call: Option<&registry::Call>, log: &dyn TopicLog) {
    let change = Change::new(actor(caller, call), "topic.create", log.name().as_str().to_owned());
    change.end(&Ok(log.info()), |info| Some(described(info)));
}

/// Describes a topic as JSON.
pub(super) fn described(info: &TopicInfo) -> String {
    let retention = info.retention;
    let described: Value = json!({
        "epoch": info.epoch.to_string(),
        "max_age_seconds": retention.max_age.map_or(0.0, |age| age.as_secs_f64()),
        "max_bytes": retention.max_bytes.unwrap_or(0),
        "max_records": retention.max_records.unwrap_or(0),
        "earliest_offset": info.earliest.get(),
        "tail": info.tail.get(),
    });
    described.to_string()
}
