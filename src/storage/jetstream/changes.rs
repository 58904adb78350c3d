//! Announcements of trims, deletions and changed settings to the other replicas. A replica that receives one asks NATS
//! at once instead of with its next regular request. If an announcement is lost, the regular request finds the change.

use std::sync::Arc;

use futures_util::StreamExt;

use super::lookup;
use super::names;
use super::nats::Nats;
use super::topic::Topic;
use crate::record::TopicName;

/// Prefix of the announcements' subjects, before the topic's name. No subject of a topic begins with it, see
/// [`names::subject`].
const PREFIX: &str = "streamway_changes.";

/// Announces a change of a topic to the other replicas.
pub async fn announce(nats: &Nats, topic: &TopicName) {
    let subject = format!("{PREFIX}{}", names::escaped(topic));
    if let Err(error) = nats.client.publish(subject, bytes::Bytes::new()).await {
        tracing::debug!(topic = %topic, %error, "a change is not announced");
    }
}

/// Listens for announcements until the log closes, and asks NATS for the current state of each announced topic that
/// `known` finds. An announcement has no content, so it cannot be outdated.
pub async fn listen(nats: Arc<Nats>, known: impl Fn(&TopicName) -> Option<Arc<Topic>>) {
    let listening = async {
        let Ok(mut changes) = nats.client.subscribe(format!("{PREFIX}*")).await else { return };
        while let Some(change) = changes.next().await {
            let topic = change.subject.strip_prefix(PREFIX).and_then(names::unescaped);
            if let Some(topic) = topic.and_then(|topic| known(&topic)) {
                let _ = lookup::fetch_end_shared(&topic).await;
            }
        }
    };
    tokio::select! {
        () = listening => {}
        () = nats.closing.cancelled() => {}
    }
}
