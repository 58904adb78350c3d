//! The topics that a caller may do something with, by the rules of one moment: the caller is checked once,
//! however many topics are asked about. Does not change with the rules.

use std::sync::Arc;

use super::set::{self, PatternSet, Span};

/// Topics that a caller may do something with.
#[derive(Clone, Debug)]
pub struct Scope(Option<Arc<PatternSet>>);

impl Scope {
    pub(super) const fn all() -> Self {
        Self(None)
    }

    pub(super) const fn of(topics: Arc<PatternSet>) -> Self {
        Self(Some(topics))
    }

    /// Tells whether this topic is one of them.
    #[must_use]
    pub fn holds(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|topics| topics.matches(topic))
    }

    /// Returns the next range of sorted names, after `after` and beginning with `prefix`, in which any of them can
    /// lie; none where there are no more.
    #[must_use]
    pub fn next<'a>(&'a self, prefix: &'a str, after: &str) -> Option<Span<'a>> {
        match &self.0 {
            None => set::all(prefix, after),
            Some(topics) => topics.next(prefix, after),
        }
    }

    /// Returns the cost of checking a name of a span that is not whole: the patterns tried, and the name itself.
    #[must_use]
    pub fn cost(&self) -> usize {
        1 + self.0.as_ref().map_or(0, |topics| topics.tried())
    }
}
