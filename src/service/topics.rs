//! TopicService: create, get, list, update, delete, trim and restore.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::changes::{self, Change};
use super::described::described;
use super::request;
use super::restore::{self, Restore};
use super::status::{Context, Error, status};
use super::{creation, listing};
use crate::auth::{Action, Auth, Caller};
use crate::config::Config;
use crate::proto::v1;
use crate::record::{BatchLimits, Offset, TopicName};
use crate::storage::{Retention, TopicInfo};
use crate::topic::{Connection, Topics};
use crate::wire::stubs::v1::topic_service_server::TopicService;

/// Most characters of a request that an error repeats.
const SHOWN_MAX: usize = 64;

/// Implements the administration of topics.
#[derive(Clone)]
pub struct Administration {
    topics: Topics,
    auth: Auth,
    batch_limits: BatchLimits,
    /// Lock for calls that read a topic's settings to change them, and for those that replace the topic.
    settings: Arc<Mutex<()>>,
}

impl Administration {
    /// Administers these topics.
    #[must_use]
    pub fn new(topics: Topics, auth: Auth, config: &Config) -> Self {
        let batch_limits =
            BatchLimits { records_max: config.batch_records_max, bytes_max: config.batch_bytes_max };
        Self { topics, auth, batch_limits, settings: Arc::default() }
    }

    /// Returns the caller.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let found = self.auth.caller(request.extensions().get());
        found.map_err(|error| status(&error.into(), &Context::default()))
    }

    async fn create(&self, caller: &Caller, topic: v1::Topic) -> Result<TopicInfo, Error> {
        let name = request::topic("topic.name", &topic.name)?;
        caller.permit(Action::Admin, name.as_str())?;
        let retention = topic.retention.map_or(Ok(Retention::default()), |r| retention(&r))?;
        let _room = creation::room(&self.topics, caller, Action::Admin, &name).await?;
        Ok(self.topics.create(name, retention).await?)
    }

    async fn update(
        &self,
        caller: &Caller,
        topic: v1::Topic,
        mask: Option<prost_types::FieldMask>,
        change: &mut Change,
    ) -> Result<TopicInfo, Error> {
        let name = request::topic("topic.name", &topic.name)?;
        caller.permit(Action::Admin, name.as_str())?;
        let wanted = topic.retention.map_or(Ok(Retention::default()), |r| retention(&r))?;
        let mask = mask.unwrap_or_default();
        let _alone = self.settings.lock().await;
        let info = self.topics.get(&name).await?.info();
        change.before(&info);
        let mut kept = if mask.paths.is_empty() { wanted } else { info.retention };
        for path in &mask.paths {
            match path.as_str() {
                "retention" => kept = wanted,
                "retention.max_age" => kept.max_age = wanted.max_age,
                "retention.max_bytes" => kept.max_bytes = wanted.max_bytes,
                "retention.max_records" => kept.max_records = wanted.max_records,
                other => {
                    let shown: String = other.chars().take(SHOWN_MAX).collect();
                    let rule = format!("{shown:?} is not a field that can be changed");
                    return Err(Error::field("update_mask.paths", rule));
                }
            }
        }
        Ok(self.topics.update(&name, kept).await?)
    }

    async fn delete(
        &self,
        caller: &Caller,
        asked: &v1::DeleteTopicRequest,
        change: &mut Change,
    ) -> Result<(), Error> {
        let name = request::topic("name", &asked.name)?;
        let epoch = request::epoch("epoch", &asked.epoch)?;
        caller.permit(Action::Admin, name.as_str())?;
        let _alone = self.settings.lock().await;
        self.look_before(&name, change);
        Ok(self.topics.delete(&name, epoch).await?)
    }

    async fn trim(
        &self,
        caller: &Caller,
        asked: &v1::TrimTopicRequest,
        change: &mut Change,
    ) -> Result<Offset, Error> {
        let name = request::topic("name", &asked.name)?;
        let epoch = request::epoch("epoch", &asked.epoch)?;
        caller.permit(Action::Admin, name.as_str())?;
        self.look_before(&name, change);
        Ok(self.topics.trim(&name, epoch, Offset::new(asked.before_offset)).await?)
    }

    async fn restore(
        &self,
        caller: &Caller,
        connection: &Arc<Connection>,
        asked: &v1::RestoreTopicRequest,
    ) -> Result<TopicInfo, Error> {
        caller.permit(Action::Admin, request::topic("name", &asked.name)?.as_str())?;
        // The request is in memory, and so is a copy of its records until they are stored.
        let bytes = asked.batches.iter().map(|saved| 2 * saved.batch.len()).sum();
        let permit = Arc::new(connection.admission.clone().acquire(bytes).await?);
        let restore = Restore::check(&self.topics, asked).await?;
        let batches = restore.batches(&asked.batches, self.batch_limits)?;
        let room = creation::room(&self.topics, caller, Action::Admin, &restore.name).await?;
        let topic = restore.topic(&self.topics).await?;
        drop(room);
        restore.store(&*topic, batches, &permit).await?;
        Ok(topic.info())
    }

    /// Notes a topic as it is before a change, if that is known without asking the storage.
    fn look_before(&self, name: &TopicName, change: &mut Change) {
        if let Some(topic) = self.topics.known(name) {
            change.before(&topic.info());
        }
    }
}

