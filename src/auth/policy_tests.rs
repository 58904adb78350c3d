//! Tests of the policy and of its file.

use super::policy::{Action, Policy};
use super::policy_file::parse;

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
    let policy = parse(POLICY).unwrap();
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
    assert!(!allows(&parse("").unwrap(), "ops", Action::Any, "x"), "no rule, no permission");
}

#[test]
fn anonymous_is_admitted_by_its_literal_name_only() {
    let of = |principals: &str| {
        let rule =
            format!("[[rule]]\nprincipals = {principals}\ntopics = [\"*\"]\nactions = [\"subscribe\"]");
        let policy = parse(&rule).unwrap();
        (policy.knows_anonymous(), allows(&policy, "anonymous", Action::Subscribe, "x"))
    };
    assert_eq!(of(r#"["*", "anon*", "anonymous*"]"#), (false, false));
    assert_eq!(of(r#"["*", "anonymous"]"#), (true, true));
}

#[test]
fn operating_the_server_is_a_rule_of_its_own_that_gives_no_topic() {
    let policy = format!("{POLICY}\n[[rule]]\nprincipals = [\"oncall\"]\nactions = [\"operate\"]");
    let policy = parse(&policy).unwrap();
    let operates = |principal: &str| policy.operates(&policy.granted(principal));
    assert!(operates("oncall") && !operates("ops") && !operates("anonymous"));
    assert!(!allows(&policy, "oncall", Action::Any, "orders"));
    for more in ["topics = [\"*\"]\nactions = [\"operate\"]", "actions = [\"operate\", \"admin\"]"] {
        let faults = parse(&format!("[[rule]]\nprincipals = [\"x\"]\n{more}")).unwrap_err();
        assert!(faults[0].contains("a rule of its own"), "{faults:?}");
    }
    let nobody = parse("[[rule]]\nactions = [\"operate\"]").unwrap_err();
    assert!(nobody[0].contains("principals is missing"), "{nobody:?}");
}

#[test]
fn consuming_is_allowed_by_topic_and_group_in_one_rule() {
    let policy = parse(
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
        let faults = parse(&rule(more)).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(text)), "{faults:?}");
    }
}

#[test]
fn the_first_quota_that_names_a_principal_applies() {
    let policy = parse(POLICY).unwrap();
    assert_eq!(policy.granted("billing-us").limits.publish_bytes_per_s, 1_000_000);
    assert_eq!(policy.granted("billing-us").limits.subscriptions_max, 3);
    assert!(policy.granted("billing-eu").limits.is_none());
    assert!(policy.granted("ops").limits.is_none());
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let faults = parse(
        r#"
        rules = 1
        [[rule]]
        principals = ["a b", "streamway:server"]
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
        "rule 1: principals: \"streamway:server\" is the server itself",
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
    assert_eq!(faults.len(), 12, "{faults:#?}");
    for (text, line) in [("[[rule]]\nprincipals = 5", "line 2"), ("\n\n[[rule", "line 3")] {
        let faults = parse(text).unwrap_err();
        assert!(faults[0].starts_with(line), "{faults:?}");
    }
}
