//! Text that others chose, made safe to print: a terminal shows it and obeys none of it.
//! Never: used for what a program reads back; it does not say which text was escaped.

use std::borrow::Cow;

/// Characters of Unicode's categories Cf, Zl and Zp (version 16), which are invisible, reorder what is
/// around them or end a line. Controls (Cc) are left to `char::is_control`.
const INVISIBLE: [(u32, u32); 23] = [
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x2064),
    (0x2066, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff9, 0xfffb),
    (0x1_10bd, 0x1_10bd),
    (0x1_10cd, 0x1_10cd),
    (0x1_3430, 0x1_343f),
    (0x1_bca0, 0x1_bca3),
    (0x1_d173, 0x1_d17a),
    (0xe_0001, 0xe_0001),
    (0xe_0020, 0xe_007f),
    // Not assigned, and ignored by terminals as those are.
    (0xe_0000, 0xe_0000),
    (0xe_0002, 0xe_001f),
];

/// Whether a terminal would do something else than show this character.
pub(crate) fn is_obeyed(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let code = u32::from(c);
    c.is_control() || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&code))
}

/// The text on one line, each character that a terminal would obey written as Rust writes it:
/// `\n`, `\u{1b}`, `\u{202e}`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::{is_obeyed, printable};

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, shown) in [
            ("a topic", "a topic"),
            ("Zürich, 東京, e\u{301}, 🦀", "Zürich, 東京, e\u{301}, 🦀"),
            ("\x1b]0;owned\x07", "\\u{1b}]0;owned\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
            ("\x7f\u{202e}\u{2066}\u{2028}\u{200b}", "\\u{7f}\\u{202e}\\u{2066}\\u{2028}\\u{200b}"),
            ("\u{e0041}\u{feff}", "\\u{e0041}\\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown, "what is escaped stays as it is");
        }
    }

    /// The standard library escapes all of these in `{:?}`, and more.
    #[test]
    fn every_character_that_is_left_is_one_that_debug_shows() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_obeyed(*c)) {
            assert!(c.escape_debug().len() > 1, "U+{:04X}", u32::from(c));
        }
        for c in ['\0', '\x1b', '\x7f', '\u{80}', '\u{9f}', '\u{61c}', '\u{200e}', '\u{202a}', '\u{2069}'] {
            assert!(is_obeyed(c), "U+{:04X}", u32::from(c));
        }
    }
}
