//! Checks of requests: names, batches, start positions and times. Each error names its field.

use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;
use tonic::metadata::MetadataMap;

use super::compression;
use super::status::Error;
use crate::auth::Caller;
use crate::proto::v1::{self, subscribe_request};
use crate::record::{Batch, BatchLimits, Epoch, Offset, Position, Scope, TopicName, UnixMicros};
use crate::storage::Start;
use crate::topic::{From, Missing, OutOfRange, ReadLimit, Subscribe};
use crate::wire::PublishRequest;

/// Shortest heartbeat interval that a subscriber may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
/// Longest heartbeat interval that a subscriber may ask for.
const HEARTBEAT_MAX: Duration = Duration::from_secs(600);

/// Checks a topic's name.
pub(super) fn topic(field: &str, name: &str) -> Result<TopicName, Error> {
    TopicName::parse(name).map_err(|rule| Error::field(field, rule))
}

/// Checks an epoch, which may be empty.
pub(super) fn epoch(field: &str, text: &str) -> Result<Option<Epoch>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let epoch = Epoch::parse(text).ok_or_else(|| Error::field(field, "not 16 hexadecimal digits"))?;
    Ok(Some(epoch))
}

/// Returns the scope of a caller's request ids.
pub(super) fn scope(caller: &Caller) -> Scope {
    Scope::new(caller.digest())
}

/// Checks a publish's batch, with a request id of `scope`. `call_trace` is the traceparent of the call, for a publish that
/// has none.
pub(super) fn batch(
    publish: PublishRequest,
    limits: BatchLimits,
    (scope, call_trace): (Scope, &str),
    prefix: &str,
) -> Result<Batch, Error> {
    let trace = if publish.traceparent.is_empty() { call_trace } else { &publish.traceparent };
    let batch = Batch::check(publish.records, limits)
        .and_then(|batch| batch.with_request_id(&publish.request_id))
        .map_err(|violation| Error::batch(prefix, &violation))?
        .within(scope)
        .expecting(publish.expected_offset.map(Offset::new));
    Ok(if trace.is_empty() { batch } else { batch.with_traceparent(trace) })
}

/// Bytes of records from which on they stay in the buffer that tonic read an uncompressed message into: that is at most
/// two frames larger than the message, an eighth of this.
const SHARED_MIN: usize = 256 << 10;

/// Returns the records of a message that tonic decoded, copied to a buffer of exactly their size where tonic's may be much
/// larger: it grows by frames.
pub(super) fn owned(records: Bytes, metadata: &MetadataMap) -> Bytes {
    let shared = records.len() >= SHARED_MIN && compression::of_request(metadata.as_ref()).is_none();
    if shared { records } else { Bytes::copy_from_slice(&records) }
}

/// Returns the W3C trace context of the call; one of another length is ignored.
pub(super) fn call_trace(metadata: &MetadataMap) -> Box<str> {
    /// Bytes of a traceparent of version 00; later versions may be longer, and are dropped further on.
    const LEN: usize = 55;
    let trace = metadata.get("traceparent").and_then(|value| value.to_str().ok());
    trace.filter(|trace| trace.len() == LEN).unwrap_or_default().into()
}

/// Checks the request of a subscriber; `prefix` is the path of the message with a dot, or empty.
pub(super) fn subscribe(request: &v1::SubscribeRequest, prefix: &str) -> Result<Subscribe, Error> {
    Ok(Subscribe {
        from: start(request.start.as_ref(), prefix)?,
        out_of_range: match request.out_of_range() {
            _ if v1::OutOfRangePolicy::try_from(request.out_of_range).is_err() => {
                return Err(Error::field(format!("{prefix}out_of_range"), "not a known policy"));
            }
            v1::OutOfRangePolicy::Unspecified | v1::OutOfRangePolicy::Fail => OutOfRange::Fail,
            v1::OutOfRangePolicy::Earliest => OutOfRange::Earliest,
            v1::OutOfRangePolicy::Latest => OutOfRange::Latest,
        },
        limit: request.limit.as_ref().map_or(Ok(ReadLimit::default()), |limit| read_limit(limit, prefix))?,
        heartbeat_interval: heartbeat(request.heartbeat_interval.as_ref(), prefix)?,
        missing: Missing::MayCreate,
    })
}

/// Checks a start position; none is the tail.
pub(super) fn start(start: Option<&subscribe_request::Start>, prefix: &str) -> Result<From, Error> {
    use subscribe_request::Start as Asked;
    let start = match start {
        None => Start::Latest,
        Some(Asked::Position(position)) => {
            let field = format!("{prefix}position.epoch");
            let epoch = epoch(&field, &position.epoch)?.ok_or_else(|| Error::field(field, "empty"))?;
            return Ok(From::Position(Position { epoch, offset: Offset::new(position.offset) }));
        }
        Some(Asked::Offset(offset)) => Start::At(Offset::new(*offset)),
        Some(Asked::Time(at)) => Start::Time(time(&format!("{prefix}time"), at)?),
        Some(Asked::LastRecords(records)) => Start::Last(*records),
        Some(Asked::Boundary(boundary)) => match v1::Boundary::try_from(*boundary) {
            Ok(v1::Boundary::Earliest) => Start::Earliest,
            Ok(v1::Boundary::Latest | v1::Boundary::Unspecified) => Start::Latest,
            Err(_) => return Err(Error::field(format!("{prefix}boundary"), "not a known boundary")),
        },
    };
    Ok(From::Start(start))
}

fn read_limit(limit: &v1::ReadLimit, prefix: &str) -> Result<ReadLimit, Error> {
    let some = |value: u64| (value > 0).then_some(value);
    let until = limit.until_time.as_ref().map(|at| time(&format!("{prefix}limit.until_time"), at));
    Ok(ReadLimit {
        max_records: some(limit.max_records),
        max_bytes: some(limit.max_bytes),
        stop_at_tail: limit.stop_at_tail,
        until: until.transpose()?,
    })
}

fn heartbeat(asked: Option<&prost_types::Duration>, prefix: &str) -> Result<Option<Duration>, Error> {
    let Some(asked) = asked else { return Ok(None) };
    let field = format!("{prefix}heartbeat_interval");
    match duration(&field, asked)? {
        Duration::ZERO => Ok(None),
        asked if (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&asked) => Ok(Some(asked)),
        _ => Err(Error::field(field, "must be 1 s to 10 min")),
    }
}

/// A duration that is not negative.
pub(super) fn duration(field: &str, duration: &prost_types::Duration) -> Result<Duration, Error> {
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (u64::try_from(duration.seconds), nanos) {
        (Ok(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(Error::field(field, "not a duration of 0 or more")),
    }
}

/// A time. One before 1970 is as good as 1970: nothing was stored earlier.
pub(super) fn time(field: &str, time: &Timestamp) -> Result<UnixMicros, Error> {
    /// 0001-01-01 and 9999-12-31T23:59:59 in Unix seconds: what a `Timestamp` may hold.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    if !SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Error::field(field, "not a timestamp between the years 1 and 9999"));
    }
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let micros = if time.seconds < 0 { 0 } else { time.nanos.unsigned_abs().div_ceil(1000) };
    Ok(UnixMicros(seconds * 1_000_000 + u64::from(micros)))
}

/// A time as the contract writes it.
pub(super) fn timestamp(time: UnixMicros) -> Timestamp {
    let (seconds, nanos) = time.parts();
    Timestamp { seconds: seconds as i64, nanos: nanos as i32 }
}
