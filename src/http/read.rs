//! Reading of a topic: `GET /v1/topics/{topic}/records`, as NDJSON up to the tail, or as server-sent events that follow it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::deliveries::{Deliveries, Until};
use super::encoder::{Encoder, Form};
use super::problem::Problem;
use super::query::{Name, Parameters, invalid, name};
use super::state::Web;
use crate::json::{Values, parse_time};
use crate::record::{Offset, Position, UnixMicros};
use crate::storage::Start;
use crate::topic::{From, Missing, OutOfRange, ReadLimit, Subscribe};

const PARAMETERS: [&str; 8] =
    ["from", "follow", "limit", "max_bytes", "until", "out_of_range", "value", "heartbeat"];
/// Seconds between heartbeats that a reader may ask for.
const HEARTBEATS: std::ops::RangeInclusive<u64> = 1..=600;
/// Position after the last event that a browser has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies pass an answer on as it comes, nginx because of this.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers `GET /v1/topics/{topic}/records`.
pub async fn read(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let topic = name(topic)?;
    let (parts, _) = request.into_parts();
    let form = form(&parts.headers);
    let Read { encoder, until, asked } = Read::of(&parts, form)?;
    match web.streams().follow(&parts.extensions, &topic, asked).await {
        Ok(follow) => {
            let body = Deliveries::new(follow, encoder, &web.encoded, until);
            let mut answer = answer(form, Body::new(body));
            if until == Until::Followed {
                answer.extensions_mut().insert(Following);
            }
            Ok(answer)
        }
        Err(status) => Ok(Refusal(form).answer(Problem::from(&status))),
    }
}

/// Mark of an answer, in its extensions, that goes on for as long as its peer wants it.
#[derive(Clone, Copy, Debug)]
pub struct Following;

/// Form in which a request is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal(Form);

impl Refusal {
    /// Returns the form for a request.
    #[must_use]
    pub fn of(request: &Parts) -> Self {
        let is_read = request.method == Method::GET && request.uri.path().ends_with("/records");
        Self(if is_read { form(&request.headers) } else { Form::Lines })
    }

    /// Makes the answer. An EventSource comes back after an answer that ends, and never after another status.
    #[must_use]
    pub fn answer(self, problem: Problem) -> Response {
        let Self(form) = self;
        if form == Form::Lines || problem.retry().is_none() {
            return problem.into_response();
        }
        let mut out = BytesMut::new();
        Encoder { form, values: Values::Text }.problem(&problem, None, &mut out);
        answer(form, Body::from(out.freeze()))
    }
}

fn answer(form: Form, body: Body) -> Response {
    let kind = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => "text/event-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (header::VARY, HeaderValue::from_static("Accept")),
        (NO_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// Returns the form that a reader accepts; that of a browser's EventSource is named by no one else.
fn form(headers: &HeaderMap) -> Form {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    if kinds.any(is_events) { Form::Events } else { Form::Lines }
}

/// Returns true for the kind of events, unless its weight says that it is not accepted.
fn is_events(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let is_weightless = |part: &str| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0));
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
        && !parts.any(is_weightless)
}

/// Checked request of a reader.
struct Read {
    encoder: Encoder,
    until: Until,
    asked: Subscribe,
}

impl Read {
    fn of(parts: &Parts, form: Form) -> Result<Self, Problem> {
        let parameters = Parameters::of(&parts.uri, &PARAMETERS)?;
        let values = match parameters.text("value") {
            None | Some("text") => Values::Text,
            Some("base64") => Values::Base64,
            Some(_) => return Err(invalid("value", "neither text nor base64")),
        };
        let until = match parameters.flag("follow")?.unwrap_or(form == Form::Events) {
            true => Until::Followed,
            false => Until::Limit,
        };
        let out_of_range = match parameters.text("out_of_range") {
            None | Some("fail") => OutOfRange::Fail,
            Some("earliest") => OutOfRange::Earliest,
            Some("latest") => OutOfRange::Latest,
            Some(_) => return Err(invalid("out_of_range", "not fail, earliest or latest")),
        };
        let asked = Subscribe {
            from: start(parts, &parameters, form)?,
            out_of_range,
            limit: limit(&parameters, until)?,
            heartbeat_interval: heartbeat(&parameters)?,
            missing: Missing::Fail,
        };
        Ok(Self { encoder: Encoder { form, values }, until, asked })
    }
}

