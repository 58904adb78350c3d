//! The routes of the HTTP listener, and what protects them from web pages. Thin over the same topics, identities and
//! errors as the gRPC calls; gRPC-Web reaches those calls themselves and passes through here only for the guard.
//!
//! A request for a route below `/v1/` carries in its extensions what the port knows of it: [`crate::auth::Caller`],
//! `Arc<`[`crate::registry::Call`]`>` and `Arc<`[`crate::topic::Connection`]`>`.

mod body;
mod console;
mod deliveries;
mod encoder;
mod group_fields;
mod groups;
mod guard;
mod leases;
mod lines;
mod openapi;
mod problem;
mod publish;
mod query;
mod read;
mod route;
mod server;
mod shared;
mod state;
mod topics;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{Extensions, HeaderMap, Method, StatusCode, Uri, Version, header};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

pub use guard::{Guard, Pass};
pub use lines::Held;
pub use problem::{BODY_TIMEOUT, BODY_TOO_SLOW, Problem, status_of};
pub use read::{Following, Refusal};
pub use route::{NO_ROUTE, needs_identity, template};
pub use shared::Shared;
pub use state::Web;

/// Bytes of the shortest answer that is compressed: less fits into one packet anyway.
const COMPRESSED_BYTES_MIN: u16 = 1024;

/// Makes the routes. Their templates are listed in [`template`].
pub fn router(web: Web) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(openapi::describe))
        .route("/", get(console::page))
        .route("/v1/server", get(server::describe))
        .route("/v1/topics", get(topics::list).post(topics::create))
        .route("/v1/topics/{topic}", get(topics::describe).patch(topics::update).delete(topics::delete))
        .route("/v1/topics/{topic}/trim", post(topics::trim))
        .route("/v1/topics/{topic}/records", get(read::read).post(publish::publish))
        .merge(group_routes())
        .fallback(no_route)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN).and(is_plain)))
        .with_state(web)
}

fn group_routes() -> Router<Web> {
    const GROUP: &str = "/v1/topics/{topic}/groups/{group}";
    Router::new()
        .route("/v1/groups", get(groups::list_all))
        .route("/v1/topics/{topic}/groups", get(groups::list).post(groups::create))
        .route(GROUP, get(groups::describe).patch(groups::update).delete(groups::delete))
        .route(&format!("{GROUP}/seek"), post(groups::seek))
        .route(&format!("{GROUP}/redrive"), post(groups::redrive))
        .route(&format!("{GROUP}/lease"), post(leases::lease))
        .route(&format!("{GROUP}/settle"), post(leases::settle))
}

/// Answers a request for a path without a route, or for none (`OPTIONS *`: RFC 9110, section 9.3.7).
async fn no_route(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS && uri.path() == "*" {
        (StatusCode::NO_CONTENT, [(header::ALLOW, guard::METHODS)]).into_response()
    } else {
        Problem::not_found(uri.path()).into_response()
    }
}

/// Returns true for an answer that is one document. One that follows a topic is not compressed: its pieces would wait for
/// more, and a compressor is memory that each follower would hold.
fn is_plain(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    const DOCUMENTS: [&str; 3] = ["application/json", "application/problem+json", "text/html"];
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim_end();
    DOCUMENTS.contains(&kind)
}
