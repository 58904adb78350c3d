//! Administration of groups: create, get, list, update, delete, seek and redrive.

use std::sync::Arc;

use tonic::{Request, Status};

use super::super::status::Error;
use super::calls::{self, GroupCalls, change, permit_see, refused};
use super::{described, listing, request, settings};
use crate::auth::{Action, Caller};
use crate::group::{Groups, Info, Redrive, Source};
use crate::proto::v1;

/// Answers CreateGroup.
pub(crate) async fn create(
    calls: Arc<GroupCalls>,
    request: Request<v1::CreateGroupRequest>,
) -> Result<v1::CreateGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let group = asked.group.unwrap_or_default();
    let change = change(&extensions, &caller, "group.create", (&group.topic, &group.name));
    let refused = refused(&group.topic, &group.name);
    let created = created(&calls, &caller, &group, asked.start.as_ref()).await;
    change.end(&created, |info| Some(described::text(info)));
    let info = created.map_err(refused)?;
    Ok(v1::CreateGroupResponse { group: Some(described::group(&info)) })
}

async fn created(
    calls: &GroupCalls,
    caller: &Caller,
    group: &v1::Group,
    start: Option<&v1::GroupStart>,
) -> Result<Info, Error> {
    let (topic, name) = request::names(("group.topic", &group.topic), ("group.name", &group.name))?;
    caller.permit(Action::Admin, topic.as_str())?;
    let asked = group.settings.clone().unwrap_or_default();
    let settings = settings::checked(&asked, &topic, "group.settings.")?;
    let from = request::start(start, "start.")?;
    calls::permit_settings(caller, &settings)?;
    Ok(calls.groups.create(&topic, &name, from, settings).await?)
}

/// Answers GetGroup.
pub(crate) async fn get(
    calls: Arc<GroupCalls>,
    request: Request<v1::GetGroupRequest>,
) -> Result<v1::GetGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let asked = request.into_inner();
    let found = async {
        let (topic, name) = request::names(("topic", &asked.topic), ("name", &asked.name))?;
        permit_see(&caller, &topic, &name)?;
        Ok(calls.groups.get(&topic, &name).await?)
    };
    let info = found.await.map_err(refused(&asked.topic, &asked.name))?;
    Ok(v1::GetGroupResponse { group: Some(described::group(&info)) })
}

/// Answers ListGroups.
pub(crate) async fn list(
    calls: Arc<GroupCalls>,
    request: Request<v1::ListGroupsRequest>,
) -> Result<v1::ListGroupsResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let asked = request.into_inner();
    let page = listing::page(&calls.groups, &caller, &asked).await;
    page.map_err(refused(&asked.topic, ""))
}

/// Answers UpdateGroup.
pub(crate) async fn update(
    calls: Arc<GroupCalls>,
    request: Request<v1::UpdateGroupRequest>,
) -> Result<v1::UpdateGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let v1::UpdateGroupRequest { group, update_mask } = asked;
    let group = group.unwrap_or_default();
    let mut change = change(&extensions, &caller, "group.update", (&group.topic, &group.name));
    let refused = refused(&group.topic, &group.name);
    let updated = async {
        let (topic, name) = request::names(("group.topic", &group.topic), ("group.name", &group.name))?;
        caller.permit(Action::Admin, topic.as_str())?;
        let id = request::id("group.id", &group.id)?;
        let asked = group.settings.clone().unwrap_or_default();
        let apply = settings::change(&asked, &topic, update_mask)?;
        let _alone = calls.settings.lock().await;
        let before = calls.groups.get(&topic, &name).await?;
        change.before_text(described::text(&before));
        let after = apply(&before.settings)?;
        if after.dead_letter_topic != before.settings.dead_letter_topic {
            calls::permit_settings(&caller, &after)?;
        }
        Ok(calls.groups.update(&topic, &name, Some(id.unwrap_or(before.id)), after).await?)
    };
    let updated = updated.await;
    change.end(&updated, |info| Some(described::text(info)));
    Ok(v1::UpdateGroupResponse { group: Some(described::group(&updated.map_err(refused)?)) })
}

