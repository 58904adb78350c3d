//! ListGroups: a page of the groups that the caller may use. A page looks at a bounded number of groups; if these do not
//! fill it, the next page continues where it stopped. Page tokens are sealed, because they may hold the names of groups
//! that the caller may not see.

use super::super::request as topic_request;
use super::super::status::Error;
use super::calls::permit_see;
use super::{described, request};
use crate::auth::Caller;
use crate::group::logic::GroupName;
use crate::group::{Groups, Listed};
use crate::proto::v1;
use crate::record::TopicName;

/// Default number of groups in a page.
const PAGE: usize = 100;
/// Most groups of a page.
const PAGE_MAX: usize = 1000;
/// Most groups that a page looks at.
const LOOKED_AT_MAX: usize = 2 * PAGE_MAX;
/// Groups looked at before other tasks run.
const STRIDE: usize = 256;

/// Answers ListGroups.
pub(super) async fn page(
    groups: &Groups,
    caller: &Caller,
    asked: &v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Error> {
    let topic = match asked.topic.as_str() {
        "" => None,
        name => Some(topic_request::topic("topic", name)?),
    };
    let size = match usize::try_from(asked.page_size) {
        Ok(0) => PAGE,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => return Err(Error::field("page_size", "is negative")),
    };
    let mut after = begin(caller, &asked.page_token)?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    // One more says that there is a next page. A caller that may see few of the groups gets them in longer strides.
    let mut stride = STRIDE.min(size + 1);
    loop {
        let Listed { groups: page, damaged } = groups.list(topic.as_ref(), after.clone(), stride).await?;
        let is_last = page.len() < stride;
        stride = STRIDE.min(2 * stride);
        looked_at += page.len();
        for info in page {
            if found.len() == size {
                return Ok(answer(found, next(caller, after.as_ref()), &damaged));
            }
            after = Some((info.topic.clone(), info.name.clone()));
            if permit_see(caller, &info.topic, &info.name).is_ok() {
                let mut group = described::group(&info);
                group.status.get_or_insert_default().members.clear();
                found.push(group);
            }
        }
        if is_last {
            return Ok(answer(found, String::new(), &damaged));
        }
        if looked_at >= LOOKED_AT_MAX {
            return Ok(answer(found, next(caller, after.as_ref()), &damaged));
        }
        tokio::task::yield_now().await;
    }
}

fn answer(groups: Vec<v1::Group>, next_page_token: String, damaged: &[TopicName]) -> v1::ListGroupsResponse {
    let unreachable = damaged.iter().map(ToString::to_string).collect();
    v1::ListGroupsResponse { groups, next_page_token, unreachable }
}

/// Returns the token of the page after this group.
fn next(caller: &Caller, after: Option<&(TopicName, GroupName)>) -> String {
    after.map_or_else(String::new, |(topic, group)| caller.seal(&format!("{topic}/{group}")))
}

/// Returns the group after which a page begins.
fn begin(caller: &Caller, token: &str) -> Result<Option<(TopicName, GroupName)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = caller.open(token);
    let names = place.as_deref().and_then(|place| place.split_once('/'));
    let names =
        names.and_then(|(topic, group)| request::names(("page_token", topic), ("page_token", group)).ok());
    let rule = "neither the next_page_token of a page, nor of one since the server's policy changed; list again \
                from the first page";
    names.map(Some).ok_or_else(|| Error::field("page_token", rule))
}
