//! Checks of requests about groups: names, starts, ranges and settlements. Each error names its field.

use std::time::Duration;

use bytes::Bytes;

use super::super::request;
use super::super::status::Error;
use super::settings;
use crate::group::logic::{Act, GroupId, GroupName, Span};
use crate::group::{Settlement, Token};
use crate::proto::v1::{self, group_start, subscribe_request};
use crate::record::TopicName;
use crate::topic::From;

/// Most ranges of one message, and most settlements of one call.
pub(super) const RANGES_MAX: usize = 1000;
/// Most bytes of a member's name.
const MEMBER_BYTES_MAX: usize = 128;
/// Most bytes of the reason of a failure.
const REASON_BYTES_MAX: usize = 1024;
/// Longest delay of a delivery in milliseconds.
const DELAY_MS_MAX: u64 = 24 * 3600 * 1000;

/// Checks a group's name.
pub(super) fn group(field: &str, name: &str) -> Result<GroupName, Error> {
    GroupName::parse(name).map_err(|rule| Error::field(field, rule))
}

/// Checks the names of a group and of its topic.
pub(super) fn names(topic: (&str, &str), group: (&str, &str)) -> Result<(TopicName, GroupName), Error> {
    Ok((request::topic(topic.0, topic.1)?, self::group(group.0, group.1)?))
}

/// Checks an id of a group, which may be empty.
pub(super) fn id(field: &str, text: &str) -> Result<Option<GroupId>, Error> {
    let id = request::epoch(field, text)?;
    Ok(id.map(|id| GroupId(id.get())))
}

/// Checks a member's name, which may be empty.
pub(super) fn member(field: &str, name: &str) -> Result<Box<str>, Error> {
    match name.len() {
        0..=MEMBER_BYTES_MAX => Ok(name.into()),
        _ => Err(Error::field(field, "has more than 128 bytes")),
    }
}

/// Checks where a group begins or goes on; the earliest record if nothing is said.
pub(super) fn start(asked: Option<&v1::GroupStart>, prefix: &str) -> Result<From, Error> {
    use group_start::Start as Asked;
    use subscribe_request::Start;
    let start = match asked.and_then(|asked| asked.start.clone()) {
        None => Start::Boundary(v1::Boundary::Earliest.into()),
        Some(Asked::Boundary(boundary)) if boundary == i32::from(v1::Boundary::Unspecified) => {
            Start::Boundary(v1::Boundary::Earliest.into())
        }
        Some(Asked::Boundary(boundary)) => Start::Boundary(boundary),
        Some(Asked::Position(position)) => Start::Position(position),
        Some(Asked::Offset(offset)) => Start::Offset(offset),
        Some(Asked::Time(time)) => Start::Time(time),
    };
    request::start(Some(&start), prefix)
}

/// Checks a range.
pub(super) fn span(field: &str, asked: v1::OffsetRange) -> Result<Span, Error> {
    Span::new(asked.start, asked.end).ok_or_else(|| Error::field(field, "end must be larger than start"))
}

/// Checks ranges, of which there may be none.
pub(super) fn spans(field: &str, asked: &[v1::OffsetRange]) -> Result<Vec<Span>, Error> {
    if asked.len() > RANGES_MAX {
        return Err(Error::field(field, format!("more than {RANGES_MAX} ranges")));
    }
    asked.iter().map(|range| span(field, *range)).collect()
}

/// A settlement that is checked.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) number: u64,
    pub(super) token: Token,
    pub(super) settlement: Settlement,
}

/// Reads the token of a lease.
fn token(field: &str, bytes: &Bytes) -> Result<Token, Error> {
    Token::decode(bytes).ok_or_else(|| Error::field(field, "is not the token of a lease"))
}

/// An Extend that is checked.
#[derive(Debug)]
pub(super) struct Extended {
    pub(super) number: u64,
    pub(super) token: Token,
    /// Time from now; the group's deadline where the client names none.
    pub(super) time: Option<Duration>,
}

/// Checks an Extend; `path` is that of the message with a dot.
pub(super) fn extend(asked: &v1::Extend, path: &str) -> Result<Extended, Error> {
    let token = token(&format!("{path}token"), &asked.token)?;
    let time = asked.time.as_ref().map(|time| request::duration(&format!("{path}time"), time)).transpose()?;
    Ok(Extended { number: asked.number, token, time })
}

/// Checks a settlement; `path` is that of the message with a dot.
pub(super) fn settlement(asked: v1::Settlement, path: &str) -> Result<Settled, Error> {
    let v1::Settlement { number, token, acks, nacks, dead_letters, returns } = asked;
    let ranges = acks.len() + nacks.len() + dead_letters.len() + returns.len();
    if ranges == 0 || ranges > RANGES_MAX {
        let rule = format!("must name 1 to {RANGES_MAX} ranges, and names {ranges}");
        return Err(Error::field(path.trim_end_matches('.'), rule));
    }
    let field = |name: &str| format!("{path}{name}");
    let token = self::token(&field("token"), &token)?;
    let (mut acts, mut reasons) = (Vec::with_capacity(ranges), Vec::new());
    for range in acks {
        acts.push((span(&field("acks"), range)?, Act::Ack));
    }
    for v1::Nack { range, delay, reason } in nacks {
        let span = span(&field("nacks.range"), range.unwrap_or_default())?;
        let delay = settings::millis(&field("nacks.delay"), delay.as_ref())?;
        if delay.is_some_and(|delay| delay > DELAY_MS_MAX) {
            return Err(Error::field(field("nacks.delay"), "must be at most 24 h"));
        }
        reasons.extend(self::reason(&field("nacks.reason"), span, reason)?);
        acts.push((span, Act::Nack(delay)));
    }
    for v1::DeadLetter { range, reason } in dead_letters {
        let span = span(&field("dead_letters.range"), range.unwrap_or_default())?;
        reasons.extend(self::reason(&field("dead_letters.reason"), span, reason)?);
        acts.push((span, Act::Reject));
    }
    for range in returns {
        acts.push((span(&field("returns"), range)?, Act::Return));
    }
    Ok(Settled { number, token, settlement: Settlement { acts, reasons } })
}

fn reason(field: &str, span: Span, reason: String) -> Result<Option<(Span, Box<str>)>, Error> {
    match reason.len() {
        0 => Ok(None),
        1..=REASON_BYTES_MAX => Ok(Some((span, reason.into()))),
        _ => Err(Error::field(field, format!("has more than {REASON_BYTES_MAX} bytes"))),
    }
}
