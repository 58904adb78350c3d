//! Sizes and durations as people write them, read and written.

use std::time::Duration;

/// Units of a size. `K`, `M`, `G` and `T` stand for powers of 1000, `Ki`, `Mi`, `Gi` and `Ti` for powers of 1024.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a size as `65536`, `64KiB`, `10M`, `10GB` or `1.5 GiB`, rounded down to bytes.
///
/// # Errors
/// The text is not a size, or the size needs more than 64 bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let invalid = || format!("{text:?} is not a size; write 65536, 64KiB, 10MB or 1.5GiB");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    // The final B may be left out: without it, "B" itself is the empty unit.
    let matches =
        |name: &str| [name, &name[..name.len() - 1]].iter().any(|name| name.eq_ignore_ascii_case(unit));
    let (_, factor) = UNITS.iter().find(|(name, _)| matches(name)).ok_or_else(invalid)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    if fraction.is_empty() {
        return Err(invalid());
    }
    let fraction: f64 = format!("0.{fraction}").parse().map_err(|_| invalid())?;
    whole
        .checked_mul(*factor)
        .and_then(|bytes| bytes.checked_add((fraction * *factor as f64) as u64))
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// Writes a size exactly, with the unit that makes the number smallest.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let exact = UNITS.iter().filter(|(_, factor)| bytes.is_multiple_of(*factor));
    match exact.min_by_key(|(_, factor)| bytes / factor) {
        Some((unit, factor)) if bytes > 0 && *factor > 1 => format!("{}{unit}", bytes / factor),
        _ => bytes.to_string(),
    }
}

/// Reads a duration as `8s`, `1m 30s` or `500ms`.
///
/// # Errors
/// The text has no unit, or is not a duration.
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
    fn sizes_are_read_in_every_common_form() {
        for (text, bytes) in [
            ("65536", 65536),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("64 Mi", 64 << 20),
            ("10M", 10_000_000),
            ("10GB", 10_000_000_000),
            ("1.5 GiB", 3 << 29),
            ("0.5k", 500),
            ("7b", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "MiB", ".5GiB", "1.", "1.2.3", "-1", "64 Mx", "99999999999TiB", "18446744073709551615.5K"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_exactly_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1KB"),
            (1500, "1500"),
            (1 << 20, "1MiB"),
            (192 << 20, "192MiB"),
            (10_000_000_000, "10GB"),
            (3 << 29, "1536MiB"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(format_size(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("8s"), Ok(Duration::from_secs(8)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("8").unwrap_err().contains("8s"));
    }
}
