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
    use super::DOCUMENT;
    use crate::http::template;

    #[test]
    fn every_described_path_is_a_route() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
        assert_eq!(paths.len(), 5);
        assert!(paths.iter().all(|path| template(path) == path.as_str()), "{paths:?}");
    }
}
