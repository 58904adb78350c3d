//! Leases over HTTP: Lease and Settle of GroupService, with bodies in protobuf's JSON and records in the form of a read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::body::{Number, body, call, duration, read};
use super::groups::{Names, Range, names, ranges};
use super::problem::Problem;
use super::publish::document;
use super::query::{Parameters, invalid};
use super::state::Web;
use crate::group::Token;
use crate::group::logic::GroupName;
use crate::json::{self, JsonObject, Line, Values};
use crate::proto::v1::{self, SettlementResult};
use crate::record::block::Blocks;
use crate::record::walk::Malformed;
use crate::record::{RecordRef, TopicName};
use crate::service::group::lease as calls;
use crate::service::status::{Context, Error};
use crate::storage;
use crate::wire::Lease;

/// Answers `POST /v1/topics/{topic}/groups/{group}/lease`.
pub async fn lease(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, group) = names(found)?;
    let (parts, body) = request.into_parts();
    let values = match Parameters::of(&parts.uri, &["value"])?.text("value") {
        None | Some("text") => Values::Text,
        Some("base64") => Values::Base64,
        Some(_) => return Err(invalid("value", "neither text nor base64")),
    };
    let asked: LeaseBody = read(&web, &parts, body).await?;
    let request = v1::LeaseRequest {
        topic,
        group,
        member: asked.member,
        max_records: asked.max_records.map_or(Ok(0), |records| records.get_u32("maxRecords"))?,
        max_bytes: asked.max_bytes.map_or(Ok(0), |bytes| bytes.get("maxBytes"))?,
        wait: asked.wait.map(|wait| duration("wait", &wait)).transpose()?,
    };
    let leased = calls::lease(Arc::clone(&web.groups), call(&parts, request)).await;
    let leased = leased.map_err(|status| Problem::from(&status))?;
    let leases: Result<Vec<_>, _> = leased.leases.iter().map(|lease| lease_json(lease, values)).collect();
    let leases = leases.map_err(|Malformed(why)| {
        Problem::of(&Error::from(storage::Error::Damaged(why.to_owned())), &Context::default())
    })?;
    Ok(document(&LeasesBody { leases }))
}

