//! SaveGroups and RestoreGroup: the groups of a topic in its backup.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Status, Streaming};

use super::super::request::{time as time_of, timestamp};
use super::super::status::Error;
use super::calls::{GroupCalls, change, refused};
use super::{described, request};
use crate::auth::{Action, Caller};
use crate::group::logic::GroupName;
use crate::group::{self, Info, Listed, Saved, SavedState};
use crate::proto::v1;
use crate::record::{TopicName, UnixMicros};

/// Groups listed at a time.
const STRIDE: usize = 256;
/// Most bytes of a state that is restored.
const STATE_BYTES_MAX: usize = 128 << 20;
/// Longest wait for the next part of a state.
const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// Reason why a group cannot be restored.
const TOO_OLD: &str = "too long ago: the fences of the group cannot rise above those that members may have got since. Create \
                       the group anew, and reset what keeps its highest fence";

/// Parts of an answer.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<v1::SaveGroupsResponse, Status>> + Send>>;

/// Answers SaveGroups.
pub(super) async fn save(
    calls: Arc<GroupCalls>,
    request: Request<v1::SaveGroupsRequest>,
) -> Result<Parts, Status> {
    let caller = calls.caller(request.extensions())?;
    let asked = request.into_inner();
    let names = async {
        let topic = super::super::request::topic("topic", &asked.topic)?;
        caller.permit(Action::Subscribe, topic.as_str())?;
        Ok((names(&calls, &topic).await?, topic))
    };
    let (names, topic) = names.await.map_err(refused(&asked.topic, ""))?;
    // One group is in memory at a time.
    let saved = stream::iter(names).then(move |name| {
        let (calls, topic) = (Arc::clone(&calls), topic.clone());
        async move {
            match calls.groups.save(&topic, &name).await {
                Ok(saved) => parts(saved),
                // It was deleted meanwhile.
                Err(group::Error::NotFound) => Vec::new(),
                Err(error) => vec![Err(refused(topic.as_str(), name.as_str())(error.into()))],
            }
        }
    });
    Ok(Box::pin(saved.flat_map(stream::iter)))
}

/// Names of the groups of a topic.
async fn names(calls: &GroupCalls, topic: &TopicName) -> Result<Vec<GroupName>, Error> {
    let mut names: Vec<GroupName> = Vec::new();
    loop {
        let after = names.last().map(|last| (topic.clone(), last.clone()));
        let Listed { groups: page, damaged } = calls.groups.list(Some(topic), after, STRIDE).await?;
        if let Some(storage) = damaged.first() {
            // A backup without these groups would be no backup of the topic.
            let reason = format!("the groups in {storage} cannot be read");
            return Err(crate::topic::Error::from(crate::storage::Error::Damaged(reason)).into());
        }
        names.extend(page.iter().map(|info| info.name.clone()));
        if page.len() < STRIDE {
            return Ok(names);
        }
    }
}

fn parts(saved: Saved) -> Vec<Result<v1::SaveGroupsResponse, Status>> {
    let mut group = Some(described::group(&saved.info));
    let mut save_time = Some(timestamp(UnixMicros::now()));
    let part = |state| {
        let part = v1::SavedGroup { group: group.take(), state, save_time: save_time.take() };
        Ok(v1::SaveGroupsResponse { part: Some(part) })
    };
    saved.parts.into_iter().map(part).collect()
}

/// Answers RestoreGroup.
pub(super) async fn restore(
    calls: Arc<GroupCalls>,
    request: Request<Streaming<v1::RestoreGroupRequest>>,
) -> Result<v1::RestoreGroupResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let (_, extensions, mut requests) = request.into_parts();
    let first = next(&mut requests).await?.unwrap_or_default();
    let group = first.group.clone().unwrap_or_default();
    let change = change(&extensions, &caller, "group.restore", (&group.topic, &group.name));
    let restored = restored(&calls, &caller, &group, first, &mut requests).await;
    change.end(&restored, |info| Some(described::text(info)));
    let info = restored.map_err(refused(&group.topic, &group.name))?;
    Ok(v1::RestoreGroupResponse { group: Some(described::group(&info)) })
}

async fn restored(
    calls: &GroupCalls,
    caller: &Caller,
    group: &v1::Group,
    first: v1::SavedGroup,
    requests: &mut Streaming<v1::RestoreGroupRequest>,
) -> Result<Info, Error> {
    let (topic, name) = request::names(("part.group.topic", &group.topic), ("part.group.name", &group.name))?;
    caller.permit(Action::Admin, topic.as_str())?;
    let id = request::id("part.group.id", &group.id)?;
    let id = id.ok_or_else(|| Error::field("part.group.id", "is empty"))?;
    let saved_at = first.save_time.map(|time| time_of("part.save_time", &time)).transpose()?;
    let now = UnixMicros::now().0;
    let age = Duration::from_micros(now.saturating_sub(saved_at.map_or(now, |saved_at| saved_at.0)));
    let (mut parts, mut bytes) = (Vec::new(), 0);
    let mut part = Some(first);
    while let Some(found) = part {
        bytes += found.state.len();
        if bytes > STATE_BYTES_MAX {
            return Err(Error::field("part.state", "all parts together have more than 128 MiB"));
        }
        parts.push(found.state);
        part = next(requests).await.map_err(Error::Transport)?;
    }
    let saved =
        SavedState::decode(&parts, age).map_err(|error| Error::field("part.state", error.to_string()))?;
    if !saved.is_of(&topic, &name) {
        return Err(Error::field("part.state", "is of another group"));
    }
    if !saved.leaves_fences() {
        return Err(Error::field("part.save_time", TOO_OLD));
    }
    if let Some(topic) = saved.dead_letter_topic() {
        caller.permit(Action::Publish, topic.as_str())?;
    }
    Ok(calls.groups.restore(&topic, &name, id, saved).await?)
}

/// Reads the next part of a group; none at the end.
async fn next(requests: &mut Streaming<v1::RestoreGroupRequest>) -> Result<Option<v1::SavedGroup>, Status> {
    let next = tokio::time::timeout(PART_TIMEOUT, requests.message()).await;
    let next =
        next.map_err(|_| Status::deadline_exceeded("the next part of the group did not come in time"))?;
    Ok(next?.map(|request| request.part.unwrap_or_default()))
}
