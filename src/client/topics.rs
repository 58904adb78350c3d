//! Administration of topics over the typed TopicService.
//! Never: repeats a call that may have arrived; a person or a script waits for the answer.

use tonic::{Response, Status};
use tracing::debug;

use super::connect::{Client, Transport};
use super::error::{Error, Origin};
use crate::proto::v1;
use crate::proto::v1::topic_service_client::TopicServiceClient;

type Service = TopicServiceClient<Transport>;

/// Creates, inspects, changes and deletes topics.
#[derive(Clone, Debug)]
pub struct Topics {
    client: Client,
}

/// Topics asked for at once.
const PAGE: u32 = 1000;

/// Pages of topics by name. A server whose pages lead nowhere is an error, not a list without end.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    topics: &'a Topics,
    request: v1::ListTopicsRequest,
    /// The greatest name so far.
    last: String,
    is_over: bool,
}

impl Pages<'_> {
    /// The next page, which may be empty; none after the last.
    ///
    /// # Errors
    /// The server's or the transport's, or names that do not rise.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<v1::Topic>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.topics.list(self.request.clone()).await?;
        for topic in &page.topics {
            if !self.last.is_empty() && topic.name <= self.last {
                return Err(astray(&format!("it names {:?} after {:?}", topic.name, self.last)));
            }
            self.last.clone_from(&topic.name);
        }
        self.is_over = page.next_page_token.is_empty();
        if !self.is_over && page.next_page_token == self.request.page_token {
            return Err(astray("a page is followed by itself"));
        }
        self.request.page_token = page.next_page_token;
        Ok(Some(page.topics))
    }
}

fn astray(why: &str) -> Error {
    Error::local(tonic::Code::Internal, format!("the server's list of topics does not go on: {why}"))
}

/// The answer's topic, which the contract says is there.
fn present(topic: Option<v1::Topic>) -> Result<v1::Topic, Error> {
    topic.ok_or_else(|| Error::local(tonic::Code::Internal, "the server's answer names no topic"))
}

impl Topics {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// One call to the first server that can be reached: where none could, nothing happened.
    async fn call<T>(
        &self,
        method: &'static str,
        call: impl AsyncFn(Service) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut untried = self.client.servers();
        loop {
            let endpoint = self.client.endpoint(method, None);
            debug!(method, server = endpoint.url, "calling");
            let limit = self.client.answer_timeout();
            let error = match tokio::time::timeout(limit, call(self.client.administration(&endpoint))).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => Error::from_status(&status, &endpoint.url),
                Err(_) => Error::transport(format!(
                    "{} has not answered for {}; what was asked may be done all the same",
                    endpoint.url,
                    humantime::format_duration(limit)
                )),
            };
            endpoint.failed(&error);
            untried -= 1;
            if error.origin() != Origin::Connect || untried == 0 {
                return Err(error);
            }
            self.client.move_on(endpoint.index);
        }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`, a bad name, or the transport's.
    pub async fn create(&self, name: &str, retention: Option<v1::Retention>) -> Result<v1::Topic, Error> {
        let topic = v1::Topic { name: name.to_owned(), retention, ..Default::default() };
        let request = v1::CreateTopicRequest { topic: Some(topic) };
        present(
            self.call("streamway.v1.TopicService/CreateTopic", async |mut service| {
                service.create_topic(request.clone()).await
            })
            .await?
            .topic,
        )
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, or the transport's.
    pub async fn get(&self, name: &str) -> Result<v1::Topic, Error> {
        let request = v1::GetTopicRequest { name: name.to_owned() };
        present(
            self.call("streamway.v1.TopicService/GetTopic", async |mut service| {
                service.get_topic(request.clone()).await
            })
            .await?
            .topic,
        )
    }

    /// One page of topics by name. Ask on with `next_page_token` until that is empty: a page may hold no
    /// topic though others follow.
    ///
    /// # Errors
    /// The server's or the transport's.
    pub async fn list(&self, request: v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Error> {
        self.call("streamway.v1.TopicService/ListTopics", async |mut service| {
            service.list_topics(request.clone()).await
        })
        .await
    }

    /// All topics whose name begins with this, a page at a time.
    pub(crate) const fn pages(&self, prefix: String) -> Pages<'_> {
        let request = v1::ListTopicsRequest { page_size: PAGE, page_token: String::new(), prefix };
        Pages { topics: self, request, last: String::new(), is_over: false }
    }

    /// Changes the settings named in `paths`, `retention.max_age` for one; all of them where none is.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, a bad path or value, or the transport's.
    pub async fn update(&self, topic: v1::Topic, paths: Vec<String>) -> Result<v1::Topic, Error> {
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = v1::UpdateTopicRequest { topic: Some(topic), update_mask };
        present(
            self.call("streamway.v1.TopicService/UpdateTopic", async |mut service| {
                service.update_topic(request.clone()).await
            })
            .await?
            .topic,
        )
    }

    /// Deletes a topic with all its records; where `epoch` is not empty, only that incarnation.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `EPOCH_CHANGED`, or the transport's.
    pub async fn delete(&self, name: &str, epoch: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest { name: name.to_owned(), epoch: epoch.to_owned() };
        self.call("streamway.v1.TopicService/DeleteTopic", async |mut service| {
            service.delete_topic(request.clone()).await
        })
        .await
        .map(drop)
    }

    /// Forgets whole batches before an offset; answers the real earliest offset.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `OFFSET_BEYOND_TAIL`, `EPOCH_CHANGED`, or the transport's.
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
