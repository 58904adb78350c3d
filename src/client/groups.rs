//! Administration of groups. A call that may have reached a server is not repeated.

use std::time::Instant;

use tonic::{Code, Response, Status};
use tracing::{debug, warn};

use super::connector::{Connector, Transport};
use super::error::Error;
use super::retry::RetryPolicy;
use crate::proto::v1;
use crate::wire::stubs::v1::group_service_client::GroupServiceClient;

type Service = GroupServiceClient<Transport>;

/// Number of groups in one page.
const PAGE: i32 = 1000;

/// Creates, inspects, changes and deletes groups.
#[derive(Clone, Debug)]
pub struct Groups {
    connector: Connector,
}

impl Groups {
    pub(super) const fn new(connector: Connector) -> Self {
        Self { connector }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl AsyncFn(Service) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let connector = &self.connector;
        connector.answer_of_any(method, async |target| call(connector.groups(target)).await).await
    }

    /// Creates a group with its topic, name and settings. It begins at the oldest record where there is no start.
    ///
    /// # Errors
    /// `GROUP_EXISTS`, `TOPIC_NOT_FOUND`, an invalid name or setting, or the transport fails.
    pub async fn create(&self, group: v1::Group, start: Option<v1::GroupStart>) -> Result<v1::Group, Error> {
        let request = v1::CreateGroupRequest { group: Some(group), start };
        let answer = self
            .call("streamway.v1.GroupService/CreateGroup", async |mut service| {
                service.create_group(request.clone()).await
            })
            .await?;
        present(answer.group)
    }

    /// Returns the description of a group, with its members.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, or the transport fails.
    pub async fn get(&self, topic: &str, name: &str) -> Result<v1::Group, Error> {
        let request = v1::GetGroupRequest { topic: topic.to_owned(), name: name.to_owned() };
        let answer = self
            .call("streamway.v1.GroupService/GetGroup", async |mut service| {
                service.get_group(request.clone()).await
            })
            .await?;
        present(answer.group)
    }

    /// Lists one page of groups by topic and name. Repeat with `next_page_token` until that is empty.
    ///
    /// # Errors
    /// The call fails.
    pub async fn list(&self, request: v1::ListGroupsRequest) -> Result<v1::ListGroupsResponse, Error> {
        self.call("streamway.v1.GroupService/ListGroups", async |mut service| {
            service.list_groups(request.clone()).await
        })
        .await
    }

