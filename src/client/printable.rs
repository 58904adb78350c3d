//! Escaping of untrusted text for a terminal. The result is for people: it does not show which characters were escaped.

use std::borrow::Cow;

/// Characters of the Unicode categories Cf, Zl and Zp (version 16), which are invisible, reorder the text around them or
/// end a line. `char::is_control` covers the control characters (Cc).
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
    // These are not assigned, and ignored by terminals.
    (0xe_0000, 0xe_0000),
    (0xe_0002, 0xe_001f),
];

/// Returns true for a control character in the widest sense: a terminal does something else than show it.
pub(crate) fn is_control(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let code = u32::from(c);
    c.is_control() || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&code))
}

/// Returns the text on one line, with control characters escaped as in Rust: `\n`, `\u{1b}`, `\u{202e}`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_control(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::{is_control, printable};

    #[test]
    fn control_characters_are_escaped() {
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
            assert_eq!(printable(shown), shown, "escaped text stays as it is");
        }
    }

    #[test]
    fn every_escaped_character_is_one_that_debug_escapes_too() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_control(*c)) {
            assert!(c.escape_debug().len() > 1, "U+{:04X}", u32::from(c));
        }
        for c in ['\0', '\x1b', '\x7f', '\u{80}', '\u{9f}', '\u{61c}', '\u{200e}', '\u{202a}', '\u{2069}'] {
            assert!(is_control(c), "U+{:04X}", u32::from(c));
        }
    }
}
