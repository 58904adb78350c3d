//! Times and durations as text, in the forms of protobuf's JSON.

use std::time::Duration;

use prost_types::Timestamp;

use crate::record::UnixMicros;

/// The first second of the year 10000, which RFC 3339 cannot express.
const YEAR_10000: i64 = 253_402_300_800;
/// The first second of the year 1, the smallest time of a `Timestamp`.
const YEAR_1: i64 = -62_135_596_800;

/// Formats a time as RFC 3339 with microseconds, the precision of the server.
#[must_use]
pub fn time(time: UnixMicros) -> String {
    let (seconds, nanos) = time.parts();
    let Ok(seconds) = i64::try_from(seconds) else { return out_of_range(seconds) };
    date(seconds).map_or_else(|out| out, |date| format!("{date}.{:06}Z", nanos / 1000))
}

/// Reads a time of RFC 3339: date, time and zone. Without a zone it would be a guess which time is meant.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let has_time = text.as_bytes().get(10).is_some_and(|at| b"Tt ".contains(at));
    let is_offset = |zone: &[u8]| matches!(zone, [b'+' | b'-', _, _, b':', _, _]);
    let has_zone =
        text.ends_with(['Z', 'z']) || text.as_bytes().last_chunk::<6>().is_some_and(|zone| is_offset(zone));
    (has_time && has_zone).then(|| text.parse().ok()).flatten()
}

/// Formats a duration in the form of protobuf's JSON, as `604800s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ => format!("{seconds}.{}s", format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// Formats a publisher's time as RFC 3339 with as many digits as it needs.
#[must_use]
pub fn event_time(seconds: i64, nanos: u32) -> String {
    match date(seconds) {
        Err(out) => out,
        Ok(_) if nanos >= 1_000_000_000 => format!("out of range ({seconds} s and {nanos} ns since 1970)"),
        Ok(date) if nanos == 0 => format!("{date}Z"),
        Ok(date) => format!("{date}.{}Z", format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// Formats date and time in seconds, or returns a text for a time out of range: any 64 bits can come from the network.
pub(crate) fn date(seconds: i64) -> Result<String, String> {
    if !(YEAR_1..YEAR_10000).contains(&seconds) {
        return Err(out_of_range(seconds));
    }
    let time = Timestamp { seconds, nanos: 0 }.to_string();
    Ok(time.trim_end_matches('Z').to_owned())
}

fn out_of_range(seconds: impl std::fmt::Display) -> String {
    format!("out of range ({seconds} s since 1970)")
}
