//! The principals that called: the usage of each, and what the policy grants it. Those that are gone are
//! forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::name::ANONYMOUS;
use super::policy::{Action, Granted, Policy};
use super::rate_limiter::{Limits, RateLimiter, now_ns};
use super::set::PatternSet;

/// Number of principals from which on idle ones are removed.
const SWEEP_AT: usize = 1024;

/// One principal, shared by all its calls.
#[derive(Debug)]
pub(super) struct Principal {
    pub(super) name: Arc<str>,
    /// Digest that stands for the name in stored data: half of its SHA-256; zero for anonymous callers.
    pub(super) digest: [u8; 16],
    pub(super) rate_limiter: Arc<RateLimiter>,
    /// Grants of the policy beside them; computed again under another policy.
    granted: ArcSwapOption<(Arc<Policy>, Granted)>,
}

impl Principal {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self { digest: digest(&name), name, rate_limiter: Arc::default(), granted: ArcSwapOption::empty() }
    }

    fn granted(&self, policy: &Arc<Policy>) -> Arc<(Arc<Policy>, Granted)> {
        match self.granted.load_full() {
            Some(granted) if Arc::ptr_eq(&granted.0, policy) => granted,
            _ => {
                let granted = Arc::new((Arc::clone(policy), policy.granted(&self.name)));
                self.granted.store(Some(Arc::clone(&granted)));
                granted
            }
        }
    }

    /// Tells whether this policy lets it do this.
    pub(super) fn is_allowed(&self, policy: &Arc<Policy>, action: Action, topic: &str) -> bool {
        policy.allows(&self.granted(policy).1, action, topic)
    }

    /// Tells whether this policy lets it use this group of this topic.
    pub(super) fn consumes(&self, policy: &Arc<Policy>, topic: &str, group: &str) -> bool {
        policy.consumes(&self.granted(policy).1, topic, group)
    }

    /// Returns the topics that this policy lets it do this with.
    pub(super) fn topics(&self, policy: &Arc<Policy>, action: Action) -> Arc<PatternSet> {
        Arc::clone(policy.topics(&self.granted(policy).1, action))
    }

    /// Tells whether this policy lets it operate the server.
    pub(super) fn operates(&self, policy: &Arc<Policy>) -> bool {
        policy.operates(&self.granted(policy).1)
    }

    /// Returns its own limits by this policy.
    pub(super) fn limits(&self, policy: &Arc<Policy>) -> Limits {
        self.granted(policy).1.limits
    }
}

fn digest(name: &str) -> [u8; 16] {
    let mut half = [0; 16];
    if name != ANONYMOUS {
        half.copy_from_slice(&ring::digest::digest(&ring::digest::SHA256, name.as_bytes()).as_ref()[..16]);
    }
    half
}

/// Principals by name.
#[derive(Debug)]
pub(super) struct Principals {
    by_name: HashMap<Arc<str>, Arc<Principal>>,
    sweep_at: usize,
}

impl Default for Principals {
    fn default() -> Self {
        Self { by_name: HashMap::new(), sweep_at: SWEEP_AT }
    }
}

impl Principals {
    /// Returns the principal of this name.
    pub(super) fn get(&mut self, name: &Arc<str>) -> Arc<Principal> {
        if let Some(known) = self.by_name.get(name) {
            return Arc::clone(known);
        }
        if self.by_name.len() >= self.sweep_at {
            // A new principal is the same as one that nobody holds and that has no usage.
            let now = now_ns();
            self.by_name
                .retain(|_, known| Arc::strong_count(known) > 1 || !known.rate_limiter.is_unused(now));
            self.sweep_at = SWEEP_AT.max(2 * self.by_name.len());
        }
        let principal = Arc::new(Principal::new(Arc::clone(name)));
        self.by_name.insert(Arc::clone(name), Arc::clone(&principal));
        principal
    }
}

#[cfg(test)]
mod tests {
    use super::{Principals, SWEEP_AT};
    use std::sync::Arc;

    #[test]
    fn principals_that_are_gone_are_forgotten_and_the_others_kept() {
        let mut principals = Principals::default();
        let held = principals.get(&"held".into());
        for i in 0..10 * SWEEP_AT {
            principals.get(&i.to_string().into());
        }
        assert!(principals.by_name.len() <= SWEEP_AT);
        assert!(Arc::ptr_eq(&held, &principals.get(&"held".into())));
    }
}
