//! Administration of topics. A call that may have reached a server is not repeated.

use std::time::Instant;

use tonic::{Response, Status};
use tracing::debug;

use super::connector::{Connector, Transport};
use super::error::Error;
use super::retry::RetryPolicy;
use crate::proto::v1;
use crate::proto::v1::topic_service_client::TopicServiceClient;

type Service = TopicServiceClient<Transport>;

/// Creates, inspects, changes and deletes topics.
#[derive(Clone, Debug)]
pub struct Topics {
    connector: Connector,
}

impl Topics {
    pub(super) const fn new(connector: Connector) -> Self {
        Self { connector }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl AsyncFn(Service) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let connector = &self.connector;
        connector.answer_of_any(method, async |target| call(connector.administration(target)).await).await
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`, an invalid name, or the transport fails.
    pub async fn create(&self, name: &str, retention: Option<v1::Retention>) -> Result<v1::Topic, Error> {
        let topic = v1::Topic { name: name.to_owned(), retention, ..Default::default() };
        let request = v1::CreateTopicRequest { topic: Some(topic) };
        let answer = self
            .call("streamway.v1.TopicService/CreateTopic", async |mut service| {
                service.create_topic(request.clone()).await
            })
            .await?;
        present(answer.topic)
    }

    /// Returns the description of a topic.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, or the transport fails.
    pub async fn get(&self, name: &str) -> Result<v1::Topic, Error> {
        let request = v1::GetTopicRequest { name: name.to_owned() };
        let answer = self
            .call("streamway.v1.TopicService/GetTopic", async |mut service| {
                service.get_topic(request.clone()).await
            })
            .await?;
        present(answer.topic)
    }

    /// Lists one page of topics by name. Repeat with `next_page_token` until that is empty: a page may hold no topic
    /// although others follow.
    ///
    /// # Errors
    /// The call fails.
    pub async fn list(&self, request: v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Error> {
        self.call("streamway.v1.TopicService/ListTopics", async |mut service| {
            service.list_topics(request.clone()).await
        })
        .await
    }

    /// Lists all topics whose name begins with `prefix`, a page at a time.
    pub(crate) const fn pages(&self, prefix: String) -> Pages<'_> {
        let request = v1::ListTopicsRequest { page_size: PAGE, page_token: String::new(), prefix };
        Pages { topics: self, request, last: String::new(), is_over: false }
    }

    /// Changes the settings named in `paths`, for example `retention.max_age`; all of them where `paths` is empty.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, an invalid path or value, or the transport fails.
    pub async fn update(&self, topic: v1::Topic, paths: Vec<String>) -> Result<v1::Topic, Error> {
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = v1::UpdateTopicRequest { topic: Some(topic), update_mask };
        let answer = self
            .call("streamway.v1.TopicService/UpdateTopic", async |mut service| {
                service.update_topic(request.clone()).await
            })
            .await?;
        present(answer.topic)
    }

    /// Stores a part of a topic's backup, and returns the topic. As the server skips what is stored already, the call is
    /// repeated where that may help.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`, `OFFSET_NUMBERING_DIFFERS`, an invalid batch, or the server is away for longer than
    /// `policy` allows.
    pub async fn restore(
        &self,
        request: &v1::RestoreTopicRequest,
        policy: RetryPolicy,
    ) -> Result<v1::Topic, Error> {
        let mut retry = self.connector.retry(policy);
        loop {
            let answer = self
                .call("streamway.v1.TopicService/RestoreTopic", async |mut service| {
                    service.restore_topic(request.clone()).await
                })
                .await;
            let error = match answer {
                Ok(answer) => return present(answer.topic),
                Err(error) => error,
            };
            let Some(delay) = retry.delay(&error, Instant::now()) else { return Err(error) };
            debug!(error = error.message(), "the restore is interrupted, will be repeated");
            tokio::time::sleep(delay).await;
        }
    }

    /// Lists one page of the request ids that the server remembers of a topic, for a backup. Repeat with `next_page_token` until
    /// that is empty.
    ///
    /// # Errors
    /// `EPOCH_CHANGED`, no permission, a server of an earlier version, or the transport fails.
    pub async fn request_ids(
        &self,
        request: v1::ListRequestIdsRequest,
    ) -> Result<v1::ListRequestIdsResponse, Error> {
        self.call("streamway.v1.TopicService/ListRequestIds", async |mut service| {
            service.list_request_ids(request.clone()).await
        })
        .await
    }

    /// Deletes a topic with all its records. If `epoch` is not empty, only that incarnation is deleted.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `EPOCH_CHANGED`, or the transport fails.
    pub async fn delete(&self, name: &str, epoch: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest { name: name.to_owned(), epoch: epoch.to_owned() };
        self.call("streamway.v1.TopicService/DeleteTopic", async |mut service| {
            service.delete_topic(request.clone()).await
        })
        .await
        .map(drop)
    }

    /// Removes whole batches before an offset, and returns the earliest offset that is left.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `OFFSET_BEYOND_TAIL`, `EPOCH_CHANGED`, or the transport fails.
    pub async fn trim(&self, name: &str, before_offset: u64, epoch: &str) -> Result<u64, Error> {
        let request = v1::TrimTopicRequest { name: name.to_owned(), before_offset, epoch: epoch.to_owned() };
        let answer = self
            .call("streamway.v1.TopicService/TrimTopic", async |mut service| {
                service.trim_topic(request.clone()).await
            })
            .await?;
        Ok(answer.earliest_offset)
    }
}

/// Number of topics in one page.
const PAGE: u32 = 1000;

/// Pages of topics by name. A server whose pages do not advance is an error, not an endless list.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    topics: &'a Topics,
    request: v1::ListTopicsRequest,
    /// The last name of the last page.
    last: String,
    is_over: bool,
}

impl Pages<'_> {
    /// Requests the next page, which may be empty; none after the last.
    ///
    /// # Errors
    /// The call fails, or the names are not in order.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<v1::Topic>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.topics.list(self.request.clone()).await?;
        for topic in &page.topics {
            if !self.last.is_empty() && topic.name <= self.last {
                return Err(stuck(&format!("it names {:?} after {:?}", topic.name, self.last)));
            }
            self.last.clone_from(&topic.name);
        }
        self.is_over = page.next_page_token.is_empty();
        if !self.is_over && page.next_page_token == self.request.page_token {
            return Err(stuck("a page is followed by itself"));
        }
        self.request.page_token = page.next_page_token;
        Ok(Some(page.topics))
    }
}

fn stuck(why: &str) -> Error {
    Error::local(tonic::Code::Internal, format!("the server's list of topics is not in order: {why}"))
}

/// The topic of an answer, which always has one.
fn present(topic: Option<v1::Topic>) -> Result<v1::Topic, Error> {
    topic.ok_or_else(|| Error::local(tonic::Code::Internal, "the server's answer holds no topic"))
}
