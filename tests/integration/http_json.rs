//! Publishing, reading and administration of topics by JSON over HTTP.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::identities::{Setup, rule};
use crate::harness::web::{Answer, ask};
use crate::harness::{Server, within};

const JSON: (&str, &str) = ("content-type", "application/json");
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

async fn send(server: &Server, line: &str, body: &Value) -> Answer {
    ask(server.http(), line, &[JSON], body.to_string()).await
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server.http(), &format!("GET {path}"), &[], "").await
}

/// Lines of an answer, of which the last says how it ended.
fn lines(answer: &Answer) -> (Vec<Value>, Value) {
    assert_eq!((answer.code, answer.header("content-type")), (200, "application/x-ndjson"));
    let lines = answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let mut lines: Vec<Value> = lines.collect();
    let last = lines.pop().expect("a last line");
    (lines, last)
}

fn values(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["value"].as_str().expect("text")).collect()
}

#[tokio::test]
async fn a_document_is_one_batch_and_is_read_back() {
    let server = Server::start().await;
    let records = json!({"records": [
        {"value": "ü\n", "key": "k", "headers": {"a": "b"}, "event_time": "1969-12-31T23:59:59.5Z"},
        {"value_json": {"b": 1.50, "a": null}},
        {"value_base64": "/w=="},
    ]});
    let stored = send(&server, "POST /v1/topics/orders/records", &records).await;
    assert_eq!(stored.code, 200, "{}", stored.text());
    let receipt = stored.json();
    assert_eq!((&receipt["first_offset"], &receipt["duplicate"]), (&json!("0"), &json!(false)));
    let next = receipt["next"].as_str().unwrap().to_owned();

    let (read, last) = lines(&get(&server, "/v1/topics/orders/records").await);
    assert_eq!(last["end"]["next"], next);
    assert_eq!(read[0]["value"], "ü\n");
    assert_eq!((&read[0]["key"], &read[0]["headers"]["a"]), (&json!("k"), &json!("b")));
    assert_eq!(read[0]["event_time"], "1969-12-31T23:59:59.5Z");
    assert_eq!(read[1]["value"], r#"{"a":null,"b":1.5}"#, "as written, which serde_json has done");
    assert_eq!((&read[2]["value_base64"], &read[2]["offset"]), (&json!("/w=="), &json!("2")));

    let (read, last) = lines(&get(&server, "/v1/topics/orders/records?from=1&limit=1&value=base64").await);
    assert_eq!((read.len(), &read[0]["value_base64"]), (1, &json!("eyJhIjpudWxsLCJiIjoxLjV9")));
    let on = last["end"]["next"].as_str().unwrap();
    let (read, _) = lines(&get(&server, &format!("/v1/topics/orders/records?from={on}")).await);
    assert_eq!((read.len(), &read[0]["offset"]), (1, &json!("2")));
    let (read, _) = lines(&get(&server, "/v1/topics/orders/records?from=-2").await);
    assert_eq!(read.len(), 2);
}

#[tokio::test]
async fn bytes_are_one_record_with_a_key_in_the_query() {
    let server = Server::start().await;
    let kind = ("content-type", "application/octet-stream");
    let path = "POST /v1/topics/raw/records?key=a%20b";
    let stored = ask(server.http(), path, &[kind, ("idempotency-key", "\"one\"")], "\0\u{1}").await;
    assert_eq!(stored.code, 200, "{}", stored.text());
    let again = ask(server.http(), path, &[kind, ("idempotency-key", "one")], "\0\u{1}").await;
    assert_eq!(again.json()["duplicate"], true);
    let other = ask(server.http(), path, &[kind, ("idempotency-key", "one")], "other").await;
    assert_eq!(other.problem(), (422, "REQUEST_ID_REUSED".to_owned()));
    let (read, _) = lines(&get(&server, "/v1/topics/raw/records").await);
    assert_eq!((read.len(), &read[0]["key"], &read[0]["value"]), (1, &json!("a b"), &json!("\0\u{1}")));
}

#[tokio::test]
async fn lines_are_stored_in_batches_and_a_bad_one_says_what_is_stored() {
    let server = Server::start().await;
    let line = |n: usize| format!("{{\"value\":\"{n}\"}}\n");
    let text: String = (0..2500).map(line).collect();
    let path = "POST /v1/topics/lines/records?expected_offset=0";
    let key = ("idempotency-key", "key");
    let stored = ask(server.http(), path, &[LINES, key], text.clone()).await;
    let summary = stored.json();
    assert_eq!((&summary["records"], &summary["batches"]), (&json!("2500"), &json!("3")));
    let again = ask(server.http(), path, &[LINES, key], text.clone()).await;
    assert_eq!(again.json()["next"], summary["next"], "stored once: {}", again.text());

    let bad = format!("{text}{{\"valeu\":1}}\n");
    let refused = ask(server.http(), "POST /v1/topics/bad/records", &[LINES], bad).await;
    assert_eq!(refused.problem(), (400, "MALFORMED_MESSAGE".to_owned()));
    let problem = refused.json();
    assert_eq!((&problem["line"], &problem["records"]), (&json!("2501"), &json!("2000")));
    let next = problem["next"].as_str().unwrap();
    let (read, last) = lines(&get(&server, "/v1/topics/bad/records").await);
    assert_eq!((read.len(), last["end"]["next"].as_str()), (2000, Some(next)));

    let late = ask(server.http(), path, &[LINES], text).await;
    assert_eq!(late.problem(), (409, "EXPECTED_OFFSET_MISMATCH".to_owned()));
    let problem = late.json();
    assert_eq!(
        (&problem["line"], &problem["records"], &problem["tail"]),
        (&json!("1"), &json!("0"), &json!("2500"))
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let server = Server::with(&["--message-bytes-max", "2MiB"]).await;
    let (topic, trim) = ("POST /v1/topics/t/records", "POST /v1/topics/t/trim");
    let good = r#"{"records":[{"value":"x"}]}"#;
    let large = format!(r#"{{"records":[{{"value":"{}"}}]}}"#, "x".repeat(1 << 20));
    let huge = "x".repeat((2 << 20) + 1);
    let many = format!(r#"{{"records":[{}]}}"#, vec![r#"{"value":""}"#; 100_000].join(","));
    for (line, kind, body, code, reason) in [
        (topic, "text/plain", good, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (topic, "", good, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (topic, "application/json", "", 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", "[]", 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", r#"{"value":"x"}"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", r#"{"records":[]}"#, 400, "INVALID_FIELD"),
        (topic, "application/json", r#"{"records":[[null,null,null,"x"]]}"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/x-ndjson", "[null,null,null,\"x\"]", 400, "MALFORMED_MESSAGE"),
        (
            "POST /v1/topics",
            "application/json",
            r#"{"name":"a","retention":[null,null]}"#,
            400,
            "MALFORMED_MESSAGE",
        ),
        ("POST /v1/topics", "application/json", r#"["a"]"#, 400, "MALFORMED_MESSAGE"),
        (trim, "application/json", r#"{"beforeOffset":[0]}"#, 400, "MALFORMED_MESSAGE"),
        (trim, "application/json", r#"["0","c0ffee"]"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", r#"{"records":[{"value":"x"}]} {}"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", r#"{"records":[{"value":"x","x":1}]}"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", "\u{ff}", 400, "MALFORMED_MESSAGE"),
        (topic, "application/json", r#"{"records":[["k",null,null,"x"]]}"#, 400, "MALFORMED_MESSAGE"),
        (topic, "application/x-ndjson", r#"["k",null,null,"x"]"#, 400, "MALFORMED_MESSAGE"),
        (
            topic,
            "application/x-ndjson",
            r#"{"value":"x","headers":{"a":"1","a":"2"}}"#,
            400,
            "MALFORMED_MESSAGE",
        ),
        (topic, "application/json", &many, 413, "BATCH_TOO_LARGE"),
        (topic, "application/json", &large, 413, "BATCH_TOO_LARGE"),
        (topic, "application/json", &huge, 413, "MESSAGE_TOO_LARGE"),
        (topic, "application/x-ndjson", &huge, 413, "MESSAGE_TOO_LARGE"),
        (topic, "application/x-ndjson", "{\n}", 400, "MALFORMED_MESSAGE"),
        ("POST /v1/topics/t/records?expected_offset=-1", "application/json", good, 400, "INVALID_FIELD"),
        ("POST /v1/topics/t/records?key=a", "application/json", good, 400, "INVALID_FIELD"),
        (
            "POST /v1/topics/t/records?expected_offset=7",
            "application/json",
            good,
            409,
            "EXPECTED_OFFSET_MISMATCH",
        ),
        ("POST /v1/topics/%ff/records", "application/json", good, 400, "INVALID_FIELD"),
        ("POST /v1/topics/a%20b/records", "application/json", good, 400, "INVALID_FIELD"),
        ("PUT /v1/topics/t/records", "application/json", good, 405, "METHOD_NOT_ALLOWED"),
        ("POST /v1/topics", "application/json", r#"{"name":""}"#, 400, "INVALID_FIELD"),
        ("POST /v1/topics", "application/json", r#"{"nome":"a"}"#, 400, "MALFORMED_MESSAGE"),
        ("POST /v1/topics", "application/json", r#" ["a"]"#, 400, "MALFORMED_MESSAGE"),
        ("POST /v1/topics", "text/plain", r#"{"name":"a"}"#, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (
            "PATCH /v1/topics/none",
            "application/json",
            r#"{"retention":{"maxBytes":"7"}}"#,
            404,
            "TOPIC_NOT_FOUND",
        ),
        ("PATCH /v1/topics/none", "application/json", r#"{"retention":{}}"#, 400, "INVALID_FIELD"),
        ("DELETE /v1/topics/none", "", "", 404, "TOPIC_NOT_FOUND"),
        ("POST /v1/topics/none/trim", "application/json", r#"{"beforeOffset":"x"}"#, 400, "INVALID_FIELD"),
        ("GET /v1/topics?page_size=x", "", "", 400, "INVALID_FIELD"),
        ("GET /v1/topics/none/records", "", "", 404, "TOPIC_NOT_FOUND"),
        ("GET /v1/topics/none/records?follow", "", "", 404, "TOPIC_NOT_FOUND"),
        ("GET /v1/topics/none/records?from=now", "", "", 400, "INVALID_FIELD"),
        ("GET /v1/topics/none/records?form=1", "", "", 400, "INVALID_FIELD"),
        ("GET /v1/topics/none/records?limit=0", "", "", 400, "INVALID_FIELD"),
        ("GET /v1/topics/none/records?follow=2", "", "", 400, "INVALID_FIELD"),
    ] {
        let headers = if kind.is_empty() { vec![] } else { vec![("content-type", kind)] };
        let answer = ask(server.http(), line, &headers, body).await;
        let shown: String = body.chars().take(40).collect();
        assert_eq!(answer.problem(), (code, reason.to_owned()), "{line} {kind} {shown}: {}", answer.text());
    }
    let long = "k".repeat(200);
    let headers = [("content-type", "application/json"), ("idempotency-key", &long)];
    let named = ask(server.http(), topic, &headers, good).await.json();
    assert_eq!(named["violations"][0]["field"], "Idempotency-Key", "{named}");
    let topics = get(&server, "/v1/topics").await.json();
    let created: Vec<_> = topics["topics"].as_array().unwrap().iter().map(|topic| &topic["tail"]).collect();
    assert!(created.iter().all(|tail| **tail == "0"), "{topics}");
}

#[tokio::test]
async fn topics_are_created_described_changed_trimmed_listed_and_deleted() {
    let server = Server::start().await;
    let wanted = json!({"name": "a", "retention": {"maxAge": "90s", "maxRecords": "7"}});
    let created = send(&server, "POST /v1/topics", &wanted).await;
    assert_eq!((created.code, created.header("location")), (201, "/v1/topics/a"));
    assert_eq!(
        send(&server, "POST /v1/topics", &wanted).await.problem(),
        (409, "TOPIC_ALREADY_EXISTS".to_owned())
    );
    let change = json!({"retention": {"maxAge": null, "maxBytes": 1000}});
    let changed = send(&server, "PATCH /v1/topics/a", &change).await.json();
    assert_eq!(changed["retention"], json!({"maxBytes": "1000", "maxRecords": "7"}), "{changed}");
    for value in ["x", "y"] {
        send(&server, "POST /v1/topics/a/records", &json!({"records": [{"value": value}]})).await;
    }
    let trimmed = send(&server, "POST /v1/topics/a/trim", &json!({"beforeOffset": "1"})).await;
    assert_eq!(trimmed.json(), json!({"earliestOffset": "1"}));
    let gone = get(&server, "/v1/topics/a/records?from=0").await;
    assert_eq!(gone.problem(), (410, "OFFSET_TRIMMED".to_owned()));
    let (read, _) = lines(&get(&server, "/v1/topics/a/records").await);
    assert_eq!(values(&read), ["y"]);
    let (read, _) = lines(&get(&server, "/v1/topics/a/records?from=0&out_of_range=earliest").await);
    assert_eq!(read[0]["notice"]["notice"], "GAP");

    for name in ["b", "c"] {
        send(&server, "POST /v1/topics", &json!({"name": name})).await;
    }
    let page = get(&server, "/v1/topics?page_size=2").await.json();
    let token = page["nextPageToken"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/topics?page_size=2&page_token={token}")).await.json();
    let names: Vec<_> =
        [&page, &rest].into_iter().flat_map(|page| page["topics"].as_array().unwrap()).collect();
    assert_eq!(names.iter().map(|topic| &topic["name"]).collect::<Vec<_>>(), ["a", "b", "c"]);
    let epoch = get(&server, "/v1/topics/a").await.json()["epoch"].as_str().unwrap().to_owned();
    let other = ask(server.http(), "DELETE /v1/topics/a?epoch=0000000000000001", &[], "").await;
    assert_eq!(other.problem(), (410, "EPOCH_CHANGED".to_owned()));
    let deleted = ask(server.http(), &format!("DELETE /v1/topics/a?epoch={epoch}"), &[], "").await;
    assert_eq!(deleted.code, 204);
    assert_eq!(get(&server, "/v1/topics/a").await.problem(), (404, "TOPIC_NOT_FOUND".to_owned()));
    let audited = async {
        while !server.log().contains("topic.delete") {
            tokio::task::yield_now().await;
        }
    };
    within(20, "the deletion in the log", audited).await;
}

#[tokio::test]
async fn a_body_that_stops_stores_whole_batches_of_lines_and_nothing_of_a_document() {
    let server = Server::with(&["--http-body-timeout", "1s"]).await;
    let lines: String = (0..1500).map(|n| format!("{{\"value\":\"{n}\"}}\n")).collect();
    for (topic, kind, body) in
        [("lines", LINES.1, lines.as_str()), ("document", JSON.1, r#"{"records":[{"value":"x"},"#)]
    {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let head = format!(
            "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n\
             content-length: 1000000\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(30, "the answer", async { drop(stream.read_to_string(&mut answer).await) }).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("BODY_TIMEOUT"), "{answer}");
        assert_eq!(answer.contains(r#""records":"1000""#), topic == "lines", "{answer}");
    }
    let topics = get(&server, "/v1/topics").await.json();
    assert_eq!(topics["topics"].as_array().unwrap().len(), 1, "{topics}");
}

#[tokio::test]
async fn callers_may_what_the_policy_says() {
    let setup = Setup::new(&["writer"], &rule(r#"["writer"]"#, r#"["open-*"]"#, r#"["publish"]"#));
    let server = setup.start(&[]).await;
    let token = "Bearer writer-secret".to_owned();
    let record = r#"{"records":[{"value":"x"}]}"#;
    for (line, who, code) in [
        ("POST /v1/topics/open-a/records", "", 401),
        ("POST /v1/topics/open-a/records", &*token, 200),
        ("POST /v1/topics/shut/records", &*token, 403),
        ("GET /v1/topics/open-a/records", &*token, 403),
        ("DELETE /v1/topics/open-a", &*token, 403),
    ] {
        let mut headers = vec![JSON];
        headers.extend((!who.is_empty()).then_some(("authorization", who)));
        let answer = ask(server.http(), line, &headers, record).await;
        assert_eq!(answer.code, code, "{line}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_described_methods_are_those_of_the_routes() {
    let server = Server::start().await;
    let described = get(&server, "/v1/openapi.json").await.json();
    for (path, item) in described["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let line = format!("{method} {}", path.replace("{topic}", "none").replace("{group}", "none"));
            let answer = ask(server.http(), &line, &[], "").await;
            let is_described = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.code != 405, is_described, "{line}: {}", answer.text());
        }
    }
}
