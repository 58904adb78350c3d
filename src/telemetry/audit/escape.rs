//! Text of clients, made safe for a line of the log.

/// Maximum bytes of a text in a record.
const TEXT_MAX: usize = 512;

/// Returns the text on one line, with control characters and invisible ones escaped as in Rust, and cut off where it
/// is long. A backslash is doubled, so that no text reads like an escaped one.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_MAX));
    for c in text.chars() {
        if out.len() >= TEXT_MAX {
            out.push('…');
            break;
        }
        match c {
            '"' | '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{TEXT_MAX, escaped};

    #[test]
    fn text_of_clients_is_one_line_that_no_terminal_obeys() {
        for (text, shown) in [
            ("spiffe://prod/a b", "spiffe://prod/a b"),
            ("Zürich \"x\" 'y'", "Zürich \"x\" 'y'"),
            ("a\nb\x1b[2J", "a\\nb\\u{1b}[2J"),
            ("\u{202e}\u{9b}\\n", "\\u{202e}\\u{9b}\\\\n"),
        ] {
            assert_eq!(escaped(text), shown);
        }
        let long = escaped(&"\0".repeat(10_000));
        assert!(long.len() < TEXT_MAX + 16 && long.ends_with('…'), "{}", long.len());
    }
}
