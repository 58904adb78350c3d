//! The audit log: one line for each change, after it is in effect, and few lines for many refusals.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use serde_json::Value;
use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, Retention, Topic, TrimTopicRequest, UpdateTopicRequest,
};
use tonic::{Code, Request};

use crate::harness::Server;
use crate::harness::identities::{Setup, bearer, of, publish_as, rule, until};
use crate::harness::make::{latest, publish, published, records, subscribe};

/// Lines of the audit log.
fn audited(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "streamway::audit").collect()
}

/// Lines of changes: action, outcome and object.
fn changes(lines: &[Value]) -> Vec<(&str, &str, &str)> {
    let changes = lines.iter().filter(|line| line["action"] != "attempt");
    changes
        .map(|line| {
            let of = |key: &str| line[key].as_str().unwrap_or_default();
            (of("action"), of("outcome"), of("resource"))
        })
        .collect()
}

fn json(line: &Value, key: &str) -> Value {
    serde_json::from_str(line[key].as_str().unwrap_or("null")).expect("JSON in a string")
}

fn topic(name: &str, max_records: u64) -> Topic {
    let retention = Some(Retention { max_records, ..Retention::default() });
    Topic { name: name.into(), retention, ..Topic::default() }
}

fn named<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("x-request-id", "req-1".parse().unwrap());
    let parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

const ALL: &str = r#"["publish", "subscribe", "admin"]"#;

#[tokio::test]
async fn every_change_of_a_topic_is_one_line_with_its_cause_before_and_after() {
    let setup = Setup::new(&["ops"], &rule(r#"["ops"]"#, r#"["*"]"#, ALL));
    let mut server = setup.start(&[]).await;
    let (mut topics, mut client) = (server.topics().await, server.client().await);
    let create = CreateTopicRequest { topic: Some(topic("a", 5)) };
    topics.create_topic(named(of("ops", create))).await.unwrap();
    for _ in 0..2 {
        client.publish(of("ops", publish("b", records("x", 3)))).await.unwrap();
        client.subscribe(of("ops", subscribe("c", latest()))).await.unwrap();
    }
    let mask = Some(FieldMask { paths: vec!["retention.max_records".into()] });
    let update = UpdateTopicRequest { topic: Some(topic("a", 7)), update_mask: mask };
    topics.update_topic(of("ops", update)).await.unwrap();
    let trim = TrimTopicRequest { name: "b".into(), before_offset: 3, epoch: String::new() };
    topics.trim_topic(of("ops", trim)).await.unwrap();
    let delete = DeleteTopicRequest { name: "b".into(), epoch: String::new() };
    topics.delete_topic(of("ops", delete.clone())).await.unwrap();
    let gone = topics.delete_topic(of("ops", delete)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    drop((topics, client));
    server.sigterm().await;

    let lines = audited(&server);
    let expected = [
        ("topic.create", "done", "a"),
        ("topic.create", "done", "b"),
        ("topic.create", "done", "c"),
        ("topic.update", "done", "a"),
        ("topic.trim", "done", "b"),
        ("topic.delete", "done", "b"),
    ];
    assert_eq!(changes(&lines), expected, "{lines:#?}");
    assert!(lines.iter().all(|line| line["level"] == "INFO" && line["message"] == "audit"));
    let [create, on_publish, on_subscribe, update, trim, delete] = &lines[..6] else { panic!("{lines:#?}") };
    assert_eq!(create["principal"], "ops");
    assert_eq!(create["method"], "streamway.v1.TopicService/CreateTopic");
    assert_eq!(create["request_id"], "req-1");
    assert_eq!(create["trace_id"], "0123456789abcdef0123456789abcdef");
    assert!(create["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{create}");
    assert_eq!((&json(create, "before"), &json(create, "after")["max_records"]), (&Value::Null, &5.into()));
    assert_eq!(on_publish["method"], "streamway.v1.StreamService/Publish");
    assert_eq!(on_subscribe["method"], "streamway.v1.StreamService/Subscribe");
    assert_eq!(
        (&json(update, "before")["max_records"], &json(update, "after")["max_records"]),
        (&5.into(), &7.into())
    );
    assert_eq!(
        (&json(trim, "before")["earliest_offset"], &json(trim, "after")["earliest_offset"]),
        (&0.into(), &3.into())
    );
    assert_eq!(json(delete, "before")["tail"], 6);
    // The second delete changed nothing: it is an attempt.
    let failed: Vec<_> = lines.iter().filter(|line| line["outcome"] == "failed").collect();
    assert_eq!((failed.len(), &failed[0]["count"]), (1, &1.into()), "{lines:#?}");
    assert!(failed[0]["examples"].as_str().unwrap().contains("topic.delete b"), "{failed:?}");
}

#[tokio::test]
async fn refusals_are_told_once_a_second_with_examples_and_without_credentials() {
    let setup = Setup::new(&["ops", "billing"], &rule(r#"["ops"]"#, r#"["*"]"#, ALL));
    let mut server = setup.start(&["--auth-peer-failures-per-s", "0"]).await;
    let begun = std::time::Instant::now();
    let (mut client, mut refused) = (server.client().await, 0_u64);
    while begun.elapsed().as_millis() < 1500 {
        let request = bearer("no-such-secret", publish("t", records("x", 1)));
        assert_eq!(client.publish(request).await.unwrap_err().code(), Code::Unauthenticated);
        refused += 1;
    }
    assert_eq!(publish_as(&server, "billing", "secrets").await.unwrap_err().code(), Code::PermissionDenied);
    let seconds = begun.elapsed().as_secs();
    drop(client);
    server.sigterm().await;

    let lines = audited(&server);
    let mut by_outcome: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["action"] == "attempt") {
        by_outcome.entry(line["outcome"].as_str().unwrap()).or_default().push(line);
    }
    let unauthenticated = &by_outcome["unauthenticated"];
    // One at once, one a second, and one at the end.
    assert!(unauthenticated.len() as u64 <= seconds + 2, "{unauthenticated:#?}");
    let told: u64 = unauthenticated.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(told, refused, "every refusal is counted");
    let [denied] = &by_outcome["denied"][..] else { panic!("{by_outcome:#?}") };
    let examples = json(denied, "examples");
    assert_eq!(examples[0]["principal"], "billing");
    assert!(examples[0]["error"].as_str().unwrap().contains("may not publish to \"secrets\""), "{denied}");
    assert!(!server.log().contains("no-such-secret") && !server.log().contains("billing-secret"));
}

#[tokio::test]
async fn reloads_are_recorded_and_the_setting_turns_the_log_off() {
    let setup = Setup::new(&["ops"], &rule(r#"["ops"]"#, r#"["*"]"#, ALL));
    let mut server = setup.start(&[]).await;
    setup.policy(&rule(r#"["ops", "x"]"#, r#"["*"]"#, ALL));
    until("the reload", async || audited(&server).iter().any(|line| line["action"] == "identities.reload"))
        .await;
    server.sigterm().await;
    let mut silent = Server::with(&["--audit-log", "off"]).await;
    published(&mut silent.client().await, "t", records("x", 1)).await;
    silent.sigterm().await;
    assert_eq!(audited(&silent), Vec::<Value>::new());
}
