//! Parsing of `--from`, the start of a subscription, and of positions.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::Start;
use crate::proto::v1;
use crate::record::{Epoch, Offset, Position, UnixMicros};

/// Reads `earliest`, `latest`, an offset, `-N` for the last N records, a position, a time, or a duration ago.
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
    if let Some(position) = Position::parse(text) {
        return Ok(Start::Position(position));
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
    Err("write earliest, latest, an offset, -100 for the last 100 records, 2026-05-01T12:00:00Z, \"5m ago\", or a \
         position"
        .into())
}

/// The start of a group as a message. A group cannot start a number of records before the tail.
fn group_start(start: Start) -> Result<v1::GroupStart, String> {
    use v1::group_start::Start as Proto;
    let start = match start {
        Start::Earliest => Proto::Boundary(v1::Boundary::Earliest.into()),
        Start::Latest => Proto::Boundary(v1::Boundary::Latest.into()),
        Start::Offset(offset) => Proto::Offset(offset.get()),
        Start::Time(time) => {
            let (seconds, nanos) = time.parts();
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            Proto::Time(prost_types::Timestamp { seconds, nanos: nanos as i32 })
        }
        Start::Position(position) => {
            Proto::Position(v1::Position { epoch: position.epoch.to_string(), offset: position.offset.get() })
        }
        Start::Last(_) => return Err("a group takes no number of records before the tail".into()),
    };
    Ok(v1::GroupStart { start: Some(start) })
}

/// Reads the start of a group, as [`parse_from`] without `-N`.
pub(super) fn parse_group_start(text: &str) -> Result<v1::GroupStart, String> {
    let start = parse_from(text);
    let start = start.map_err(|error| error.replace(" -100 for the last 100 records,", ""))?;
    group_start(start)
}

/// Reads a position, also in the form `EPOCH:OFFSET` of version 0.1.
pub(super) fn parse_position(text: &str) -> Result<Position, String> {
    let text = text.trim();
    let old = || {
        let (epoch, offset) = text.split_once(':')?;
        Some(Position { epoch: Epoch::parse(epoch)?, offset: Offset::new(offset.parse().ok()?) })
    };
    Position::parse(text).or_else(old).ok_or_else(|| {
        "is not a position: write the epoch, _ and 20 digits, for example 00c0ffee00c0ffee_00000000000000000042"
            .into()
    })
}

fn micros(time: SystemTime) -> UnixMicros {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{parse_from, parse_position};
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
    fn positions_are_read_in_the_form_of_now_and_of_version_0_1() {
        let text = "00c0ffee00c0ffee_00000000000000000042";
        let position = parse_position(&format!("{text}\n")).unwrap();
        assert_eq!(position.to_string(), text);
        assert_eq!(parse_position("00c0ffee00c0ffee:42"), Ok(position));
        assert_eq!(parse_from(text), Ok(Start::Position(position)));
        for bad in [
            "",
            "42",
            "xyz:42",
            "00c0ffee00c0ffee:",
            "00c0ffee00c0ffee:-1",
            "00c0ffee00c0ffee_42",
            "00c0ffee00c0ffee_+0000000000000000042",
            "00c0ffee00c0ffee_99999999999999999999",
        ] {
            assert!(parse_position(bad).is_err(), "{bad}");
        }
    }
}
