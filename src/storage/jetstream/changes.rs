//! Telling the other replicas that a topic was trimmed, deleted or set otherwise, so that they ask NATS at once
//! and not with their next regular question. A message may be lost: the regular question follows.

use std::sync::Arc;

use futures_util::StreamExt;

use super::names;
use super::nats::Nats;
use super::read;
use super::topic::Topic;
use crate::record::TopicName;

/// Subject of the messages, before the topic's name. No topic's own subject begins so, see [`names::subject`].
const PREFIX: &str = "streamway_changes.";

/// Tells the others. It is on its way once this resolves.
pub async fn announce(nats: &Nats, topic: &TopicName) {
    let subject = format!("{PREFIX}{}", names::escaped(topic));
    if let Err(error) = nats.client.publish(subject, bytes::Bytes::new()).await {
        tracing::debug!(topic = %topic, %error, "a change is not announced");
    }
}

/// Asks NATS what there is of a topic that `known` finds when a change of it is announced, until the log closes.
/// What is announced is not believed, as it may be old.
pub async fn listen(nats: Arc<Nats>, known: impl Fn(&TopicName) -> Option<Arc<Topic>>) {
    let listening = async {
        let Ok(mut changes) = nats.client.subscribe(format!("{PREFIX}*")).await else { return };
        while let Some(change) = changes.next().await {
            let topic = change.subject.strip_prefix(PREFIX).and_then(names::unescaped);
            if let Some(topic) = topic.and_then(|topic| known(&topic)) {
                let _ = read::fetch_end_shared(&topic).await;
            }
        }
    };
    tokio::select! {
        () = listening => {}
        () = nats.closing.cancelled() => {}
    }
}
