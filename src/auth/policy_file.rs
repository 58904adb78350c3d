//! The policy file: its form, and the mistakes that it may have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::name::SERVER;
use super::pattern::Pattern;
use super::policy::{Action, OPERATE, Policy, Quota, Rule};
use super::rate_limiter::Limits;
use crate::file;

/// Name of the action `operate` in the file.
const OPERATE_NAME: &str = "operate";

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

/// Reads a policy.
///
/// # Errors
/// Every mistake with its place; of those that make it no TOML, or give a key the wrong type, the first.
pub(super) fn parse(text: &str) -> Result<Policy, Vec<String>> {
    let raw: RawPolicy = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| file::line_of(text, span.start));
        vec![format!("line {line}: {}", error.message().replace('\n', " "))]
    })?;
    let mut faults = Vec::new();
    unknown_keys("", &raw.unknown, "[[rule]] or [[quota]]", &mut faults);
    let rules = raw.rule.iter().zip(1..).map(|(rule, number)| rule.check(number, &mut faults)).collect();
    let quotas = raw.quota.iter().zip(1..).map(|(quota, number)| quota.check(number, &mut faults)).collect();
    if faults.is_empty() { Ok(Policy::of(rules, quotas)) } else { Err(faults) }
}

const fn action(text: &str) -> Option<Action> {
    Some(match text.as_bytes() {
        b"publish" => Action::Publish,
        b"subscribe" => Action::Subscribe,
        b"admin" => Action::Admin,
        b"consume" => Action::Consume,
        _ => return None,
    })
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
            match action(text) {
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
