//! The topics a caller may do something with, by the rules of one moment: who calls is looked at once,
//! however many topics are asked about.
//! Never: changes with the rules; who asks for long asks for another.

use std::sync::Arc;

use super::set::{self, PatternSet, Span};

/// The topics a caller may do something with.
#[derive(Clone, Debug)]
pub struct Scope(Option<Arc<PatternSet>>);

impl Scope {
    pub(super) const fn all() -> Self {
        Self(None)
    }

    pub(super) const fn of(topics: Arc<PatternSet>) -> Self {
        Self(Some(topics))
    }

    /// Whether this topic is one of them.
    #[must_use]
    pub fn holds(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|topics| topics.matches(topic))
    }

    /// The next range of sorted names, behind `after` and beginning with `prefix`, in which any of them
    /// can lie; none where there are no more.
    #[must_use]
    pub fn next<'a>(&'a self, prefix: &'a str, after: &str) -> Option<Span<'a>> {
        match &self.0 {
            None => set::all(prefix, after),
            Some(topics) => topics.next(prefix, after),
        }
    }

    /// Patterns tried for a name of a span that is not whole, and the name itself: what looking at it costs.
    #[must_use]
    pub fn cost(&self) -> usize {
        1 + self.0.as_ref().map_or(0, |topics| topics.tried())
    }
}
