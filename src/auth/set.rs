//! Sets of patterns: whether any of them matches a name, and in which ranges of sorted names the matching ones
//! lie. A look-up costs about the same however many names and prefixes there are; only patterns with a star inside
//! are tried one by one.

use super::pattern::Pattern;

/// Character that sorts after every character of a topic's name, so that a prefix and this end its range.
const AFTER: char = '~';

/// Patterns, sorted by how they are matched.
#[derive(Debug, Default)]
pub(super) struct PatternSet {
    /// Patterns without a star, sorted, except those that a prefix covers.
    exact: Vec<Box<str>>,
    /// Patterns with a star at their end, without it; sorted, and none begins with another.
    prefixes: Vec<Box<str>>,
    /// All other patterns that no prefix covers.
    others: Vec<Pattern>,
    /// Ranges of the matching names; sorted, and no two overlap.
    spans: Vec<Range>,
}

/// Stored form of a [`Span`].
#[derive(Debug)]
struct Range {
    text: Box<str>,
    is_name: bool,
    is_whole: bool,
}

/// Range of sorted names: one name, or all that begin with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// Name, or beginning of the names.
    pub text: &'a str,
    /// Tells that it is one name.
    pub is_name: bool,
    /// Tells that every name in it matches.
    pub is_whole: bool,
}

impl Span<'_> {
    /// Returns the place just after its last name.
    #[must_use]
    pub fn end(&self) -> String {
        let mut end = self.text.to_owned();
        if !self.is_name {
            end.push(AFTER);
        }
        end
    }

    /// Tells whether all of it lies at or before this place.
    fn is_before(&self, place: &str) -> bool {
        if self.is_name {
            return self.text <= place;
        }
        match place.strip_prefix(self.text) {
            Some(rest) => rest.starts_with(AFTER),
            None => self.text < place,
        }
    }
}

impl Range {
    fn span(&self) -> Span<'_> {
        Span { text: &self.text, is_name: self.is_name, is_whole: self.is_whole }
    }
}

impl PatternSet {
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Self {
        let (mut exact, mut prefixes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern.split() {
                (name, None) => exact.push(Box::from(name)),
                (head, Some(rest)) if rest.bytes().all(|byte| byte == b'*') => prefixes.push(Box::from(head)),
                _ => others.push(pattern),
            }
        }
        let prefixes = outermost(prefixes);
        exact.sort_unstable();
        exact.dedup();
        exact.retain(|name| covering(&prefixes, name).is_none());
        others.sort_unstable_by_key(|pattern| pattern.as_str());
        others.dedup();
        others.retain(|pattern| covering(&prefixes, pattern.split().0).is_none());
        let others: Vec<Pattern> = others.into_iter().cloned().collect();
        let spans = spans(&exact, &prefixes, &others);
        Self { exact, prefixes, others, spans }
    }

    /// Tells whether any pattern matches the whole name.
    pub(super) fn matches(&self, name: &str) -> bool {
        covering(&self.prefixes, name).is_some()
            || self.exact.binary_search_by(|known| (**known).cmp(name)).is_ok()
            || self.others.iter().any(|pattern| pattern.matches(name))
    }

    /// Returns the number of patterns that are tried one by one.
    pub(super) const fn tried(&self) -> usize {
        self.others.len()
    }

    /// Returns the first span of names after `after` that begin with `prefix`, as far as they do.
    pub(super) fn next<'a>(&'a self, prefix: &'a str, after: &str) -> Option<Span<'a>> {
        let around = self.spans.partition_point(|range| &*range.text <= prefix);
        if let Some(around) = around.checked_sub(1).map(|at| self.spans[at].span())
            && !around.is_name
            && prefix.starts_with(around.text)
        {
            let all = Span { text: prefix, ..around };
            return (!all.is_before(after)).then_some(all);
        }
        let is_behind = |range: &Range| &*range.text < prefix || range.span().is_before(after);
        let at = self.spans.partition_point(is_behind);
        self.spans.get(at).map(Range::span).filter(|span| span.text.starts_with(prefix))
    }
}

/// Returns the span of all names that begin with `prefix`, where any lie after `after`.
pub(super) fn all<'a>(prefix: &'a str, after: &str) -> Option<Span<'a>> {
    let all = Span { text: prefix, is_name: false, is_whole: true };
    (!all.is_before(after)).then_some(all)
}

