//! Administration of topics over HTTP: the calls of TopicService, with bodies in protobuf's JSON.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::body::{Number, body, call, duration, present};
use super::problem::Problem;
use super::publish::document;
use super::query::{Name, Parameters, invalid, name};
use super::state::Web;
use crate::json::{JsonObject, topic_json};
use crate::proto::v1;
use crate::wire::stubs::v1::topic_service_server::TopicService as _;

/// Answers `GET /v1/topics`.
pub async fn list(State(web): State<Web>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let parameters = Parameters::of(&parts.uri, &["prefix", "page_size", "page_token"])?;
    let text = |name| parameters.text(name).unwrap_or_default().to_owned();
    let asked = v1::ListTopicsRequest {
        prefix: text("prefix"),
        page_size: parameters.parsed("page_size", "a number of topics")?.unwrap_or_default(),
        page_token: text("page_token"),
    };
    let page = web.administration.list_topics(call(&parts, asked)).await;
    let page = page.map_err(|status| Problem::from(&status))?.into_inner();
    let topics: Vec<_> = page.topics.iter().map(topic_json).collect();
    Ok(document(&json!({ "topics": topics, "nextPageToken": page.next_page_token })))
}

/// Answers `POST /v1/topics`.
pub async fn create(State(web): State<Web>, request: Request) -> Result<Response, Problem> {
    let (parts, asked) = body::<CreateBody>(&web, request).await?;
    let retention = asked.retention.unwrap_or_default().0.merged()?.0;
    let topic = v1::Topic { name: asked.name, retention: Some(retention), ..v1::Topic::default() };
    let request = v1::CreateTopicRequest { topic: Some(topic) };
    let created = web.administration.create_topic(call(&parts, request)).await;
    let topic = created.map_err(|status| Problem::from(&status))?.into_inner().topic.unwrap_or_default();
    let mut answer = document(&topic_json(&topic));
    *answer.status_mut() = StatusCode::CREATED;
    // A topic's name has only characters that a path may have.
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/topics/{}", topic.name)) {
        answer.headers_mut().insert(header::LOCATION, at);
    }
    Ok(answer)
}

/// Answers `GET /v1/topics/{topic}`.
pub async fn describe(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    Parameters::of(&parts.uri, &[])?;
    let asked = v1::GetTopicRequest { name: name(topic)? };
    let found = web.administration.get_topic(call(&parts, asked)).await;
    let topic = found.map_err(|status| Problem::from(&status))?.into_inner().topic.unwrap_or_default();
    Ok(document(&topic_json(&topic)))
}

/// Answers `PATCH /v1/topics/{topic}`.
pub async fn update(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let name = name(topic)?;
    let (parts, asked) = body::<UpdateBody>(&web, request).await?;
    let (retention, paths) = asked.retention.0.merged()?;
    let topic = v1::Topic { name, retention: Some(retention), ..v1::Topic::default() };
    if paths.is_empty() {
        return Err(invalid("retention", "has no field to change"));
    }
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = v1::UpdateTopicRequest { topic: Some(topic), update_mask };
    let updated = web.administration.update_topic(call(&parts, request)).await;
    let topic = updated.map_err(|status| Problem::from(&status))?.into_inner().topic.unwrap_or_default();
    Ok(document(&topic_json(&topic)))
}

/// Answers `DELETE /v1/topics/{topic}`.
pub async fn delete(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let parameters = Parameters::of(&parts.uri, &["epoch"])?;
    let epoch = parameters.text("epoch").unwrap_or_default().to_owned();
    let asked = v1::DeleteTopicRequest { name: name(topic)?, epoch };
    let deleted = web.administration.delete_topic(call(&parts, asked)).await;
    deleted.map_err(|status| Problem::from(&status))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Answers `POST /v1/topics/{topic}/trim`.
pub async fn trim(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let name = name(topic)?;
    let (parts, asked) = body::<TrimBody>(&web, request).await?;
    let before_offset = asked.before_offset.get("beforeOffset")?;
    let request = v1::TrimTopicRequest { name, before_offset, epoch: asked.epoch };
    let trimmed = web.administration.trim_topic(call(&parts, request)).await;
    let trimmed = trimmed.map_err(|status| Problem::from(&status))?.into_inner();
    Ok(document(&json!({ "earliestOffset": trimmed.earliest_offset.to_string() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    #[serde(default)]
    retention: Option<JsonObject<RetentionBody>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBody {
    retention: JsonObject<RetentionBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TrimBody {
    before_offset: Number,
    #[serde(default)]
    epoch: String,
}

/// Retention in a body. A field that is null or 0 removes its limit; one that is missing is left as it is.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RetentionBody {
    #[serde(deserialize_with = "present")]
    max_age: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    max_bytes: Option<Option<Number>>,
    #[serde(deserialize_with = "present")]
    max_records: Option<Option<Number>>,
}

impl RetentionBody {
    /// Returns the limits, and the paths of those that were given.
    fn merged(self) -> Result<(v1::Retention, Vec<String>), Problem> {
        let (mut retention, mut paths) = (v1::Retention::default(), Vec::new());
        if let Some(age) = self.max_age {
            retention.max_age = age.map(|age| duration("retention.maxAge", &age)).transpose()?;
            paths.push("retention.max_age".to_owned());
        }
        if let Some(bytes) = self.max_bytes {
            retention.max_bytes = bytes.map_or(Ok(0), |bytes| bytes.get("retention.maxBytes"))?;
            paths.push("retention.max_bytes".to_owned());
        }
        if let Some(records) = self.max_records {
            retention.max_records = records.map_or(Ok(0), |records| records.get("retention.maxRecords"))?;
            paths.push("retention.max_records".to_owned());
        }
        Ok((retention, paths))
    }
}
