//! Administration of topics over the typed TopicService.
//! Never: retries; a person or a script waits for the answer.

use tonic::transport::Channel;

use super::connect::{Client, Endpointed};
use super::error::Error;
use crate::proto::v1;
use crate::proto::v1::topic_service_client::TopicServiceClient;

/// Creates, inspects, changes and deletes topics.
#[derive(Clone, Debug)]
pub struct Topics {
    client: Client,
}

/// The answer's topic, which the contract says is there.
fn present(topic: Option<v1::Topic>) -> Result<v1::Topic, Error> {
    topic.ok_or_else(|| Error::local(tonic::Code::Internal, "the server's answer names no topic"))
}

impl Topics {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> (Endpointed, TopicServiceClient<Channel>) {
        let endpoint = self.client.endpoint();
        let service = TopicServiceClient::new(endpoint.channel.clone());
        (endpoint, service)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`, a bad name, or the transport's.
    pub async fn create(&self, name: &str, retention: Option<v1::Retention>) -> Result<v1::Topic, Error> {
        let (endpoint, mut service) = self.service();
        let topic = v1::Topic { name: name.to_owned(), retention, ..Default::default() };
        let answer = service.create_topic(v1::CreateTopicRequest { topic: Some(topic) }).await;
        present(answer.map_err(|status| Error::from_status(&status, &endpoint.url))?.into_inner().topic)
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, or the transport's.
    pub async fn get(&self, name: &str) -> Result<v1::Topic, Error> {
        let (endpoint, mut service) = self.service();
        let answer = service.get_topic(v1::GetTopicRequest { name: name.to_owned() }).await;
        present(answer.map_err(|status| Error::from_status(&status, &endpoint.url))?.into_inner().topic)
    }

    /// One page of topics by name. Ask on with `next_page_token`; it is empty on the last page.
    ///
    /// # Errors
    /// The server's or the transport's.
    pub async fn list(&self, request: v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Error> {
        let (endpoint, mut service) = self.service();
        let answer = service.list_topics(request).await;
        Ok(answer.map_err(|status| Error::from_status(&status, &endpoint.url))?.into_inner())
    }

    /// Changes the settings named in `paths`, `retention.max_age` for one; all of them where none is.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, a bad path or value, or the transport's.
    pub async fn update(&self, topic: v1::Topic, paths: Vec<String>) -> Result<v1::Topic, Error> {
        let (endpoint, mut service) = self.service();
        let update_mask = Some(prost_types::FieldMask { paths });
        let answer = service.update_topic(v1::UpdateTopicRequest { topic: Some(topic), update_mask }).await;
        present(answer.map_err(|status| Error::from_status(&status, &endpoint.url))?.into_inner().topic)
    }

    /// Deletes a topic with all its records; where `epoch` is not empty, only that incarnation.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `EPOCH_CHANGED`, or the transport's.
    pub async fn delete(&self, name: &str, epoch: &str) -> Result<(), Error> {
        let (endpoint, mut service) = self.service();
        let request = v1::DeleteTopicRequest { name: name.to_owned(), epoch: epoch.to_owned() };
        let answer = service.delete_topic(request).await;
        answer.map(|_| ()).map_err(|status| Error::from_status(&status, &endpoint.url))
    }

    /// Forgets whole batches before an offset; answers the real earliest offset.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `OFFSET_BEYOND_TAIL`, `EPOCH_CHANGED`, or the transport's.
    pub async fn trim(&self, name: &str, before_offset: u64, epoch: &str) -> Result<u64, Error> {
        let (endpoint, mut service) = self.service();
        let (name, epoch) = (name.to_owned(), epoch.to_owned());
        let answer = service.trim_topic(v1::TrimTopicRequest { name, before_offset, epoch }).await;
        let answer = answer.map_err(|status| Error::from_status(&status, &endpoint.url))?;
        Ok(answer.into_inner().earliest_offset)
    }
}
