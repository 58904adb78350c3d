//! The source of a copy: a server, or a backup. It returns whole batches only, and none that was published after the
//! copy began.

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use tonic::Code;

use super::progress::Progress;
use crate::cli::Failure;
use crate::cli::backup::{Backup, RequestIds, Saved, SavedBatches};
use crate::client::{Client, Error, RetryPolicy, Start, Subscriber, SubscriberOptions};
use crate::proto::v1;
use crate::record::block::{Block, Blocks};
use crate::record::{Epoch, Position, TopicName};

/// A server or a backup.
#[derive(Debug)]
pub(super) enum Source {
    Server(Client, RetryPolicy),
    Backup(Backup),
}

impl Source {
    pub(super) fn backup(path: &Path, progress: &Progress) -> Result<Self, Failure> {
        let len = std::fs::metadata(path).map_or(0, |file| file.len());
        progress.stage("checking the backup", len);
        Ok(Self::Backup(Backup::open(path, |bytes| progress.pass(bytes))?))
    }

    /// Returns the named topics, or all topics if none are named.
    pub(super) async fn topics(&self, named: &[String]) -> Result<Vec<v1::Topic>, Failure> {
        let all = match self {
            Self::Backup(backup) => backup.topics.iter().map(|saved| saved.topic.clone()).collect(),
            Self::Server(client, _) if named.is_empty() => sound(list(client).await?)?,
            Self::Server(client, _) => {
                let mut topics = Vec::new();
                for name in named {
                    topics.push(client.topics().get(name).await?);
                }
                return sound(topics);
            }
        };
        let missing = named.iter().find(|name| all.iter().all(|topic| topic.name != **name));
        match missing {
            Some(name) => Err(Failure::failed(format!("the backup holds no topic {name}"))),
            None => Ok(all.into_iter().filter(|t| named.is_empty() || named.contains(&t.name)).collect()),
        }
    }

    /// Returns what a backup says about a topic; none if the source is a server.
    pub(super) fn saved(&self, topic: &v1::Topic) -> Option<&Saved> {
        let Self::Backup(backup) = self else { return None };
        backup.topics.iter().find(|saved| saved.topic.name == topic.name)
    }

    /// Returns the request ids of a topic of a backup; a server's are copied only to a backup.
    pub(super) fn request_ids(&self, saved: &Saved) -> Result<RequestIds, Failure> {
        match self {
            Self::Backup(backup) => backup.request_ids(saved),
            Self::Server(..) => Ok(RequestIds::new()),
        }
    }

    /// Returns a page of the request ids that a server remembers of a topic; none of a backup.
    pub(super) async fn page_of_request_ids(
        &self,
        topic: &v1::Topic,
        page_token: String,
    ) -> Result<v1::ListRequestIdsResponse, Error> {
        let Self::Server(client, _) = self else { return Ok(v1::ListRequestIdsResponse::default()) };
        let (name, epoch) = (topic.name.clone(), topic.epoch.clone());
        client.topics().request_ids(v1::ListRequestIdsRequest { name, epoch, page_token }).await
    }

    /// Returns the groups of a server's topic, in parts. A server without groups has none.
    pub(super) async fn served_groups(&self, topic: &v1::Topic) -> Result<Vec<v1::SavedGroup>, Failure> {
        let Self::Server(client, retry) = self else { return Ok(Vec::new()) };
        let parts = match client.groups().save(&topic.name, *retry).await {
            Err(error) if error.code() == Code::Unimplemented => Vec::new(),
            parts => parts?,
        };
        if parts.iter().filter_map(|part| part.group.as_ref()).any(|group| group.topic_epoch != topic.epoch) {
            return Err(recreated(&topic.name));
        }
        Ok(parts)
    }

    /// Returns the groups of a topic in a backup, each in its parts; none if the source is a server.
    pub(super) fn saved_groups(&self, topic: &v1::Topic) -> Result<Vec<Vec<v1::SavedGroup>>, Failure> {
        match (self, self.saved(topic)) {
            (Self::Backup(backup), Some(saved)) => backup.groups(saved),
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the batches of a topic: all of them, or those after a position.
    pub(super) fn batches(&self, topic: &v1::Topic, from: Option<Position>) -> Result<Batches, Failure> {
        match self {
            Self::Server(client, retry) => Ok(Batches::served(client, *retry, &topic.name, from)),
            Self::Backup(backup) => {
                let saved =
                    self.saved(topic).ok_or_else(|| Failure::failed("the backup has lost a topic"))?;
                Ok(Batches::Saved(Box::new(backup.batches(saved)?)))
            }
        }
    }
}

/// The failure of a copy whose topic was replaced meanwhile.
pub(super) fn recreated(topic: &str) -> Failure {
    Failure::failed(format!("topic {topic} of the source was deleted and created again meanwhile"))
}

async fn list(client: &Client) -> Result<Vec<v1::Topic>, Failure> {
    let service = client.topics();
    let (mut pages, mut topics) = (service.pages(String::new()), Vec::new());
    while let Some(page) = pages.next().await? {
        topics.extend(page);
    }
    Ok(topics)
}

/// Checks that the topics of a server can be copied. A backup with any other name or epoch could not be read.
fn sound(topics: Vec<v1::Topic>) -> Result<Vec<v1::Topic>, Failure> {
    for topic in &topics {
        if TopicName::parse(&topic.name).is_err() || Epoch::parse(&topic.epoch).is_none() {
            return Err(Failure::failed(format!(
                "the source names a topic {:?} with epoch {:?}, which no server of streamway has",
                topic.name, topic.epoch
            )));
        }
    }
    Ok(topics)
}

/// Reads the single batch in these bytes.
pub(super) fn whole(block: &Bytes) -> Result<Block<'_>, Failure> {
    let first = Blocks::new(block).next().and_then(Result::ok);
    first.ok_or_else(|| Failure::failed("a batch of the source is damaged"))
}

/// Batches of one topic in order. Each is whole, and encoded as a `batches` field.
#[derive(Debug)]
pub(super) enum Batches {
    Served(Box<Subscriber>, VecDeque<Bytes>),
    Saved(Box<SavedBatches>),
}

impl Batches {
    /// Returns the batches that a server's topic holds now.
    pub(super) fn served(client: &Client, retry: RetryPolicy, topic: &str, from: Option<Position>) -> Self {
        let options = SubscriberOptions {
            limit: Some(v1::ReadLimit { stop_at_tail: true, ..Default::default() }),
            retry,
            ..SubscriberOptions::new(topic, from.map_or(Start::Earliest, Start::Position))
        };
        Self::Served(Box::new(client.subscribe(options)), VecDeque::new())
    }

    /// Returns the position after what was returned, if a server gave it. After the last batch, that is the tail.
    pub(super) fn position(&self) -> Option<Position> {
        match self {
            Self::Served(subscriber, _) => subscriber.position(),
            Self::Saved(_) => None,
        }
    }

    /// Returns the next batch, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let (subscriber, ready) = match self {
            Self::Saved(batches) => return batches.next(),
            Self::Served(subscriber, ready) => (subscriber, ready),
        };
        while ready.is_empty() {
            let Some(delivery) = subscriber.next().await else { return Ok(None) };
            let delivery = delivery?;
            for block in delivery.batches() {
                // These are slices of the delivery, not copies.
                let bytes = block?.bytes;
                let run = delivery.runs.iter().find(|run| run.as_ptr_range().contains(&bytes.as_ptr()));
                ready.extend(run.map(|run| run.slice_ref(bytes)));
            }
        }
        Ok(ready.pop_front())
    }
}
