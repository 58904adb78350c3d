//! Parsing of `--from`, the start of a subscription, and of positions.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::Start;
use crate::record::{Epoch, Offset, Position, UnixMicros};

/// Reads `earliest`, `latest`, an offset, `-N` for the last N records, a time, or a duration ago.
pub(super) fn parse_from(text: &str) -> Result<Start, String> {
    let text = text.trim();
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(Start::Offset(Offset::new(offset)));
    }
    if let Some(Ok(records)) = text.strip_prefix('-').map(str::parse) {
        return Ok(Start::Last(records));
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(Start::Time(micros(time)));
    }
    let ago = text.strip_suffix("ago").unwrap_or(text).trim();
    if let Ok(duration) = humantime::parse_duration(ago) {
        return Ok(Start::Time(micros(SystemTime::now().checked_sub(duration).unwrap_or(UNIX_EPOCH))));
    }
    Err("write earliest, latest, an offset, -100 for the last 100 records, 2026-05-01T12:00:00Z, or \"5m ago\""
        .into())
}

/// Reads a position as `EPOCH:OFFSET`.
pub(super) fn parse_position(text: &str) -> Result<Position, String> {
    let position = text.trim().split_once(':').and_then(|(epoch, offset)| {
        Some(Position { epoch: Epoch::parse(epoch)?, offset: Offset::new(offset.parse().ok()?) })
    });
    position.ok_or_else(|| "write EPOCH:OFFSET, for example 00c0ffee00c0ffee:42".into())
}

/// Writes a position in the form that [`parse_position`] reads.
pub(super) fn format_position(position: Position) -> String {
    format!("{}:{}", position.epoch, position.offset)
}

fn micros(time: SystemTime) -> UnixMicros {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{format_position, parse_from, parse_position};
    use crate::client::Start;
    use crate::record::{Offset, UnixMicros};

    #[test]
    fn every_form_of_a_start_is_read() {
        assert_eq!(parse_from("earliest"), Ok(Start::Earliest));
        assert_eq!(parse_from("latest"), Ok(Start::Latest));
        assert_eq!(parse_from("17"), Ok(Start::Offset(Offset::new(17))));
        assert_eq!(parse_from("-5"), Ok(Start::Last(5)));
        assert_eq!(parse_from("1970-01-01T00:00:01Z"), Ok(Start::Time(UnixMicros(1_000_000))));
        assert_eq!(parse_from("1970-01-01 00:00:01"), Ok(Start::Time(UnixMicros(1_000_000))));
        let now = UnixMicros::now().0;
        for text in ["5m ago", "5m", "5minago"] {
            let Ok(Start::Time(time)) = parse_from(text) else { panic!("{text}") };
            assert!(now.abs_diff(time.0 + 300_000_000) < 10_000_000, "{text}");
        }
        for bad in ["", "yesterday", "--5", "5 ago"] {
            assert!(parse_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn positions_round_trip() {
        let position = parse_position("00c0ffee00c0ffee:42\n").unwrap();
        assert_eq!(format_position(position), "00c0ffee00c0ffee:42");
        for bad in ["", "42", "xyz:42", "00c0ffee00c0ffee:", "00c0ffee00c0ffee:-1"] {
            assert!(parse_position(bad).is_err(), "{bad}");
        }
    }
}