/// Answers `POST /v1/topics/{topic}/groups/{group}/settle`.
pub async fn settle(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let names = names(found)?;
    // There may be no token to compare them with.
    TopicName::parse(&names.0).map_err(|rule| invalid("topic", rule))?;
    GroupName::parse(&names.1).map_err(|rule| invalid("group", rule))?;
    let (parts, asked) = body::<SettleBody>(&web, request).await?;
    let settlements = asked.settlements.into_iter().map(|JsonObject(settlement)| settlement.get(&names));
    let extensions = asked.extensions.into_iter().map(|JsonObject(extend)| extend.get(&names));
    let request = v1::SettleRequest {
        settlements: settlements.collect::<Result<_, _>>()?,
        extensions: extensions.collect::<Result<_, _>>()?,
    };
    let settled = calls::settle(Arc::clone(&web.groups), call(&parts, request)).await;
    settled_json(&settled.map_err(|status| Problem::from(&status))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LeaseBody {
    #[serde(default)]
    member: String,
    max_records: Option<Number>,
    max_bytes: Option<Number>,
    wait: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    #[serde(default)]
    settlements: Vec<JsonObject<SettlementBody>>,
    #[serde(default)]
    extensions: Vec<JsonObject<ExtendBody>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SettlementBody {
    number: Option<Number>,
    token: String,
    #[serde(default)]
    acks: Vec<JsonObject<Range>>,
    #[serde(default)]
    nacks: Vec<JsonObject<NackBody>>,
    #[serde(default)]
    dead_letters: Vec<JsonObject<DeadLetterBody>>,
    #[serde(default)]
    returns: Vec<JsonObject<Range>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NackBody {
    range: JsonObject<Range>,
    delay: Option<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLetterBody {
    range: JsonObject<Range>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    number: Option<Number>,
    token: String,
    time: Option<String>,
}

impl SettlementBody {
    fn get(self, names: &(String, String)) -> Result<v1::Settlement, Problem> {
        let nack = |JsonObject(nack): JsonObject<NackBody>| {
            let delay = nack.delay.map(|delay| duration("settlements.nacks.delay", &delay)).transpose()?;
            Ok(v1::Nack {
                range: Some(nack.range.0.get("settlements.nacks.range")?),
                delay,
                reason: nack.reason,
            })
        };
        let dead_letter = |JsonObject(DeadLetterBody { range, reason })| {
            Ok(v1::DeadLetter { range: Some(range.0.get("settlements.deadLetters.range")?), reason })
        };
        Ok(v1::Settlement {
            number: number("settlements.number", self.number)?,
            token: token("settlements.token", &self.token, names)?,
            acks: ranges("settlements.acks", self.acks)?,
            nacks: self.nacks.into_iter().map(nack).collect::<Result<_, Problem>>()?,
            dead_letters: self.dead_letters.into_iter().map(dead_letter).collect::<Result<_, Problem>>()?,
            returns: ranges("settlements.returns", self.returns)?,
        })
    }
}

impl ExtendBody {
    fn get(self, names: &(String, String)) -> Result<v1::Extend, Problem> {
        Ok(v1::Extend {
            number: number("extensions.number", self.number)?,
            token: token("extensions.token", &self.token, names)?,
            time: self.time.map(|time| duration("extensions.time", &time)).transpose()?,
        })
    }
}

fn number(field: &str, number: Option<Number>) -> Result<u64, Problem> {
    number.map_or(Ok(0), |number| number.get(field))
}

/// Reads the token of a lease, which must be one of the group that the path names.
fn token(field: &str, text: &str, (topic, group): &(String, String)) -> Result<Bytes, Problem> {
    let bytes = STANDARD.decode(text).map_err(|_| invalid(field, "not base64"))?;
    match Token::decode(&bytes) {
        Some(token) if token.topic.as_str() == topic && token.group.as_str() == group => Ok(bytes.into()),
        _ => Err(invalid(field, "is not the token of a lease of this group")),
    }
}

/// Answer to a lease.
#[derive(Serialize)]
struct LeasesBody {
    leases: Vec<LeaseJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseJson {
    fence: String,
    ranges: Vec<Value>,
    /// Encoded records, which take a fraction of the memory of values.
    records: Vec<Box<RawValue>>,
    redeliveries: Vec<Value>,
    time_left: Option<String>,
    token: String,
}

fn lease_json(lease: &Lease, values: Values) -> Result<LeaseJson, Malformed> {
    let mut records = Vec::new();
    for block in lease.batches.iter().flat_map(|run| Blocks::new(run)) {
        let block = block?;
        let mut offset = block.first;
        for encoded in block.records() {
            let record = RecordRef::parse(offset, block.time(), encoded)?;
            let line = Line { topic: None, record: &record, values };
            records.push(to_raw_value(&line).expect("a record has no value that JSON does not have"));
            offset = offset.plus(1);
        }
    }
    let rest = &lease.rest;
    let held = Token::decode(&rest.token).map(|token| token.held).unwrap_or_default();
    let ranges = held.iter().map(|span| v1::OffsetRange { start: span.start, end: span.end });
    let redeliveries = rest.redeliveries.iter();
    let redeliveries =
        redeliveries.map(|again| json!({ "range": again.range.map(range_json), "delivery": again.delivery }));
    Ok(LeaseJson {
        token: STANDARD.encode(&rest.token),
        fence: rest.fence.to_string(),
        time_left: rest.time_left.map(duration_json),
        ranges: ranges.map(range_json).collect(),
        redeliveries: redeliveries.collect(),
        records,
    })
}

/// Answers 200 if everything took effect, else 409 with what became of each part.
fn settled_json(settled: &v1::SettleResponse) -> Result<Response, Problem> {
    let outcomes = settled.outcomes.iter().map(|outcome| {
        let result = outcome.result().as_str_name();
        json!({ "number": outcome.number.to_string(), "range": outcome.range.map(range_json), "result": result })
    });
    let extensions = settled.extensions.iter().map(|extension| {
        let left = extension.time_left.map(duration_json);
        json!({ "number": extension.number.to_string(), "timeLeft": left })
    });
    let (outcomes, extensions): (Vec<_>, Vec<_>) = (outcomes.collect(), extensions.collect());
    let count = |result| settled.outcomes.iter().filter(|outcome| outcome.result() == result).count();
    let late = settled.extensions.iter().filter(|extension| extension.time_left.is_none()).count();
    let lost = count(SettlementResult::LeaseLost) + late;
    let (reason, detail) = match (lost, count(SettlementResult::OutOfKeyOrder)) {
        (0, 0) => return Ok(document(&json!({ "outcomes": outcomes, "extensions": extensions }))),
        (0, _) => {
            ("OUT_OF_KEY_ORDER", "an earlier record of the same key is not settled; outcomes has each part")
        }
        _ => (
            "LEASE_LOST",
            "the lease is lost: its records were leased again, or will be; outcomes has each part",
        ),
    };
    let is_partial = lost + count(SettlementResult::OutOfKeyOrder) < outcomes.len() + extensions.len();
    let problem = Problem::new(StatusCode::CONFLICT, reason, detail);
    let problem = if is_partial { problem.with("side_effects", "unknown") } else { problem };
    Err(problem.with("outcomes", outcomes).with("extensions", extensions))
}

fn range_json(range: v1::OffsetRange) -> Value {
    json!({ "start": range.start.to_string(), "end": range.end.to_string() })
}

fn duration_json(time: prost_types::Duration) -> String {
    json::duration(Duration::try_from(time).unwrap_or_default())
}
