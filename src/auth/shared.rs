//! The state that all handles and callers share.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::attempts::Failures;
use super::files::Files;
use super::identity::Identity;
use super::principals::Principals;
use super::rate_limiter::{Limits, RateLimiter};
use super::rules::Rules;

/// State behind every handle.
pub(super) struct Shared {
    pub(super) rules: ArcSwap<Rules>,
    pub(super) principals: Mutex<Principals>,
    pub(super) files: Mutex<Files>,
    /// Usage of all callers together.
    pub(super) rate_limiter: Arc<RateLimiter>,
    pub(super) limits: Limits,
    pub(super) failures: Arc<Failures>,
    /// Identity of callers without a credential.
    pub(super) anonymous: Arc<Identity>,
}
