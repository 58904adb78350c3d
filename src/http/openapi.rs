//! Description of the routes in OpenAPI.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

/// The document, which a test compares with the routes.
const DOCUMENT: &str = include_str!("openapi.json");

/// Answers `GET /v1/openapi.json`.
pub async fn describe() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::DOCUMENT;
    use crate::http::route::TEMPLATES;

    #[test]
    fn every_route_of_the_api_is_described() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        // The console is no part of the API, and session topics do not exist yet.
        let absent = ["/", "/v1/streams/{topic}"];
        let routes = TEMPLATES.iter().copied().filter(|template| !absent.contains(template));
        assert_eq!(paths, routes.collect());
    }
}
