//! The check that a caller's quota has room for one more topic, created explicitly or on first use.

use super::listing::{Names, STRIDE};
use super::status::Error;
use crate::auth::{self, Action, Caller, CreationPermit};
use crate::record::TopicName;
use crate::storage;
use crate::topic::{self, Topics};

/// Checks that there is room for a topic that may be created. The permit is held during the creation. `action` is what the
/// caller is permitted to do with the topic.
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
    // It may have been created meanwhile.
    if exists(topics, name).await? {
        return Ok(None);
    }
    // Counts only names that the caller may do the same to, and only up to the limit.
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