    /// Lists all groups of a topic, or of all topics where that is empty.
    ///
    /// # Errors
    /// A call fails, or the server's pages do not advance.
    pub(crate) async fn all(&self, topic: &str) -> Result<Vec<v1::Group>, Error> {
        let mut request =
            v1::ListGroupsRequest { topic: topic.to_owned(), page_size: PAGE, page_token: String::new() };
        let mut groups: Vec<v1::Group> = Vec::new();
        loop {
            let page = self.list(request.clone()).await?;
            if !page.unreachable.is_empty() {
                warn!(damaged = ?page.unreachable, "some groups are not listed: their storage is damaged");
            }
            for group in page.groups {
                let is_next = |last: &v1::Group| (&last.topic, &last.name) < (&group.topic, &group.name);
                if !groups.last().is_none_or(is_next) {
                    return Err(stuck());
                }
                groups.push(group);
            }
            if page.next_page_token.is_empty() {
                return Ok(groups);
            }
            if page.next_page_token == request.page_token {
                return Err(stuck());
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Changes the settings named in `paths`, for example `settings.ack_deadline`. If the id is set, only that
    /// incarnation is changed.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, an invalid path or value, or the transport fails.
    pub async fn update(&self, group: v1::Group, paths: Vec<String>) -> Result<v1::Group, Error> {
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = v1::UpdateGroupRequest { group: Some(group), update_mask };
        let answer = self
            .call("streamway.v1.GroupService/UpdateGroup", async |mut service| {
                service.update_group(request.clone()).await
            })
            .await?;
        present(answer.group)
    }

    /// Deletes a group. If `id` is not empty, only that incarnation is deleted.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, or the transport fails.
    pub async fn delete(&self, topic: &str, name: &str, id: &str) -> Result<(), Error> {
        let request =
            v1::DeleteGroupRequest { topic: topic.to_owned(), name: name.to_owned(), id: id.to_owned() };
        self.call("streamway.v1.GroupService/DeleteGroup", async |mut service| {
            service.delete_group(request.clone()).await
        })
        .await
        .map(drop)
    }

    /// Deletes a damaged internal topic, with all groups that it stores.
    ///
    /// # Errors
    /// `GROUPS_NOT_DAMAGED`, the caller may not operate the server, or the transport fails.
    pub async fn reset(&self, internal_topic: &str) -> Result<(), Error> {
        let request = v1::ResetGroupsRequest { internal_topic: internal_topic.to_owned() };
        self.call("streamway.v1.GroupService/ResetGroups", async |mut service| {
            service.reset_groups(request.clone()).await
        })
        .await
        .map(drop)
    }

    /// Lets a group go on elsewhere: everything before counts as settled, and nothing from there on.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `OFFSET_BEYOND_TAIL`, or the transport fails.
    pub async fn seek(&self, topic: &str, name: &str, to: v1::GroupStart) -> Result<v1::Group, Error> {
        let request = v1::SeekGroupRequest { topic: topic.to_owned(), name: name.to_owned(), to: Some(to) };
        let answer = self
            .call("streamway.v1.GroupService/SeekGroup", async |mut service| {
                service.seek_group(request.clone()).await
            })
            .await?;
        present(answer.group)
    }

    /// Returns the groups of a topic as a backup holds them, in parts. The call is repeated where that may help.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, or the server is away for longer than `policy` allows.
    pub async fn save(&self, topic: &str, policy: RetryPolicy) -> Result<Vec<v1::SavedGroup>, Error> {
        let request = v1::SaveGroupsRequest { topic: topic.to_owned() };
        let save = async |mut service: Service| {
            let mut answers = service.save_groups(request.clone()).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(answer) = answers.message().await? {
                parts.extend(answer.part);
            }
            Ok(Response::new(parts))
        };
        self.repeated("streamway.v1.GroupService/SaveGroups", policy, save).await
    }

    /// Creates a group as a backup of it was, from its parts. The call is repeated where that may help.
    ///
    /// # Errors
    /// `GROUP_EXISTS`, `EPOCH_CHANGED` where the topic is not of this backup, or the server is away for longer than `policy`
    /// allows.
    pub async fn restore(&self, parts: &[v1::SavedGroup], policy: RetryPolicy) -> Result<v1::Group, Error> {
        let requests: Vec<v1::RestoreGroupRequest> =
            parts.iter().map(|part| v1::RestoreGroupRequest { part: Some(part.clone()) }).collect();
        let restore = async |mut service: Service| {
            service.restore_group(futures_util::stream::iter(requests.clone())).await
        };
        let answer = self.repeated("streamway.v1.GroupService/RestoreGroup", policy, restore).await?;
        present(answer.group)
    }

    /// Makes a call that does no harm when it is repeated.
    async fn repeated<T>(
        &self,
        method: &'static str,
        policy: RetryPolicy,
        call: impl AsyncFn(Service) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut retry = self.connector.retry(policy);
        loop {
            let error = match self.call(method, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(delay) = retry.delay(&error, Instant::now()) else { return Err(error) };
            debug!(error = error.message(), method, "the call is interrupted, will be repeated");
            tokio::time::sleep(delay).await;
        }
    }

    /// Delivers records again that were given up.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, an invalid range, or the transport fails.
    pub async fn redrive(
        &self,
        request: v1::RedriveDeadLettersRequest,
    ) -> Result<v1::RedriveDeadLettersResponse, Error> {
        self.call("streamway.v1.GroupService/RedriveDeadLetters", async |mut service| {
            service.redrive_dead_letters(request.clone()).await
        })
        .await
    }
}

fn stuck() -> Error {
    Error::local(Code::Internal, "the server's list of groups is not in order")
}

/// The group of an answer, which always has one.
fn present(group: Option<v1::Group>) -> Result<v1::Group, Error> {
    group.ok_or_else(|| Error::local(Code::Internal, "the server's answer holds no group"))
}
