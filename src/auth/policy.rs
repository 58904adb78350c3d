//! The policy file: which principals may do what with which topics, and how much. What no rule allows is denied.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::name::{ANONYMOUS, SERVER};
use super::pattern::Pattern;
use super::rate_limiter::Limits;
use super::set::PatternSet;
use crate::file;

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
const OPERATE: u8 = 8;
/// Its name in the file.
const OPERATE_NAME: &str = "operate";

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

    const fn parse(text: &str) -> Option<Self> {
        Some(match text.as_bytes() {
            b"publish" => Self::Publish,
            b"subscribe" => Self::Subscribe,
            b"admin" => Self::Admin,
            b"consume" => Self::Consume,
            _ => return None,
        })
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

#[derive(Debug)]
struct Rule {
    principals: Vec<Pattern>,
    topics: Vec<Pattern>,
    /// Groups of these topics that [`Action::Consume`] is about.
    groups: Vec<Pattern>,
    /// Bits of [`Action`], or [`OPERATE`].
    actions: u8,
}

#[derive(Debug)]
struct Quota {
    principals: Vec<Pattern>,
    limits: Limits,
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

#[derive(Deserialize)]
struct RawPolicy {
    #[serde(default)]
    rule: Vec<RawRule>,
    #[serde(default)]
    quota: Vec<RawQuota>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct RawRule {
    #[serde(default)]
    principals: Vec<String>,
    #[serde(default)]
    topics: Vec<String>,
    groups: Option<Vec<String>>,
    #[serde(default)]
    actions: Vec<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct RawQuota {
    #[serde(default)]
    principals: Vec<String>,
    #[serde(default)]
    publish_bytes_per_s: u64,
    #[serde(default)]
    publish_records_per_s: u64,
    #[serde(default)]
    subscriptions_max: u64,
    #[serde(default)]
    topics_max: u64,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Every mistake with its place; of those that make it no TOML, or give a key the wrong type, the first.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let raw: RawPolicy = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| file::line_of(text, span.start));
            vec![format!("line {line}: {}", error.message().replace('\n', " "))]
        })?;
        let mut faults = Vec::new();
        unknown_keys("", &raw.unknown, "[[rule]] or [[quota]]", &mut faults);
        let rules = raw.rule.iter().zip(1..).map(|(rule, number)| rule.check(number, &mut faults)).collect();
        let quotas =
            raw.quota.iter().zip(1..).map(|(quota, number)| quota.check(number, &mut faults)).collect();
        if faults.is_empty() { Ok(Self::of(rules, quotas)) } else { Err(faults) }
    }

    fn of(rules: Vec<Rule>, quotas: Vec<Quota>) -> Self {
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

impl RawRule {
    fn check(&self, number: usize, faults: &mut Vec<String>) -> Rule {
        let place = format!("rule {number}");
        unknown_keys(&place, &self.unknown, "principals, topics, groups, actions", faults);
        let principals = principals(&self.principals, &place, faults);
        if self.actions.iter().any(|action| action == OPERATE_NAME) {
            if self.actions.len() > 1 || !self.topics.is_empty() || self.groups.is_some() {
                faults.push(format!(
                    "{place}: operate is about the whole server: give it in a rule of its own, without topics"
                ));
            }
            return Rule { principals, topics: Vec::new(), groups: Vec::new(), actions: OPERATE };
        }
        let topics = patterns(&self.topics, "topics", &place, faults);
        names_only(&self.topics, "topic", &place, faults);
        if self.actions.is_empty() {
            faults.push(format!("{place}: actions is missing or empty"));
        }
        let mut actions = 0;
        for text in &self.actions {
            match Action::parse(text) {
                Some(action) => actions |= action as u8,
                None => faults.push(format!(
                    "{place}: unknown action {text:?}, write publish, subscribe, consume, admin or operate"
                )),
            }
        }
        let groups = self.check_groups(&place, actions, faults);
        Rule { principals, topics, groups, actions }
    }

    /// Returns the groups that the rule is about: all where it names none.
    fn check_groups(&self, place: &str, actions: u8, faults: &mut Vec<String>) -> Vec<Pattern> {
        let Some(groups) = &self.groups else { return vec![Pattern::new("*")] };
        if actions & Action::Consume as u8 == 0 {
            faults.push(format!(
                "{place}: groups is only for the action consume, which the rule does not give"
            ));
        }
        names_only(groups, "group", place, faults);
        patterns(groups, "groups", place, faults)
    }
}

impl RawQuota {
    fn check(&self, number: usize, faults: &mut Vec<String>) -> Quota {
        let place = format!("quota {number}");
        let keys = "principals, publish_bytes_per_s, publish_records_per_s, subscriptions_max, topics_max";
        unknown_keys(&place, &self.unknown, keys, faults);
        let limits = Limits {
            publish_bytes_per_s: self.publish_bytes_per_s,
            publish_records_per_s: self.publish_records_per_s,
            subscriptions_max: self.subscriptions_max,
            topics_max: self.topics_max,
        };
        Quota { principals: principals(&self.principals, &place, faults), limits }
    }
}

fn principals(texts: &[String], place: &str, faults: &mut Vec<String>) -> Vec<Pattern> {
    for text in texts.iter().filter(|text| text.chars().any(|c| c.is_control() || c.is_whitespace())) {
        faults.push(format!("{place}: principals: {text:?} has spaces or control characters"));
    }
    if texts.iter().any(|text| text == SERVER) {
        faults.push(format!("{place}: principals: {SERVER:?} is the server itself, and no caller's name"));
    }
    patterns(texts, "principals", place, faults)
}

fn patterns(texts: &[String], key: &str, place: &str, faults: &mut Vec<String>) -> Vec<Pattern> {
    if texts.is_empty() {
        faults.push(format!("{place}: {key} is missing or empty"));
    }
    if texts.iter().any(String::is_empty) {
        faults.push(format!("{place}: {key} holds an empty pattern, which no name matches"));
    }
    texts.iter().map(|text| Pattern::new(text)).collect()
}

/// Names the patterns that no name of a topic or group matches.
fn names_only(patterns: &[String], what: &str, place: &str, faults: &mut Vec<String>) {
    for text in patterns.iter().filter(|text| !is_topic_pattern(text)) {
        faults
            .push(format!("{place}: no {what} is called {text:?}: names are of a-z, 0-9, `.`, `_` and `-`"));
    }
}

fn is_topic_pattern(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*'))
}

fn unknown_keys(place: &str, unknown: &BTreeMap<String, IgnoredAny>, known: &str, faults: &mut Vec<String>) {
    let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
    faults.extend(unknown.keys().map(|key| format!("{place}unknown key {key}, write {known}")));
}

#[cfg(test)]
mod tests {
    use super::{Action, Policy};

    const POLICY: &str = r#"
        [[rule]]
        principals = ["spiffe://prod/*", "billing-*"]
        topics = ["orders", "orders.*"]
        actions = ["publish", "subscribe"]

        [[rule]]
        principals = ["ops"]
        topics = ["*"]
        actions = ["admin"]

        [[rule]]
        principals = ["*"]
        topics = ["news"]
        actions = ["subscribe"]

        [[quota]]
        principals = ["billing-eu"]

        [[quota]]
        principals = ["billing-*"]
        publish_bytes_per_s = 1_000_000
        subscriptions_max = 3
    "#;

    fn allows(policy: &Policy, principal: &str, action: Action, topic: &str) -> bool {
        policy.allows(&policy.granted(principal), action, topic)
    }

    #[test]
    fn actions_that_no_rule_allows_are_denied() {
        let policy = Policy::parse(POLICY).unwrap();
        for (principal, action, topic, expected) in [
            ("billing-eu", Action::Publish, "orders", true),
            ("billing-eu", Action::Subscribe, "orders.eu", true),
            ("billing-eu", Action::Admin, "orders", false),
            ("billing-eu", Action::Any, "orders", true),
            ("billing-eu", Action::Any, "secrets", false),
            ("billing", Action::Publish, "orders", false),
            ("spiffe://prod/a", Action::Publish, "orders", true),
            ("spiffe://production/a", Action::Publish, "orders", false),
            ("ops", Action::Admin, "anything", true),
            ("ops", Action::Publish, "anything", false),
            ("nobody", Action::Subscribe, "news", true),
            ("nobody", Action::Publish, "news", false),
            ("anonymous", Action::Subscribe, "news", false),
            ("billing-eu", Action::Publish, "ORDERS", false),
            ("billing-eu", Action::Publish, "orders/../secrets", false),
            ("billing-eu", Action::Publish, "../orders", false),
            ("billing-eu", Action::Publish, "orders%2e", false),
        ] {
            assert_eq!(allows(&policy, principal, action, topic), expected, "{principal} {action:?} {topic}");
        }
        assert!(!allows(&Policy::parse("").unwrap(), "ops", Action::Any, "x"), "no rule, no permission");
    }

    #[test]
    fn anonymous_is_admitted_by_its_literal_name_only() {
        let of = |principals: &str| {
            let rule =
                format!("[[rule]]\nprincipals = {principals}\ntopics = [\"*\"]\nactions = [\"subscribe\"]");
            let policy = Policy::parse(&rule).unwrap();
            (policy.knows_anonymous(), allows(&policy, "anonymous", Action::Subscribe, "x"))
        };
        assert_eq!(of(r#"["*", "anon*", "anonymous*"]"#), (false, false));
        assert_eq!(of(r#"["*", "anonymous"]"#), (true, true));
    }

    #[test]
    fn operating_the_server_is_a_rule_of_its_own_that_gives_no_topic() {
        let policy = format!("{POLICY}\n[[rule]]\nprincipals = [\"oncall\"]\nactions = [\"operate\"]");
        let policy = Policy::parse(&policy).unwrap();
        let operates = |principal: &str| policy.operates(&policy.granted(principal));
        assert!(operates("oncall") && !operates("ops") && !operates("anonymous"));
        assert!(!allows(&policy, "oncall", Action::Any, "orders"));
        for more in ["topics = [\"*\"]\nactions = [\"operate\"]", "actions = [\"operate\", \"admin\"]"] {
            let faults = Policy::parse(&format!("[[rule]]\nprincipals = [\"x\"]\n{more}")).unwrap_err();
            assert!(faults[0].contains("a rule of its own"), "{faults:?}");
        }
        let nobody = Policy::parse("[[rule]]\nactions = [\"operate\"]").unwrap_err();
        assert!(nobody[0].contains("principals is missing"), "{nobody:?}");
    }

    #[test]
    fn consuming_is_allowed_by_topic_and_group_in_one_rule() {
        let policy = Policy::parse(
            r#"
            [[rule]]
            principals = ["billing-*"]
            topics = ["orders*"]
            groups = ["invoices", "mail-*"]
            actions = ["consume"]
            [[rule]]
            principals = ["billing-eu", "all"]
            topics = ["news"]
            actions = ["consume", "publish"]
            "#,
        )
        .unwrap();
        for (principal, topic, group, expected) in [
            ("billing-us", "orders", "invoices", true),
            ("billing-us", "orders.eu", "mail-a", true),
            ("billing-us", "orders", "mail", false),
            ("billing-us", "order", "invoices", false),
            ("billing-us", "news", "invoices", false),
            ("billing-eu", "news", "anything", true),
            // Neither rule gives this topic with this group.
            ("billing-eu", "orders", "anything", false),
            ("all", "orders", "invoices", false),
            ("anonymous", "news", "invoices", false),
        ] {
            let found = policy.consumes(&policy.granted(principal), topic, group);
            assert_eq!(found, expected, "{principal} {topic} {group}");
        }
        assert!(allows(&policy, "billing-us", Action::Any, "orders"));
        assert!(!allows(&policy, "billing-us", Action::Subscribe, "orders"));
        let rule = |more: &str| format!("[[rule]]\nprincipals = [\"x\"]\ntopics = [\"*\"]\n{more}");
        for (more, text) in [
            ("groups = [\"a\"]\nactions = [\"publish\"]", "only for the action consume"),
            ("groups = [\"A\"]\nactions = [\"consume\"]", "no group is called \"A\""),
            ("groups = []\nactions = [\"consume\"]", "groups is missing or empty"),
        ] {
            let faults = Policy::parse(&rule(more)).unwrap_err();
            assert!(faults.iter().any(|fault| fault.contains(text)), "{faults:?}");
        }
    }

    #[test]
    fn the_first_quota_that_names_a_principal_applies() {
        let policy = Policy::parse(POLICY).unwrap();
        assert_eq!(policy.granted("billing-us").limits.publish_bytes_per_s, 1_000_000);
        assert_eq!(policy.granted("billing-us").limits.subscriptions_max, 3);
        assert!(policy.granted("billing-eu").limits.is_none());
        assert!(policy.granted("ops").limits.is_none());
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let faults = Policy::parse(
            r#"
            rules = 1
            [[rule]]
            principals = ["a b"]
            topic = ["x"]
            topics = ["ORDERS", "../orders", ""]
            actions = ["write"]
            [[rule]]
            [[quota]]
            principals = ["x"]
            publish_byte_per_s = 5
            "#,
        )
        .unwrap_err();
        for text in [
            "unknown key rules",
            "rule 1: unknown key topic,",
            "rule 1: principals: \"a b\"",
            "rule 1: no topic is called \"ORDERS\"",
            "rule 1: no topic is called \"../orders\"",
            "rule 1: topics holds an empty pattern",
            "rule 1: unknown action \"write\"",
            "rule 2: principals is missing",
            "rule 2: topics is missing",
            "rule 2: actions is missing",
            "quota 1: unknown key publish_byte_per_s",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(text)), "{text} in {faults:#?}");
        }
        assert_eq!(faults.len(), 11, "{faults:#?}");
        for (text, line) in [("[[rule]]\nprincipals = 5", "line 2"), ("\n\n[[rule", "line 3")] {
            let faults = Policy::parse(text).unwrap_err();
            assert!(faults[0].starts_with(line), "{faults:?}");
        }
    }
}