fn spans(exact: &[Box<str>], prefixes: &[Box<str>], others: &[Pattern]) -> Vec<Range> {
    let heads = others.iter().map(|pattern| Box::from(pattern.split().0));
    let heads = outermost(prefixes.iter().cloned().chain(heads).collect());
    let names = exact.iter().filter(|name| covering(&heads, name).is_none());
    let names = names.map(|name| Range { text: name.clone(), is_name: true, is_whole: true });
    let mut spans: Vec<Range> = names.collect();
    spans.extend(heads.into_iter().map(|text| {
        let is_whole = prefixes.binary_search(&text).is_ok();
        Range { text, is_name: false, is_whole }
    }));
    spans.sort_unstable_by(|a, b| a.text.cmp(&b.text));
    spans
}

/// Sorts prefixes, without those that begin with another.
fn outermost(mut prefixes: Vec<Box<str>>) -> Vec<Box<str>> {
    prefixes.sort_unstable();
    prefixes.dedup_by(|later, kept| later.starts_with(&**kept));
    prefixes
}

/// Finds the prefix that the name begins with. All strings between a prefix and a name that begins with it begin with it
/// too, so that only the last prefix up to the name can be it.
fn covering<'a>(prefixes: &'a [Box<str>], name: &str) -> Option<&'a str> {
    let at = prefixes.partition_point(|prefix| **prefix <= *name).checked_sub(1)?;
    Some(&*prefixes[at]).filter(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::{PatternSet, Span, all};
    use crate::auth::pattern::Pattern;
    use std::collections::BTreeSet;

    fn set(patterns: &[&str]) -> PatternSet {
        let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::new(text)).collect();
        PatternSet::new(patterns.iter())
    }

    fn walk(set: &PatternSet, prefix: &str) -> Vec<(String, bool, bool)> {
        let (mut after, mut spans) = (String::new(), Vec::new());
        while let Some(span) = set.next(prefix, &after) {
            spans.push((span.text.to_owned(), span.is_name, span.is_whole));
            after = span.end();
        }
        spans
    }

    #[test]
    fn patterns_become_the_fewest_spans() {
        let set = set(&["orders", "orders.*", "orders.eu", "o*x", "a", "a", "b.*", "b.c*", "b.*d"]);
        let span = |text: &str, is_name, is_whole| (text.to_owned(), is_name, is_whole);
        assert_eq!(walk(&set, ""), [span("a", true, true), span("b.", false, true), span("o", false, false)]);
        assert_eq!(walk(&set, "orders.e"), [span("orders.e", false, false)]);
        assert_eq!(walk(&set, "b"), [span("b.", false, true)]);
        assert!(walk(&set, "c").is_empty() && walk(&set, "a.").is_empty());
        assert_eq!(set.tried(), 1, "what a prefix covers is not tried");
        assert_eq!(all("x", "x~"), None);
        assert_eq!(all("x", "x.y"), Some(Span { text: "x", is_name: false, is_whole: true }));
    }

    #[test]
    fn it_agrees_with_trying_every_pattern_on_every_name() {
        let seed = 18;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut text = |letters: &[char], most: usize| -> String {
            (0..rng.usize(..most)).map(|_| letters[rng.usize(..letters.len())]).collect()
        };
        for round in 0..3000 {
            let patterns: Vec<Pattern> =
                (0..round % 9).map(|_| Pattern::new(&text(&['a', 'b', '*', '.'], 5))).collect();
            let names: BTreeSet<String> = (0..40).map(|_| text(&['a', 'b', '.'], 6)).collect();
            let prefix = text(&['a', 'b', '.'], 3);
            let set = PatternSet::new(patterns.iter());
            let plainly = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
            let mut expected: Vec<&str> = Vec::new();
            for name in &names {
                assert_eq!(set.matches(name), plainly(name), "seed {seed}: {patterns:?} {name}");
                if name.starts_with(&prefix) && plainly(name) {
                    expected.push(name);
                }
            }
            let (mut after, mut found) = (String::new(), Vec::new());
            while let Some(span) = set.next(&prefix, &after) {
                let inside = names.iter().filter(|name| match span.is_name {
                    true => *name == span.text,
                    false => name.starts_with(span.text),
                });
                let inside = inside.filter(|name| !span.is_whole || set.matches(name));
                found.extend(inside.filter(|name| set.matches(name)).map(String::as_str));
                after = span.end();
            }
            // A name that is empty is no topic's, and lies before every place.
            expected.retain(|name| !name.is_empty());
            found.retain(|name| !name.is_empty());
            assert_eq!(found, expected, "seed {seed}: {patterns:?} in {names:?} from {prefix:?}");
            for name in &names {
                // From any place, the next span is the one that holds what comes next.
                let next = expected.iter().find(|later| ***later > **name);
                let span = set.next(&prefix, name);
                if let Some(next) = next {
                    let span = span.unwrap_or_else(|| panic!("seed {seed}: {patterns:?} after {name}"));
                    assert!(span.text <= *next, "seed {seed}: {patterns:?} after {name}");
                }
            }
        }
    }
}