fn limit(parameters: &Parameters, until: Until) -> Result<ReadLimit, Problem> {
    let above_zero = |name| -> Result<Option<u64>, Problem> {
        let number = parameters.parsed(name, "a whole number above 0")?;
        match number {
            Some(0) => Err(invalid(name, "not a whole number above 0")),
            number => Ok(number),
        }
    };
    let until_time =
        parameters.text("until").map(|text| time(text).ok_or_else(|| invalid("until", NOT_TIME)));
    Ok(ReadLimit {
        max_records: above_zero("limit")?,
        max_bytes: above_zero("max_bytes")?,
        stop_at_tail: until == Until::Limit,
        until: until_time.transpose()?,
    })
}

fn heartbeat(parameters: &Parameters) -> Result<Option<Duration>, Problem> {
    match parameters.parsed("heartbeat", "a number of seconds")? {
        None => Ok(None),
        Some(seconds) if HEARTBEATS.contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(invalid("heartbeat", "not 1 to 600 seconds")),
    }
}

/// Returns the start of the read: that of a browser that comes back, or else the one asked for.
fn start(parts: &Parts, parameters: &Parameters, form: Form) -> Result<From, Problem> {
    let last = parts.headers.get(LAST_EVENT_ID).filter(|id| form == Form::Events && !id.is_empty());
    if let Some(last) = last {
        let position = last.to_str().ok().and_then(Position::parse);
        return position.map(From::Position).ok_or_else(|| invalid("Last-Event-ID", "not a position"));
    }
    let default = if form == Form::Events { "latest" } else { "earliest" };
    parse_start(parameters.text("from").unwrap_or(default)).ok_or_else(|| {
        let rule =
            "not earliest, latest, an offset, minus a number of records, an RFC 3339 time or a position";
        invalid("from", rule)
    })
}

const NOT_TIME: &str = "not an RFC 3339 time";

fn parse_start(text: &str) -> Option<From> {
    if let Some(position) = Position::parse(text) {
        return Some(From::Position(position));
    }
    let digits = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse().ok() } else { None }
    };
    Some(From::Start(match text {
        "earliest" => Start::Earliest,
        "latest" => Start::Latest,
        _ => match (text.strip_prefix('-').and_then(digits), digits(text)) {
            (Some(records), _) => Start::Last(records),
            (None, Some(offset)) => Start::At(Offset::new(offset)),
            (None, None) => Start::Time(time(text)?),
        },
    }))
}

/// Parses a time of RFC 3339 with a zone. One before 1970 is as good as 1970: nothing was stored earlier.
fn time(text: &str) -> Option<UnixMicros> {
    let time = parse_time(text)?;
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let nanos = if time.seconds < 0 { 0 } else { u64::try_from(time.nanos).ok()? };
    Some(UnixMicros(seconds.checked_mul(1_000_000)? + nanos.div_ceil(1000)))
}

#[cfg(test)]
mod tests {
    use super::{form, parse_start};
    use crate::http::encoder::Form;
    use crate::record::{Epoch, Offset, Position, UnixMicros};
    use crate::storage::Start;
    use crate::topic::From;
    use http::HeaderMap;

    #[test]
    fn a_start_has_many_forms() {
        let position = Position { epoch: Epoch::new(1), offset: Offset::new(7) };
        for (text, expected) in [
            ("earliest", Some(From::Start(Start::Earliest))),
            ("latest", Some(From::Start(Start::Latest))),
            ("7", Some(From::Start(Start::At(Offset::new(7))))),
            ("-7", Some(From::Start(Start::Last(7)))),
            ("1970-01-01T00:00:01.5Z", Some(From::Start(Start::Time(UnixMicros(1_500_000))))),
            ("0000000000000001_00000000000000000007", Some(From::Position(position))),
            ("", None),
            ("-", None),
            ("+7", None),
            ("99999999999999999999", None),
            ("yesterday", None),
            ("2026-01-01", None),
            ("2026-01-01T00:00:00", None),
        ] {
            assert_eq!(parse_start(text), expected, "{text}");
        }
    }

    #[test]
    fn only_an_event_source_gets_events() {
        let of = |accept: &str| {
            let headers: HeaderMap = [(http::header::ACCEPT, accept.parse().unwrap())].into_iter().collect();
            form(&headers)
        };
        assert_eq!(of("text/event-stream"), Form::Events);
        assert_eq!(of("text/html, text/event-stream;q=0.9"), Form::Events);
        assert_eq!(of("Text/Event-Stream"), Form::Events);
        assert_eq!(of("text/event-stream;q=0, application/x-ndjson"), Form::Lines);
        assert_eq!((of("*/*"), form(&HeaderMap::new())), (Form::Lines, Form::Lines));
    }
}
