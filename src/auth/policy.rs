//! The policy: which principals may do what with which topics, and how much. What no rule allows is denied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::name::ANONYMOUS;
use super::pattern::Pattern;
use super::rate_limiter::Limits;
use super::set::PatternSet;

/// Action of a caller on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Publish records, which creates the topic where topics are created on first use.
    Publish = 1,
    /// Read records.
    Subscribe = 2,
    /// Create, change, trim and delete the topic.
    Admin = 4,
    /// Use groups of the topic, which a rule may name.
    Consume = 16,
    /// Any of these, which is required to see that the topic exists.
    Any = 23,
}

/// Bit of the action `operate`, which concerns the whole server and no topic.
pub(super) const OPERATE: u8 = 8;

impl Action {
    const fn index(self) -> usize {
        match self {
            Self::Publish => 0,
            Self::Subscribe => 1,
            Self::Admin => 2,
            Self::Any => 3,
            Self::Consume => 4,
        }
    }
}

/// Number of sets of rules from which on those that no principal holds are removed.
const SWEEP_AT: usize = 64;

/// A checked policy.
#[derive(Debug, Default)]
pub(super) struct Policy {
    rules: Vec<Rule>,
    quotas: Vec<Quota>,
    /// Numbers of the rules that name a principal literally.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// Numbers of the rules that name principals by a pattern.
    by_pattern: Vec<(Pattern, usize)>,
    /// Grants of sets of rules, shared by the principals that have the same.
    grants: Mutex<HashMap<Box<[usize]>, Weak<Grants>>>,
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) principals: Vec<Pattern>,
    pub(super) topics: Vec<Pattern>,
    /// Groups of these topics that [`Action::Consume`] is about.
    pub(super) groups: Vec<Pattern>,
    /// Bits of [`Action`], or [`OPERATE`].
    pub(super) actions: u8,
}

/// Limits of some principals.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) principals: Vec<Pattern>,
    pub(super) limits: Limits,
}

/// Grants of one principal, and its limits.
#[derive(Debug)]
pub(super) struct Granted {
    grants: Arc<Grants>,
    pub(super) limits: Limits,
}

/// Grants of a set of rules.
#[derive(Debug)]
struct Grants {
    rules: Box<[usize]>,
    /// Topics of each [`Action`], computed when they are first needed.
    topics: [OnceLock<Arc<PatternSet>>; 5],
}

impl Policy {
    /// Builds a policy of these rules and quotas.
    pub(super) fn of(rules: Vec<Rule>, quotas: Vec<Quota>) -> Self {
        let mut policy = Self { quotas, ..Self::default() };
        for (number, rule) in rules.iter().enumerate() {
            for pattern in &rule.principals {
                match pattern.split() {
                    (name, None) => policy.by_name.entry(name.into()).or_default().push(number),
                    _ => policy.by_pattern.push((pattern.clone(), number)),
                }
            }
        }
        Self { rules, ..policy }
    }

    /// Tells whether any rule names callers without a credential.
    pub(super) fn knows_anonymous(&self) -> bool {
        self.by_name.contains_key(ANONYMOUS)
    }

    /// Returns the grants of a principal.
    pub(super) fn granted(&self, principal: &str) -> Granted {
        let mut rules = self.by_name.get(principal).cloned().unwrap_or_default();
        if principal != ANONYMOUS {
            let naming = self.by_pattern.iter().filter(|(pattern, _)| pattern.matches(principal));
            rules.extend(naming.map(|(_, number)| *number));
        }
        rules.sort_unstable();
        rules.dedup();
        // The first that matches, so that an exception stands before the rule.
        let quota = self.quotas.iter().find(|quota| names(&quota.principals, principal));
        let limits = quota.map_or_else(Limits::default, |quota| quota.limits);
        Granted { grants: self.grants(rules.into()), limits }
    }

    /// Returns the grants of these rules, which exist once for as long as anybody holds them.
    fn grants(&self, rules: Box<[usize]>) -> Arc<Grants> {
        let mut all = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&rules).and_then(Weak::upgrade) {
            return known;
        }
        if all.len() >= SWEEP_AT && all.len() == all.capacity() {
            all.retain(|_, grants| grants.strong_count() > 0);
        }
        let grants = Arc::new(Grants { rules: rules.clone(), topics: Default::default() });
        all.insert(rules, Arc::downgrade(&grants));
        grants
    }

    /// Returns the topics on which the grants allow this action.
    pub(super) fn topics<'a>(&self, granted: &'a Granted, action: Action) -> &'a Arc<PatternSet> {
        let Grants { rules, topics } = &*granted.grants;
        topics[action.index()].get_or_init(|| {
            let rules = rules.iter().filter_map(|at| self.rules.get(*at));
            let rules = rules.filter(|rule| rule.actions & action as u8 != 0);
            Arc::new(PatternSet::new(rules.flat_map(|rule| &rule.topics)))
        })
    }

    /// Tells whether the grants allow to operate the server.
    pub(super) fn operates(&self, granted: &Granted) -> bool {
        let mut rules = granted.grants.rules.iter().filter_map(|at| self.rules.get(*at));
        rules.any(|rule| rule.actions & OPERATE != 0)
    }

    /// Tells whether the grants allow to use this group of this topic. The rules that allow to consume are tried one by one.
    pub(super) fn consumes(&self, granted: &Granted, topic: &str, group: &str) -> bool {
        self.allows(granted, Action::Consume, topic) && {
            let mut rules = granted.grants.rules.iter().filter_map(|at| self.rules.get(*at));
            let matches = |patterns: &[Pattern], name| patterns.iter().any(|pattern| pattern.matches(name));
            rules.any(|rule| {
                rule.actions & Action::Consume as u8 != 0
                    && matches(&rule.topics, topic)
                    && matches(&rule.groups, group)
            })
        }
    }

    /// Tells whether the grants allow this action on this topic.
    pub(super) fn allows(&self, granted: &Granted, action: Action, topic: &str) -> bool {
        self.topics(granted, action).matches(topic)
    }
}

/// Tells whether a list of patterns names this principal. Callers without a credential are named only by their
/// own name, never by a pattern.
fn names(patterns: &[Pattern], principal: &str) -> bool {
    if principal == ANONYMOUS {
        return patterns.iter().any(|pattern| pattern.as_str() == ANONYMOUS);
    }
    patterns.iter().any(|pattern| pattern.matches(principal))
}
