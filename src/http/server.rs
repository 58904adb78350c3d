//! The server itself: what the console shows of the build and its engine.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::json;

use super::Web;

/// Answers `GET /v1/server`.
pub async fn describe(State(web): State<Web>) -> Response {
    let server = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": web.config.engine.to_string(),
        "identities": web.config.has_identities(),
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, format!("{server}\n")).into_response()
}
