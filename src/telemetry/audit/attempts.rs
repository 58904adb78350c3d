//! Attempts that changed nothing, summed up: how many there were since the last line, and a few examples.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::change::Actor;
use super::escape::escaped;

/// Maximum different examples in a line.
const EXAMPLES_MAX: usize = 8;

/// Kind of an attempt. Each has lines of its own, so that a flood of one does not hide another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A call without a valid identity.
    Unauthenticated,
    /// A call that the policy, or a ban, does not allow.
    Denied,
    /// A change that failed without any effect.
    Failed,
}

impl Attempt {
    pub(super) const ALL: [Self; 3] = [Self::Unauthenticated, Self::Denied, Self::Failed];

    /// Returns the outcome that the line names.
    pub(super) const fn outcome(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// Attempts that recorders share with the writer.
#[derive(Debug, Default)]
pub(super) struct Shared {
    attempts: Mutex<Attempts>,
    /// There are attempts that are not written yet.
    has_attempts: AtomicBool,
}

impl Shared {
    /// Adds an attempt. Returns true for the first one since the last [`Self::take`].
    pub(super) fn add(&self, kind: Attempt, actor: &Actor, what: String) -> bool {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).add(kind, actor, what);
        !self.has_attempts.swap(true, Ordering::AcqRel)
    }

    /// Tells whether there are any.
    pub(super) fn any(&self) -> bool {
        self.has_attempts.load(Ordering::Acquire)
    }

    /// Returns the attempts, and starts again at none.
    pub(super) fn take(&self) -> [Sum; Attempt::ALL.len()] {
        // Reset first, so that an attempt that comes meanwhile is told next time.
        self.has_attempts.store(false, Ordering::Release);
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Attempts since the last line, by kind.
#[derive(Debug, Default)]
struct Attempts([Sum; Attempt::ALL.len()]);

/// Attempts of one kind.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    examples: Vec<Example>,
}

/// An attempt: the first of several that are the same but for the port of the peer.
#[derive(Debug)]
struct Example {
    actor: Actor,
    what: String,
    count: u64,
}

impl Attempts {
    /// Adds an attempt; `what` is safe for a line.
    fn add(&mut self, kind: Attempt, actor: &Actor, what: String) {
        let sum = &mut self.0[kind as usize];
        sum.count += 1;
        let known = sum.examples.iter().position(|known| known.is_like(actor, &what));
        match known {
            Some(known) => sum.examples[known].count += 1,
            None if sum.examples.len() < EXAMPLES_MAX => {
                sum.examples.push(Example { actor: actor.clone(), what, count: 1 });
            }
            None => {}
        }
    }

    /// Returns the attempts, and starts again at none.
    fn take(&mut self) -> [Sum; Attempt::ALL.len()] {
        std::mem::take(&mut self.0)
    }
}

impl Example {
    fn is_like(&self, actor: &Actor, what: &str) -> bool {
        self.actor.peer.map(|peer| peer.ip()) == actor.peer.map(|peer| peer.ip())
            && self.actor.principal == actor.principal
            && self.actor.method == actor.method
            && self.what == what
    }
}

impl Sum {
    /// Returns the examples as a JSON array.
    pub(super) fn examples(&self) -> String {
        let examples = self.examples.iter().map(|Example { actor, what, count }| {
            json!({
                "count": count,
                "principal": escaped(&actor.principal),
                "peer": actor.peer.map(|peer| peer.to_string()),
                "method": actor.method,
                "request_id": actor.request_id.as_deref().map(escaped),
                "error": what,
            })
        });
        Value::Array(examples.collect()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Actor, Attempt, Attempts, EXAMPLES_MAX};

    fn actor(principal: &str, port: u16) -> Actor {
        let peer = Some(([10, 0, 0, 1], port).into());
        Actor { principal: principal.into(), peer, method: "s/M", request_id: None }
    }

    #[test]
    fn attempts_are_counted_and_few_are_examples() {
        let mut attempts = Attempts::default();
        for i in 0..10_000_u16 {
            attempts.add(Attempt::Unauthenticated, &actor("", i), "bad signature".to_owned());
            attempts.add(Attempt::Denied, &actor(&i.to_string(), 1), "may not".to_owned());
        }
        let [unauthenticated, denied, failed] = attempts.take();
        assert_eq!((unauthenticated.count, denied.count, failed.count), (10_000, 10_000, 0));
        let examples: Vec<serde_json::Value> = serde_json::from_str(&unauthenticated.examples()).unwrap();
        assert_eq!((examples.len(), examples[0]["count"].as_u64()), (1, Some(10_000)));
        let examples: Vec<serde_json::Value> = serde_json::from_str(&denied.examples()).unwrap();
        assert_eq!(examples.len(), EXAMPLES_MAX);
        assert_eq!(attempts.take().map(|sum| sum.count), [0; 3]);
    }
}