/// Begins the record of a change that a request asks for.
fn change<T>(request: &Request<T>, caller: &Caller, action: &'static str, topic: &str) -> Change {
    let call = changes::registered(request.extensions()).map(|call| &**call);
    let shown = topic.get(..topic.len().min(TopicName::MAX_LEN)).unwrap_or_default();
    Change::new(changes::actor(caller, call), action, shown.to_owned())
}

/// Makes the answer, or the status of its error.
fn answer<T>(topic: String, result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status(&error, &Context::topic(topic)))
}

#[tonic::async_trait]
impl TopicService for Administration {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let asked = request.get_ref().topic.as_ref().map_or("", |topic| &topic.name);
        let change = change(&request, &caller, "topic.create", asked);
        let topic = request.into_inner().topic.unwrap_or_default();
        let (name, created) = (topic.name.clone(), self.create(&caller, topic).await);
        change.end(&created, |info| Some(changes::described(info)));
        answer(name, created.map(|info| v1::CreateTopicResponse { topic: Some(described(&info)) }))
    }

    async fn get_topic(
        &self,
        request: Request<v1::GetTopicRequest>,
    ) -> Result<Response<v1::GetTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let name = request.into_inner().name;
        let found = async {
            let asked = request::topic("name", &name)?;
            caller.permit(Action::Any, asked.as_str())?;
            let topic = self.topics.get(&asked).await?;
            Ok(v1::GetTopicResponse { topic: Some(described(&topic.info())) })
        };
        let found = found.await;
        answer(name, found)
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let caller = self.caller(&request)?;
        answer(String::new(), listing::list(&self.topics, &caller, request.get_ref()).await)
    }

    async fn update_topic(
        &self,
        request: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let asked = request.get_ref().topic.as_ref().map_or("", |topic| &topic.name);
        let mut change = change(&request, &caller, "topic.update", asked);
        let v1::UpdateTopicRequest { topic, update_mask } = request.into_inner();
        let topic = topic.unwrap_or_default();
        let name = topic.name.clone();
        let updated = self.update(&caller, topic, update_mask, &mut change).await;
        change.end(&updated, |info| Some(changes::described(info)));
        answer(name, updated.map(|info| v1::UpdateTopicResponse { topic: Some(described(&info)) }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let mut change = change(&request, &caller, "topic.delete", &request.get_ref().name);
        let asked = request.into_inner();
        let deleted = self.delete(&caller, &asked, &mut change).await;
        change.end(&deleted, |()| None);
        answer(asked.name, deleted.map(|()| v1::DeleteTopicResponse {}))
    }

    async fn trim_topic(
        &self,
        request: Request<v1::TrimTopicRequest>,
    ) -> Result<Response<v1::TrimTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let mut change = change(&request, &caller, "topic.trim", &request.get_ref().name);
        let asked = request.into_inner();
        let trimmed = self.trim(&caller, &asked, &mut change).await;
        change.end(&trimmed, |earliest| {
            Some(format!("{{\"before_offset\":{},\"earliest_offset\":{earliest}}}", asked.before_offset))
        });
        let response = |earliest: Offset| v1::TrimTopicResponse { earliest_offset: earliest.get() };
        answer(asked.name, trimmed.map(response))
    }

    async fn restore_topic(
        &self,
        request: Request<v1::RestoreTopicRequest>,
    ) -> Result<Response<v1::RestoreTopicResponse>, Status> {
        let caller = self.caller(&request)?;
        let change = change(&request, &caller, "topic.restore", &request.get_ref().name);
        let connection = request.extensions().get().unwrap_or_else(|| self.topics.connections()).clone();
        let asked = request.into_inner();
        // A restore takes many calls, of which the first creates the topic.
        let name = TopicName::parse(&asked.name).ok();
        let is_first = name.is_none_or(|name| self.topics.known(&name).is_none());
        let restored = Box::pin(self.restore(&caller, &connection, &asked)).await;
        if is_first || restored.is_err() {
            change.end(&restored, |info| Some(changes::described(info)));
        }
        answer(asked.name, restored.map(|info| v1::RestoreTopicResponse { topic: Some(described(&info)) }))
    }

    async fn list_request_ids(
        &self,
        request: Request<v1::ListRequestIdsRequest>,
    ) -> Result<Response<v1::ListRequestIdsResponse>, Status> {
        let caller = self.caller(&request)?;
        let asked = request.into_inner();
        let listed = async {
            caller.permit(Action::Admin, request::topic("name", &asked.name)?.as_str())?;
            restore::request_ids(&self.topics, &asked).await
        };
        let listed = listed.await;
        answer(asked.name, listed)
    }
}

fn retention(asked: &v1::Retention) -> Result<Retention, Error> {
    let some = |value: u64| (value > 0).then_some(value);
    let max_age = asked.max_age.as_ref().map(|age| request::duration("topic.retention.max_age", age));
    Ok(Retention {
        max_age: max_age.transpose()?.filter(|age| !age.is_zero()),
        max_bytes: some(asked.max_bytes),
        max_records: some(asked.max_records),
    })
}
