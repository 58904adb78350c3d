//! `publish`: what goes in comes out of `subscribe` as it was.

use serde_json::{Value, json};
use streamway::proto::v1;

use super::{failure, run, stdout};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_back_as_they_were() {
    let server = Server::start().await;
    let lines = "one\n\n  three \r\nvier ü\nlast";
    stdout(&run(&server, &["publish", "lines"], lines));
    assert_eq!(stdout(&run(&server, &["subscribe", "lines"], "")), format!("{lines}\n"));
    let last = run(&server, &["subscribe", "lines", "--from", "-2", "--no-newline"], "");
    assert_eq!(stdout(&last), "vier ülast");
    let one = run(&server, &["subscribe", "lines", "--from", "1h ago", "-n", "1"], "");
    assert_eq!(stdout(&one), "one\n");
    let keyed = ["publish", "keyed", "-k", "=", "-H", "a=b"];
    stdout(&run(&server, &keyed, "k=v=w\n"));
    assert_eq!(stdout(&run(&server, &["subscribe", "keyed", "--print-key", ": "], "")), "k: v=w\n");
    let json = run(&server, &["subscribe", "keyed", "--output", "json"], "");
    let json: serde_json::Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(
        (&json["key"], &json["value"], &json["headers"]["a"]),
        (&"k".into(), &"v=w".into(), &"b".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_an_import_under_its_name_stores_nothing_twice() {
    let server = Server::start().await;
    let text: String = (0..2500).map(|i| format!("line {i}\n")).collect();
    let import = ["publish", "import", "--request-id-prefix", "monday"];
    for _ in 0..2 {
        stdout(&run(&server, &import, &text));
    }
    assert_eq!(stdout(&run(&server, &["subscribe", "import"], "")), text);
    // Another input, or other batches, under a name that was used.
    let other: Vec<&str> = import.iter().chain(&["--batch-records", "999"]).copied().collect();
    for (args, text) in [(&import[..], &text[..text.len() / 2]), (&other[..], &text)] {
        let (code, line) = failure(&run(&server, args, text));
        assert!(code == 1 && line.contains("differ from the first run"), "{line}");
    }
}

/// Batches that are too many or too large for the server are split, so that the defaults fit every server. Those with
/// request ids are not: repeated, they would be others after a change of the server's limits.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_split_to_the_limits_of_the_server() {
    let server = Server::with(&["--batch-records-max", "7", "--batch-bytes-max", "1KiB"]).await;
    let text: String = (0..2500).map(|i| format!("{i:0>width$}\n", width = 1 + i % 300)).collect();
    stdout(&run(&server, &["publish", "small"], &text));
    assert_eq!(stdout(&run(&server, &["subscribe", "small"], "")), text);
    let records: Vec<Value> = text.lines().map(|line| json!({ "value": line })).collect();
    let document = json!({ "records": records }).to_string();
    let large =
        ["publish", "document", "--input", "json", "--batch-bytes", "1GiB", "--batch-records", "1000000"];
    stdout(&run(&server, &large, &document));
    assert_eq!(stdout(&run(&server, &["subscribe", "document"], "")), text);
    // A record that no batch has room for.
    let (code, line) = failure(&run(&server, &["publish", "one"], &format!("a\n{}\nb\n", "x".repeat(2000))));
    assert!(code == 1 && line.contains("more than 1024 [BATCH_TOO_LARGE]"), "{line}");
    assert_eq!(stdout(&run(&server, &["subscribe", "one"], "")), "a\n");
    let (code, line) = failure(&run(&server, &["publish", "named", "--request-id-prefix", "x"], &text));
    assert!(code == 1 && line.contains("[BATCH_TOO_LARGE]; send fewer or smaller"), "{line}");
}

/// What one topic printed as JSON is, published to another, the same in every byte and every field.
#[tokio::test(flavor = "multi_thread")]
async fn json_goes_in_as_it_came_out() {
    let server = Server::start().await;
    let records = vec![
        v1::Record { value: "plain".into(), ..v1::Record::default() },
        v1::Record { key: vec![0xff, 0].into(), value: vec![0xc3].into(), ..v1::Record::default() },
        v1::Record {
            key: "k\u{0}\n\u{202e}".into(),
            value: "\u{9b}2J\u{e0041} ü\"\\".into(),
            headers: [("a".to_owned(), "b=c".to_owned()), (String::new(), "\u{7f}".to_owned())].into(),
            event_time: Some(prost_types::Timestamp { seconds: -62_135_596_800, nanos: 7 }),
        },
        v1::Record {
            event_time: Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 }),
            ..v1::Record::default()
        },
    ];
    let publish = v1::PublishRequest { topic: "from".into(), records, ..v1::PublishRequest::default() };
    server.client().await.publish(publish).await.unwrap();
    let printed = run(&server, &["subscribe", "from", "-o", "json"], "");
    let printed = stdout(&printed);
    let answer = run(&server, &["publish", "to", "--input", "json", "-o", "json"], printed);
    let answer: Value = serde_json::from_str(stdout(&answer)).unwrap();
    assert_eq!((&answer["records"], &answer["next"]["offset"]), (&"4".into(), &"4".into()));
    let all = async |topic: &str| crate::harness::read_all(&mut server.client().await, topic).await;
    let of = |seen: Vec<crate::harness::Seen>| -> Vec<v1::Record> {
        seen.into_iter().map(|seen| seen.record).collect()
    };
    assert_eq!(of(all("to").await), of(all("from").await));
    // As a document too, over which blanks and lines do not matter.
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let document = serde_json::to_string_pretty(&json!({ "records": lines })).unwrap();
    stdout(&run(&server, &["publish", "document", "--input", "json"], &document));
    assert_eq!(of(all("document").await), of(all("from").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_whole_files_are_records() {
    let server = Server::start().await;
    let values =
        ["publish", "t", "one", "-5", "two\nlines", "--key", "k", "-H", "a=b", "--event-time", "now"];
    stdout(&run(&server, &values, "not read"));
    let json = ["publish", "t", "--input", "json", "--key", "k", r#"{"value_json": [1.0, null]}"#];
    stdout(&run(&server, &json, ""));
    let printed = run(&server, &["subscribe", "t", "--print-key", "="], "");
    assert_eq!(stdout(&printed), "k=one\nk=-5\nk=two\nlines\nk=[1.0, null]\n");
    let first = run(&server, &["subscribe", "t", "-n", "1", "-o", "json"], "");
    let first: Value = serde_json::from_str(stdout(&first)).unwrap();
    assert!(first["event_time"].is_string() && first["headers"]["a"] == "b", "{first}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"\n\xff\0\n").unwrap();
    let whole = ["publish", "raw", "--input", "raw", "--file", file.to_str().unwrap()];
    stdout(&run(&server, &whole, ""));
    let printed = run(&server, &["subscribe", "raw", "--no-newline"], "");
    assert_eq!(printed.stdout, b"\n\xff\0\n");

    // More than a batch takes are several.
    let many: Vec<String> = (0..2500).map(|i| i.to_string()).collect();
    let args: Vec<&str> =
        ["publish", "many", "-o", "json"].into_iter().chain(many.iter().map(|v| &**v)).collect();
    let answer = run(&server, &args, "");
    let answer: Value = serde_json::from_str(stdout(&answer)).unwrap();
    assert_eq!(answer["records"], "2500");
    assert_eq!(stdout(&run(&server, &["subscribe", "many"], "")), many.join("\n") + "\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_no_record_says_where_and_what_is_stored() {
    let server = Server::start().await;
    let (code, line) = failure(&run(
        &server,
        &["publish", "t", "--input", "json"],
        "{\"value\":\"a\"}\n{\"valeu\":\"b\"}\n",
    ));
    assert!(code == 1 && line.contains("JSON value 2: unknown field `valeu`"), "{line}");
    // What was sent before the mistake is waited for, so that the line says exactly what is stored.
    let mut many: String = (0..2500).map(|i| format!("{{\"value\":\"{i}\"}}\n")).collect();
    many += "{}\n";
    let (code, line) = failure(&run(&server, &["publish", "many", "--input", "json"], &many));
    assert!(code == 1 && line.contains("the first 2500 records are stored"), "{line}");
    let stored = run(&server, &["subscribe", "many", "--from", "earliest"], "");
    assert_eq!(stdout(&stored).lines().count(), 2500);
    for (args, why) in [
        (&["publish", "t", "--input", "json", "{}"][..], "one of value"),
        (&["publish", "t", "--input", "json", "-k", "="], "--key-separator"),
        (&["publish", "t", "a", "--file", "/dev/null"], "--file"),
        (&["publish", "t", "--key", "a", "-k", "="], "--key"),
        (&["publish", "t", "a", "--event-time", "soon"], "5m ago"),
        (&["publish", "t", "a", "--event-time", "2026-05-01T12:00:00"], "with a zone"),
        (&["publish", "t", "a", "--event-time", "2026-05-01"], "with a zone"),
        (&["publish", "t", "a", "--input", "xml"], "lines"),
        (&["publish", "t", "a", "-H", "x"], "KEY=VALUE"),
    ] {
        let output = run(&server, args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?} {output:?}");
    }
}
