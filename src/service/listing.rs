//! ListTopics: a page of the topics that the caller may use. A page scans a bounded number of names; if these do not fill
//! it, the next page continues where it stopped. So the cost of a call does not grow with the topics that the caller may not
//! see. Page tokens are sealed, because they may contain the names of such topics.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::described::described;
use super::request;
use super::status::Error;
use crate::auth::{Action, Caller, Scope, Span};
use crate::proto::v1;
use crate::record::TopicName;
use crate::storage::TopicInfo;
use crate::topic::Topics;

/// Default number of topics in a page.
const PAGE: usize = 100;
/// Most topics of a page.
const PAGE_MAX: usize = 1000;
/// Most bytes of a page, which a call holds while its client does not read the answer. A default page is smaller,
/// however long its names are.
pub(super) const PAGE_BYTES_MAX: usize = 32 << 10;
/// Most bytes of a topic in the answer, without its name.
const TOPIC_BYTES: usize = 160;
/// Largest cost of a page, as [`Scope::cost`] counts names scanned, look-ups and patterns tried. Twice the cost of the
/// largest page for a caller that sees everything.
pub(super) const COST_MAX: usize = 2 * PAGE_MAX;
/// Names scanned before other tasks run: some tens of microseconds.
pub(super) const STRIDE: usize = 256;

/// Page of topics, with the token of the next one.
pub(super) struct Page {
    pub(super) topics: Vec<TopicInfo>,
    /// Token of the next page; empty on the last.
    pub(super) next: String,
    /// Cost of the page.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests check it"))]
    pub(super) cost: usize,
}

/// Answers a ListTopics.
pub(super) async fn list(
    topics: &Topics,
    caller: &Caller,
    asked: &v1::ListTopicsRequest,
) -> Result<v1::ListTopicsResponse, Error> {
    let page = page(topics, caller, asked).await?;
    let found = page.topics.iter().map(described).collect();
    Ok(v1::ListTopicsResponse { topics: found, next_page_token: page.next })
}

pub(super) async fn page(
    topics: &Topics,
    caller: &Caller,
    asked: &v1::ListTopicsRequest,
) -> Result<Page, Error> {
    let size = match asked.page_size as usize {
        0 => PAGE,
        size => size.min(PAGE_MAX),
    };
    let scope = caller.scope(Action::Any);
    let mut names = Names::new(topics, &asked.prefix);
    let mut scan = Scan { found: Vec::new(), bytes: 0, size, at: begin(caller, &asked.page_token)?, cost: 0 };
    while let Some(span) = scope.next(&asked.prefix, &scan.at) {
        let stride = scan.stride(&scope, span);
        if stride == 0 {
            let next = caller.seal(&scan.at);
            return scan.end(topics, next).await;
        }
        let page = names.page(span, &scan.at, stride).await?;
        if scan.take(&scope, span, page, stride) {
            scan.found.pop();
            let next = scan.found.last().map(|last| last.as_str().to_owned()).unwrap_or_default();
            return scan.end(topics, next).await;
        }
        tokio::task::yield_now().await;
    }
    scan.end(topics, String::new()).await
}

/// Names of topics that one call scans.
pub(super) struct Names<'a> {
    topics: &'a Topics,
    prefix: &'a str,
    /// All names, read once if the engine cannot read a few.
    all: Option<Option<BTreeSet<TopicName>>>,
}

impl<'a> Names<'a> {
    /// Scans the names that begin with `prefix`.
    pub(super) const fn new(topics: &'a Topics, prefix: &'a str) -> Self {
        Self { topics, prefix, all: None }
    }

    /// Returns up to `limit` names of a span after `after`, which never decreases.
    pub(super) async fn page(
        &mut self,
        span: Span<'_>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<TopicName>, Error> {
        let all = match &mut self.all {
            Some(all) => all,
            none => none.insert(self.topics.all_names(self.prefix, after).await?),
        };
        let Some(all) = all else { return Ok(self.topics.names(span.text, Some(after), limit).await?) };
        let from = if after >= span.text { Bound::Excluded(after) } else { Bound::Included(span.text) };
        let range = all.range::<str, _>((from, Bound::Unbounded));
        Ok(range.take_while(|name| name.as_str().starts_with(span.text)).take(limit).cloned().collect())
    }
}

/// Returns the name after which a page begins: the last topic of the page before, or where that stopped.
fn begin(caller: &Caller, token: &str) -> Result<String, Error> {
    if token.is_empty() {
        return Ok(String::new());
    }
    if let Some(place) = caller.open(token) {
        return Ok(place);
    }
    let name = request::topic("page_token", token);
    let rule = "neither the next_page_token of a page, nor of one since the server's policy changed; list again \
                from the first page";
    name.map(|name| name.as_str().to_owned()).map_err(|_| Error::field("page_token", rule))
}

/// Page that is being filled.
struct Scan {
    found: Vec<TopicName>,
    /// Most bytes of these topics in the answer.
    bytes: usize,
    size: usize,
    /// All names up to this one were scanned.
    at: String,
    cost: usize,
}

impl Scan {
    /// Returns the number of a span's names to scan next; 0 once the page has reached its cost.
    fn stride(&self, scope: &Scope, span: Span<'_>) -> usize {
        // One more than the page tells whether there is another.
        let missing = (self.size + 1).saturating_sub(self.found.len());
        // The first name is always scanned, or no page would make progress.
        let left = if self.cost == 0 { COST_MAX } else { COST_MAX.saturating_sub(self.cost + 1) };
        match span {
            Span { is_name: true, .. } => left.min(1),
            Span { is_whole: true, .. } => left.min(missing).min(STRIDE),
            Span { .. } => (left / scope.cost()).max(usize::from(self.cost == 0)).min(STRIDE),
        }
    }

    /// Adds a span's names, of which at most `stride` were read. Returns true once the page is full with one more.
    fn take(&mut self, scope: &Scope, span: Span<'_>, names: Vec<TopicName>, stride: usize) -> bool {
        self.cost += 1 + names.len() * if span.is_whole { 1 } else { scope.cost() };
        let is_all = span.is_name || names.len() < stride;
        for topic in names {
            let name = topic.as_str();
            name.clone_into(&mut self.at);
            // A name is also the beginning of other names.
            let is_seen = if span.is_name { name == span.text } else { span.is_whole || scope.holds(name) };
            if is_seen {
                self.bytes += name.len() + TOPIC_BYTES;
                self.found.push(topic);
            }
            if self.found.len() > self.size || self.bytes > PAGE_BYTES_MAX {
                return true;
            }
        }
        if is_all {
            self.at = span.end();
        }
        false
    }

    /// Completes the page with the descriptions of its topics.
    async fn end(self, topics: &Topics, next: String) -> Result<Page, Error> {
        Ok(Page { topics: topics.infos(self.found).await?, next, cost: self.cost })
    }
}
