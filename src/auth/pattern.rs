//! Patterns of names: `*` matches any number of any characters, every other character matches itself, and the
//! whole name must match.

/// Pattern of principals' or topics' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Box<str>);

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Splits the pattern before its first star; all of it is the first part where it has none.
    pub(super) fn split(&self) -> (&str, Option<&str>) {
        match self.0.find('*') {
            Some(at) => (&self.0[..at], Some(&self.0[at..])),
            None => (&self.0, None),
        }
    }

    /// Tells whether the whole of `name` matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            // The last part belongs at the end; any other is best placed as early as it can be.
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn only_a_star_is_special_and_both_ends_are_anchored() {
        let cases = [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders", "xorders", false),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders.", true),
            ("orders.*", "orders", false),
            ("orders.*", "ordersXeu", false),
            ("*", "", true),
            ("*", "anything/at all", true),
            ("*.dlq", "a.b.dlq", true),
            ("*.dlq", "a.dlq.x", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
            ("**", "x", true),
            ("a?c", "abc", false),
            ("[a-z]", "b", false),
            ("spiffe://prod/*", "spiffe://prod/billing", true),
            ("spiffe://prod/*", "spiffe://production/billing", false),
            ("", "", true),
            ("", "x", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn it_agrees_with_a_recursive_matcher() {
        fn plain(pattern: &[u8], name: &[u8]) -> bool {
            match (pattern.split_first(), name.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) if plain(rest, name) => true,
                (Some((b'*', _)), Some((_, name))) => plain(pattern, name),
                (Some((a, pattern)), Some((b, name))) => a == b && plain(pattern, name),
                _ => false,
            }
        }
        let mut rng = fastrand::Rng::with_seed(5);
        let mut text = |letters: &[char], most| {
            (0..rng.usize(..most)).map(|_| letters[rng.usize(..letters.len())]).collect::<String>()
        };
        for _ in 0..20_000 {
            let (pattern, name) = (text(&['a', 'b', '*'], 7), text(&['a', 'b'], 9));
            let expected = plain(pattern.as_bytes(), name.as_bytes());
            assert_eq!(Pattern::new(&pattern).matches(&name), expected, "{pattern} {name}");
        }
    }
}
