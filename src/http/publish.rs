//! Publishing by JSON, NDJSON or bytes. A document and bytes are one atomic batch; the lines of NDJSON are published in
//! batches that depend on the lines alone, so that a repeated request has the same ones.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::lines::{BatchRules, Batches};
use super::problem::Problem;
use super::query::{Name, Parameters, invalid, name};
use super::state::Web;
use crate::json;
use crate::proto::v1::IngestResponse;
use crate::record::{Receipt, Record};
use crate::service::Failed;
use crate::wire::PublishRequest;

/// Content types of a publish.
const KINDS: &str = "application/json, application/x-ndjson, application/octet-stream";
/// Header of the request id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key of lines, in bytes: batch n has the request id `KEY/n`, of at most 128 bytes.
const LINES_KEY_MAX: usize = 107;

/// Answers `POST /v1/topics/{topic}/records`.
pub async fn publish(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let topic = name(topic)?;
    let (parts, body) = request.into_parts();
    let conditions = Conditions::of(&parts, &topic)?;
    match kind(&parts.headers).as_str() {
        "application/json" => {
            let batch = conditions.document(&web, whole(&web, body).await?)?;
            publish_batch(&web, &parts, batch).await
        }
        "application/octet-stream" => {
            let key = key(&Parameters::of(&parts.uri, &BYTES_PARAMETERS)?)?;
            let value = whole(&web, body).await?;
            let batch = conditions.request(&[Record { key, value, ..Record::default() }]);
            publish_batch(&web, &parts, batch).await
        }
        "application/x-ndjson" if conditions.request_id.len() > LINES_KEY_MAX => {
            let rule =
                format!("longer than {LINES_KEY_MAX} bytes, which leave room for the number of a batch");
            Err(invalid("Idempotency-Key", rule))
        }
        "application/x-ndjson" => publish_lines(&web, &parts, conditions, body).await,
        _ => Err(Problem::unsupported_media_type(KINDS)),
    }
}

const PARAMETERS: [&str; 1] = ["expected_offset"];
const BYTES_PARAMETERS: [&str; 3] = ["expected_offset", "key", "key_base64"];

/// Options of a publish, beside its records.
struct Conditions {
    topic: Box<str>,
    request_id: Box<str>,
    expected_offset: Option<u64>,
}

impl Conditions {
    fn of(parts: &Parts, topic: &str) -> Result<Self, Problem> {
        let is_bytes = kind(&parts.headers) == "application/octet-stream";
        let known = if is_bytes { &BYTES_PARAMETERS[..] } else { &PARAMETERS[..] };
        let parameters = Parameters::of(&parts.uri, known)?;
        Ok(Self {
            topic: topic.into(),
            request_id: request_id(&parts.headers)?.into(),
            expected_offset: parameters.parsed("expected_offset", "an offset")?,
        })
    }

    /// Makes the publish of a document. What it was made of is gone by the time when it waits for its admission.
    fn document(self, web: &Web, body: Bytes) -> Result<PublishRequest, Problem> {
        let records_max = web.config.batch_records_max as usize;
        let records = json::document(&body, records_max).map_err(|why| malformed(&why))?;
        Ok(self.request(&records))
    }

    fn request(self, records: &[Record]) -> PublishRequest {
        let mut fields = BytesMut::with_capacity(records.iter().map(Record::field_len).sum());
        for record in records {
            record.put_field(&mut fields);
        }
        PublishRequest {
            topic: self.topic,
            request_id: self.request_id,
            records: fields.freeze(),
            expected_offset: self.expected_offset,
            traceparent: "".into(),
        }
    }
}

/// Returns the request id, which may stand in quotes as the draft of the header has it.
fn request_id(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok("") };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let text = text.ok_or_else(|| invalid("Idempotency-Key", "given twice, or not ASCII"))?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() { Err(invalid("Idempotency-Key", "empty")) } else { Ok(text) }
}

fn key(parameters: &Parameters) -> Result<Bytes, Problem> {
    match (parameters.text("key"), parameters.text("key_base64")) {
        (None, None) => Ok(Bytes::new()),
        (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        (None, Some(text)) => {
            STANDARD.decode(text).map(Bytes::from).map_err(|_| invalid("key_base64", "not base64"))
        }
        (Some(_), Some(_)) => Err(invalid("key_base64", "given beside key")),
    }
}

/// Returns the content type without its parameters, in lower case.
pub fn kind(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads the whole body, which is at most as long as a message of gRPC.
pub async fn whole(web: &Web, mut body: Body) -> Result<Bytes, Problem> {
    let bytes_max = web.config.message_bytes_max;
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Problem::body_too_large(bytes_max));
    }
    let mut read = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Problem::of_body(&error))?;
        let data = frame.into_data().unwrap_or_default();
        if read.len() + data.len() > bytes_max {
            return Err(Problem::body_too_large(bytes_max));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Makes the answer to a body that is not what its content type says.
pub fn malformed(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "MALFORMED_MESSAGE", why)
}

async fn publish_batch(web: &Web, parts: &Parts, batch: PublishRequest) -> Result<Response, Problem> {
    let published = web.streams().publish_batch(parts, batch).await;
    let Receipt { first, next, time, duplicate } = published.map_err(|status| Problem::from(&status))?;
    Ok(document(&json!({
        "first_offset": first.to_string(),
        "next": next.to_string(),
        "publish_time": json::time(time),
        "duplicate": duplicate,
    })))
}

async fn publish_lines(
    web: &Web,
    parts: &Parts,
    conditions: Conditions,
    body: Body,
) -> Result<Response, Problem> {
    let Conditions { topic, request_id, expected_offset } = conditions;
    let rules = BatchRules::of(&web.config, topic, request_id, expected_offset);
    let held = parts.extensions.get().cloned().unwrap_or_default();
    let mut batches = Batches::new(body, held, rules);
    let published = web.streams().publish_batches(parts, &mut batches).await;
    match (published, batches.take_problem()) {
        (Ok(stored), None) => Ok(document(&summary(&stored))),
        (Ok(stored), Some(problem)) => Err(with_stored(problem, &stored)),
        (Err(Failed { status, stored }), _) => {
            let problem = with_stored(Problem::from(&status), &stored);
            let line = batches.line_of(stored.records);
            Err(line.map_or(problem.clone(), |line| problem.with("line", line.to_string())))
        }
    }
}

fn summary(stored: &IngestResponse) -> Value {
    let mut summary = json!({ "records": stored.records.to_string(), "batches": stored.batches.to_string() });
    if let Some(next) = next(stored) {
        summary["next"] = next.into();
    }
    summary
}

/// Says how many records before a mistake are stored, and where the next one goes.
fn with_stored(problem: Problem, stored: &IngestResponse) -> Problem {
    let problem = problem.with("records", stored.records.to_string());
    match next(stored) {
        Some(next) => problem.with("next", next),
        None => problem,
    }
}

fn next(stored: &IngestResponse) -> Option<String> {
    stored.next.as_ref().map(|next| format!("{}_{:020}", next.epoch, next.offset))
}

/// Makes the answer of one JSON document.
pub fn document(value: &impl Serialize) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut body = serde_json::to_string(value).expect("maps have text keys, and memory takes all");
    body.push('\n');
    (headers, body).into_response()
}