/// Answers DeleteGroup.
pub(crate) async fn delete(
    calls: Arc<GroupCalls>,
    request: Request<v1::DeleteGroupRequest>,
) -> Result<v1::DeleteGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let change = change(&extensions, &caller, "group.delete", (&asked.topic, &asked.name));
    let deleted = async {
        let (topic, name) = request::names(("topic", &asked.topic), ("name", &asked.name))?;
        caller.permit(Action::Admin, topic.as_str())?;
        let id = request::id("id", &asked.id)?;
        Ok(calls.groups.delete(&topic, &name, id).await?)
    };
    let deleted = deleted.await;
    change.end(&deleted, |()| None);
    deleted.map_err(refused(&asked.topic, &asked.name))?;
    Ok(v1::DeleteGroupResponse {})
}

/// Answers SeekGroup.
pub(crate) async fn seek(
    calls: Arc<GroupCalls>,
    request: Request<v1::SeekGroupRequest>,
) -> Result<v1::SeekGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let change = change(&extensions, &caller, "group.seek", (&asked.topic, &asked.name));
    let sought = async {
        let (topic, name) = request::names(("topic", &asked.topic), ("name", &asked.name))?;
        caller.permit(Action::Admin, topic.as_str())?;
        if asked.to.as_ref().is_none_or(|to| to.start.is_none()) {
            return Err(Error::field("to", "is required"));
        }
        let from = request::start(asked.to.as_ref(), "to.")?;
        Ok(calls.groups.seek(&topic, &name, from).await?)
    };
    let sought = sought.await;
    change.end(&sought, |info| Some(described::text(info)));
    let info = sought.map_err(refused(&asked.topic, &asked.name))?;
    Ok(v1::SeekGroupResponse { group: Some(described::group(&info)) })
}

/// Answers RedriveDeadLetters.
pub(crate) async fn redrive(
    calls: Arc<GroupCalls>,
    request: Request<v1::RedriveDeadLettersRequest>,
) -> Result<v1::RedriveDeadLettersResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let change = change(&extensions, &caller, "group.redrive", (&asked.topic, &asked.name));
    let redriven = async {
        let (topic, name) = request::names(("topic", &asked.topic), ("name", &asked.name))?;
        caller.permit(Action::Admin, topic.as_str())?;
        if asked.republish_trimmed {
            caller.permit(Action::Publish, topic.as_str())?;
        }
        let source = match v1::RedriveSource::try_from(asked.source) {
            Ok(v1::RedriveSource::Unspecified | v1::RedriveSource::DeadLetters) => Source::DeadLetters,
            Ok(v1::RedriveSource::Parked) => Source::Parked,
            Err(_) => return Err(Error::field("source", "not a known source")),
        };
        let spans = request::spans("ranges", &asked.ranges)?;
        let redrive = Redrive { source, spans, republish_trimmed: asked.republish_trimmed };
        Ok(calls.groups.redrive(&topic, &name, redrive).await?)
    };
    let redriven = redriven.await;
    change.end(&redriven, |done| {
        Some(format!(
            "{{\"reopened_records\":{},\"republished_records\":{},\"missing_records\":{}}}",
            done.reopened, done.republished, done.missing
        ))
    });
    let done = redriven.map_err(refused(&asked.topic, &asked.name))?;
    Ok(v1::RedriveDeadLettersResponse {
        reopened_records: done.reopened,
        republished_records: done.republished,
        missing_records: done.missing,
    })
}

/// Answers ResetGroups.
pub(crate) async fn reset(
    calls: Arc<GroupCalls>,
    request: Request<v1::ResetGroupsRequest>,
) -> Result<v1::ResetGroupsResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, asked) = request.into_parts();
    let refused = refused(&asked.internal_topic, "");
    if let Err(denied) = caller.permit_operate() {
        return Err(refused(denied.into()));
    }
    let change = change(&extensions, &caller, "group.reset", (&asked.internal_topic, "*"));
    let reset = async {
        let shard = Groups::shard_named(&asked.internal_topic).ok_or_else(|| {
            Error::field("internal_topic", "not one that stores groups: ~groups-00 to ~groups-15")
        })?;
        Ok(calls.groups.reset(shard).await?)
    };
    let reset = reset.await;
    change.end(&reset, |()| None);
    reset.map_err(refused)?;
    Ok(v1::ResetGroupsResponse {})
}
