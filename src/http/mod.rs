//! The routes of the HTTP listener, and what protects them from web pages. Thin over the same topics, identities and
//! errors as the gRPC calls; gRPC-Web reaches those calls themselves and passes through here only for the guard.
//!
//! A request for a route below `/v1/` carries in its extensions what the port knows of it: [`crate::auth::Caller`],
//! `Arc<`[`crate::registry::Call`]`>` and `Arc<`[`crate::topic::Connection`]`>`.

mod guard;
mod problem;
mod route;

use std::sync::Arc;

use axum::Router;
use http::{Extensions, HeaderMap, StatusCode, Uri, Version, header};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

pub use guard::{Guard, Pass};
pub use problem::{BODY_TIMEOUT, Problem, status_of};
pub use route::{needs_identity, template};

use crate::auth::Auth;
use crate::config::Config;
use crate::group::Groups;
use crate::registry::Registry;
use crate::topic::Topics;

/// Bytes of the shortest answer that is compressed: less fits into one packet anyway.
const COMPRESSED_BYTES_MIN: u16 = 1024;

/// State that the routes share. Cheap to clone.
#[derive(Clone)]
pub struct Web {
    /// The topics.
    pub topics: Topics,
    /// The groups.
    pub groups: Groups,
    /// The policy.
    pub auth: Auth,
    /// Connections and their calls.
    pub registry: Registry,
    /// The configuration.
    pub config: Arc<Config>,
}

/// Makes the routes. Their templates are listed in [`template`].
pub fn router(web: Web) -> Router {
    Router::new()
        .fallback(|uri: Uri| async move { Problem::not_found(uri.path()) })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN).and(is_plain)))
        .with_state(web)
}

/// Returns true for an answer that is one document. One that follows a topic is not compressed: its pieces would wait for
/// more, and a compressor is memory that each follower would hold.
fn is_plain(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    const DOCUMENTS: [&str; 3] = ["application/json", "application/problem+json", "text/html"];
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim_end();
    DOCUMENTS.contains(&kind)
}
