//! Administration of groups over HTTP: the calls of GroupService, with bodies in protobuf's JSON.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::{Number, body, call};
use super::group_fields::{settings, start};
use super::problem::Problem;
use super::publish::document;
use super::query::{Name, Parameters, invalid, name};
use super::state::Web;
use crate::json::{JsonObject, group_json};
use crate::proto::v1;
use crate::service::group::admin;

/// The names of a topic and of its group in a path, as the extractor found them.
pub type Names = Result<Path<(String, String)>, PathRejection>;

/// Returns the names of a topic and of its group.
///
/// # Errors
/// One is not UTF-8.
pub fn names(found: Names) -> Result<(String, String), Problem> {
    match found {
        Ok(Path(names)) => Ok(names),
        Err(_) => Err(invalid("group", "not UTF-8")),
    }
}

/// Answers `GET /v1/groups`: groups of all topics.
pub async fn list_all(State(web): State<Web>, request: Request) -> Result<Response, Problem> {
    page(&web, String::new(), request).await
}

/// Answers `GET /v1/topics/{topic}/groups`.
pub async fn list(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    page(&web, name(topic)?, request).await
}

async fn page(web: &Web, topic: String, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let parameters = Parameters::of(&parts.uri, &["page_size", "page_token"])?;
    let asked = v1::ListGroupsRequest {
        topic,
        page_size: parameters.parsed("page_size", "a number of groups")?.unwrap_or_default(),
        page_token: parameters.text("page_token").unwrap_or_default().to_owned(),
    };
    let page = admin::list(Arc::clone(&web.groups), call(&parts, asked)).await;
    let page = page.map_err(|status| Problem::from(&status))?;
    let groups: Vec<_> = page.groups.iter().map(group_json).collect();
    Ok(document(&json!({ "groups": groups, "nextPageToken": page.next_page_token })))
}

/// Answers `POST /v1/topics/{topic}/groups`.
pub async fn create(State(web): State<Web>, topic: Name, request: Request) -> Result<Response, Problem> {
    let topic = name(topic)?;
    let (parts, asked) = body::<CreateBody>(&web, request).await?;
    let group = v1::Group {
        topic,
        name: asked.name,
        settings: Some(settings(asked.settings)?.0),
        ..v1::Group::default()
    };
    let start = asked.from.map(|from| start("from", &from)).transpose()?;
    let request = v1::CreateGroupRequest { group: Some(group), start };
    let created = admin::create(Arc::clone(&web.groups), call(&parts, request)).await;
    let group = created.map_err(|status| Problem::from(&status))?.group.unwrap_or_default();
    let mut answer = document(&group_json(&group));
    *answer.status_mut() = StatusCode::CREATED;
    // Both names have only characters that a path may have.
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/topics/{}/groups/{}", group.topic, group.name)) {
        answer.headers_mut().insert(header::LOCATION, at);
    }
    Ok(answer)
}

/// Answers `GET /v1/topics/{topic}/groups/{group}`.
pub async fn describe(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, name) = names(found)?;
    let (parts, _) = request.into_parts();
    Parameters::of(&parts.uri, &[])?;
    let asked = v1::GetGroupRequest { topic, name };
    let found = admin::get(Arc::clone(&web.groups), call(&parts, asked)).await;
    described(found.map(|found| found.group))
}

/// Answers `PATCH /v1/topics/{topic}/groups/{group}`.
pub async fn update(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, name) = names(found)?;
    let (parts, asked) = body::<UpdateBody>(&web, request).await?;
    let (settings, paths) = settings(asked.settings)?;
    if paths.is_empty() {
        return Err(invalid("settings", "has no field to change"));
    }
    let group = v1::Group { topic, name, id: asked.id, settings: Some(settings), ..v1::Group::default() };
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = v1::UpdateGroupRequest { group: Some(group), update_mask };
    let updated = admin::update(Arc::clone(&web.groups), call(&parts, request)).await;
    described(updated.map(|updated| updated.group))
}

/// Answers `DELETE /v1/topics/{topic}/groups/{group}`.
pub async fn delete(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, name) = names(found)?;
    let (parts, _) = request.into_parts();
    let id = id(&parts.uri)?;
    let asked = v1::DeleteGroupRequest { topic, name, id };
    let deleted = admin::delete(Arc::clone(&web.groups), call(&parts, asked)).await;
    deleted.map_err(|status| Problem::from(&status))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn id(uri: &Uri) -> Result<String, Problem> {
    Ok(Parameters::of(uri, &["id"])?.text("id").unwrap_or_default().to_owned())
}

/// Answers `POST /v1/topics/{topic}/groups/{group}/seek`.
pub async fn seek(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, name) = names(found)?;
    let (parts, asked) = body::<SeekBody>(&web, request).await?;
    let request = v1::SeekGroupRequest { topic, name, to: Some(start("to", &asked.to)?) };
    let sought = admin::seek(Arc::clone(&web.groups), call(&parts, request)).await;
    described(sought.map(|sought| sought.group))
}

/// Answers `POST /v1/topics/{topic}/groups/{group}/redrive`.
pub async fn redrive(State(web): State<Web>, found: Names, request: Request) -> Result<Response, Problem> {
    let (topic, name) = names(found)?;
    let (parts, asked) = body::<RedriveBody>(&web, request).await?;
    let source = match asked.source.as_deref() {
        None => v1::RedriveSource::Unspecified,
        Some(text) => v1::RedriveSource::from_str_name(text)
            .ok_or_else(|| invalid("source", "not REDRIVE_SOURCE_DEAD_LETTERS or REDRIVE_SOURCE_PARKED"))?,
    };
    let request = v1::RedriveDeadLettersRequest {
        topic,
        name,
        source: source.into(),
        ranges: ranges("ranges", asked.ranges)?,
        republish_trimmed: asked.republish_trimmed,
    };
    let done = admin::redrive(Arc::clone(&web.groups), call(&parts, request)).await;
    let done = done.map_err(|status| Problem::from(&status))?;
    Ok(document(&json!({
        "reopenedRecords": done.reopened_records.to_string(),
        "republishedRecords": done.republished_records.to_string(),
        "missingRecords": done.missing_records.to_string(),
    })))
}

fn described(group: Result<Option<v1::Group>, tonic::Status>) -> Result<Response, Problem> {
    let group = group.map_err(|status| Problem::from(&status))?;
    Ok(document(&group_json(&group.unwrap_or_default())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    from: Option<String>,
    #[serde(default)]
    settings: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBody {
    #[serde(default)]
    id: String,
    settings: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekBody {
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RedriveBody {
    source: Option<String>,
    #[serde(default)]
    ranges: Vec<JsonObject<Range>>,
    #[serde(default)]
    republish_trimmed: bool,
}

/// The offsets from `start` up to but without `end`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    start: Number,
    end: Number,
}

impl Range {
    /// Reads the range of a field.
    ///
    /// # Errors
    /// It is not made of numbers of 64 bits.
    pub fn get(self, field: &str) -> Result<v1::OffsetRange, Problem> {
        let part = |number: Number, name| number.get(&format!("{field}.{name}"));
        Ok(v1::OffsetRange { start: part(self.start, "start")?, end: part(self.end, "end")? })
    }
}

/// Reads the ranges of a field.
///
/// # Errors
/// One is not made of numbers of 64 bits.
pub fn ranges(field: &str, ranges: Vec<JsonObject<Range>>) -> Result<Vec<v1::OffsetRange>, Problem> {
    ranges.into_iter().map(|JsonObject(range)| range.get(field)).collect()
}
