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
use http::Uri;

pub use guard::{Guard, Pass};
pub use problem::{Problem, status_of};
pub use route::{needs_identity, template};

use crate::auth::Auth;
use crate::config::Config;
use crate::group::Groups;
use crate::registry::Registry;
use crate::topic::Topics;

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
        .with_state(web)
}
