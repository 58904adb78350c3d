//! State that the routes share.

use std::sync::Arc;

use crate::auth::Auth;
use crate::config::Config;
use crate::registry::Registry;
use crate::service::{Administration, GroupCalls, Streams};
use crate::topic::Topics;

use super::shared::Shared;

/// State that the routes share. Cheap to clone.
#[derive(Clone)]
pub struct Web {
    /// The topics.
    pub topics: Topics,
    /// The calls of groups, the same as those of the gRPC port.
    pub groups: Arc<GroupCalls>,
    /// The administration of topics, the same as that of the gRPC port.
    pub administration: Administration,
    /// The policy.
    pub auth: Auth,
    /// Connections and their calls.
    pub registry: Registry,
    /// The configuration.
    pub config: Arc<Config>,
    /// Encoded records of the topics that are followed.
    pub encoded: Shared,
}

impl Web {
    /// Makes the state of calls on topics.
    #[must_use]
    pub fn streams(&self) -> Streams {
        Streams::new(self.topics.clone(), self.auth.clone(), &self.config)
    }
}
