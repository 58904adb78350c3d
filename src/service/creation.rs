//! Whether a caller's quota lets it create one topic more, by asking for it or by using it first.
//! Never: creates one.

use super::status::Error;
use crate::auth::{self, Action, Caller, Creating};
use crate::record::TopicName;
use crate::storage;
use crate::topic::{self, Topics};

/// Topics listed at a time.
const PAGE: usize = 1000;

/// Sees that there is room for a topic that is created if it is not there; what is answered is held
/// meanwhile. `action` is what the caller wants with the topic, and may.
///
/// # Errors
/// The quota is used up, or the server is not serving.
pub(super) async fn room(
    topics: &Topics,
    caller: &Caller,
    action: Action,
    name: &TopicName,
) -> Result<Option<Creating>, Error> {
    let Some(most) = caller.topics_max() else { return Ok(None) };
    if exists(topics, name).await? {
        return Ok(None);
    }
    let creating = caller.creating().await;
    let (mut count, mut after) = (0, None::<TopicName>);
    loop {
        let page = topics.names("", after.as_ref().map(TopicName::as_str), PAGE).await?;
        // Created while others had their turn.
        if page.contains(name) {
            return Ok(None);
        }
        let same = page.iter().filter(|name| caller.allows(action, name.as_str()));
        count += same.count() as u64;
        if count >= most {
            return Err(auth::Error::from(caller.topics_exceeded(most)).into());
        }
        if page.len() < PAGE {
            return Ok(Some(creating));
        }
        after = page.last().cloned();
    }
}

async fn exists(topics: &Topics, name: &TopicName) -> Result<bool, Error> {
    match topics.get(name).await {
        Ok(_) => Ok(true),
        Err(topic::Error::Storage(storage::Error::TopicNotFound)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
