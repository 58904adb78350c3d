//! The first message of a Consume: who joins which group, and what it may create.

use super::super::call::Call;
use super::super::changes;
use super::super::status::Error;
use super::calls::{GroupCalls, permit_settings};
use super::running::Running;
use super::{described, request, settings};
use crate::auth::{Action, Caller};
use crate::group::logic::{GroupName, SessionId, Settings};
use crate::group::{Create, Join, Member};
use crate::proto::v1;
use crate::record::TopicName;
use crate::registry;
use crate::storage::BoxFuture;
use crate::topic::From;

/// Valid Join of a caller that may use the group, checked before anything is created.
pub(super) struct Checked {
    topic: TopicName,
    group: GroupName,
    member: Box<str>,
    session: Option<SessionId>,
    /// Settings of the group if it is created; `None` where the client gives none.
    settings: Option<Settings>,
    start: From,
}

/// Checks a Join.
pub(super) fn checked(asked: v1::Join, call: &mut Call) -> Result<Checked, Error> {
    let (topic, group) = request::names(("join.topic", &asked.topic), ("join.group", &asked.group))?;
    let member = request::member("join.member", &asked.member)?;
    let session = match asked.session.len() {
        0 => None,
        _ => Some(session(&asked.session)?),
    };
    let settings = asked.create.as_ref().map(|create| settings::checked(create, &topic, "join.create."));
    let settings = settings.transpose()?;
    let start = request::start(asked.start.as_ref(), "join.start.")?;
    call.permit_consume(&topic, &group)?;
    call.subscribe()?;
    if let Some(settings) = &settings {
        permit_settings(&call.caller_and_shutdown().0, settings)?;
    }
    Ok(Checked { topic, group, member, session, settings, start })
}

fn session(bytes: &[u8]) -> Result<SessionId, Error> {
    let bytes: Result<[u8; 16], _> = bytes.try_into();
    let bytes = bytes.map_err(|_| Error::field("join.session", "is not a session that a Joined gave"))?;
    Ok(SessionId(u128::from_be_bytes(bytes)))
}

/// Joins the group, and creates it and its topic where that is allowed.
pub(super) fn join(
    calls: GroupCalls,
    checked: Checked,
    call: &Call,
) -> BoxFuture<'static, Result<Box<Running>, Error>> {
    let ((caller, shutdown), registered) = (call.caller_and_shutdown(), call.registered());
    Box::pin(async move {
        let member = member(&calls, checked, (&caller, registered.as_deref())).await?;
        Ok(Box::new(Running::new(member, calls.streams.heartbeat_interval, shutdown)))
    })
}

async fn member(
    calls: &GroupCalls,
    checked: Checked,
    (caller, call): (&Caller, Option<&registry::Call>),
) -> Result<Member, Error> {
    let Checked { topic, group, member, session, settings, start } = checked;
    let on_use = calls.streams.topics.creates_on_first_use();
    let create = match (&session, settings) {
        // A group that is gone is not what the session was of.
        (Some(_), _) => None,
        (None, Some(settings)) => Some(Create { from: start, settings }),
        (None, None) => on_use.then(|| Create { from: start, settings: defaults() }),
    };
    if create.is_some() && on_use {
        calls.streams.topic_for(Action::Consume, (caller, call), &topic).await?;
    }
    let join = Join { topic, group, member, principal: caller.name(), session, create };
    let joined = calls.groups.join(join).await?;
    if joined.has_created() {
        let name = format!("{}/{}", joined.info().topic, joined.info().name);
        let change = changes::Change::new(changes::actor(caller, call), "group.create", name);
        change.end(&Ok(()), |()| Some(described::text(joined.info())));
    }
    Ok(joined)
}

/// Settings of a group that is created by its first use.
fn defaults() -> Settings {
    Settings { poison: crate::group::logic::Poison::Hold, ..Settings::default() }
}
