//! Whether a caller's quota lets it create one topic more, by asking for it or by using it first.
//! Never: creates one.

use super::listing::{Names, STRIDE};
use super::status::Error;
use crate::auth::{self, Action, Caller, CreationPermit};
use crate::record::TopicName;
use crate::storage;
use crate::topic::{self, Topics};

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
) -> Result<Option<CreationPermit>, Error> {
    let Some(most) = caller.topics_max() else { return Ok(None) };
    if exists(topics, name).await? {
        return Ok(None);
    }
    let creating = caller.creating().await;
    // Created while others had their turn.
    if exists(topics, name).await? {
        return Ok(None);
    }
    // Only where a name can be one that it may do the same to, and only so many as matter.
    let (scope, mut names) = (caller.scope(action), Names::new(topics, ""));
    let (mut count, mut after) = (0, String::new());
    while let Some(span) = scope.next("", &after) {
        let missing = usize::try_from(most - count).unwrap_or(usize::MAX);
        let limit = if span.is_name {
            1
        } else if span.is_whole {
            missing.min(STRIDE)
        } else {
            STRIDE
        };
        let page = names.page(span, &after, limit).await?;
        let same = page.iter().map(TopicName::as_str).filter(|name| match span.is_name {
            true => *name == span.text,
            false => span.is_whole || scope.holds(name),
        });
        count += same.count() as u64;
        if count >= most {
            return Err(auth::Error::from(caller.topics_exceeded(most)).into());
        }
        after = match page.last() {
            Some(last) if !span.is_name && page.len() == limit => last.as_str().to_owned(),
            _ => span.end(),
        };
        tokio::task::yield_now().await;
    }
    Ok(Some(creating))
}

async fn exists(topics: &Topics, name: &TopicName) -> Result<bool, Error> {
    match topics.get(name).await {
        Ok(_) => Ok(true),
        Err(topic::Error::Storage(storage::Error::TopicNotFound)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
