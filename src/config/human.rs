//! Sizes and durations as people write them, both ways.
//! Never: guesses a unit for a duration.

use std::time::Duration;

/// Units of a size, largest first; the binary ones are what is printed.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads `64MiB`, `64 mib`, `1GB` or `65536`.
///
/// # Errors
/// It is none of these, or over 64 bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let invalid = || format!("{text:?} is not a size; write 65536, 64KiB, 1MiB or 2GiB");
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(invalid)?.1,
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Writes a size with the largest binary unit that leaves no rest.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let unit = UNITS[..4].iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// Reads `8s`, `1m 30s` or `500ms`.
///
/// # Errors
/// It has no unit, or is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is not a duration; write 500ms, 8s or 1h"))
}

#[cfg(test)]
mod tests {
    use super::{format_size, parse_duration, parse_size};
    use std::time::Duration;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("65536", 65536), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1GB", 1_000_000_000), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5GiB", "-1", "64 Mi", "99999999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for (bytes, text) in [(0, "0"), (1000, "1000"), (1 << 20, "1MiB"), (192 << 20, "192MiB")] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("8s"), Ok(Duration::from_secs(8)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("8").unwrap_err().contains("8s"));
    }
}
