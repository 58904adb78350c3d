//! `topics`: output, and several topics at once.

use serde_json::Value;

use super::{failure, run, stdout};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_listed_as_a_table_and_as_json() {
    let server = Server::start().await;
    stdout(&run(&server, &["topics", "create", "orders", "--max-age", "7d"], ""));
    stdout(&run(&server, &["publish", "orders"], "a\nb\n"));
    let table = run(&server, &["topics", "list"], "");
    let lines: Vec<&str> = stdout(&table).lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("orders"), "{lines:?}");
    stdout(&run(&server, &["topics", "update", "orders", "--max-records", "10", "--max-age", "0"], ""));
    let json = run(&server, &["topics", "describe", "orders", "--output", "json"], "");
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!((&json["tail"], &json["earliestOffset"]), (&"2".into(), &"0".into()));
    assert_eq!(json["retention"]["maxRecords"], "10");
    assert!(json["retention"].get("maxAge").is_none(), "{json}");
    let trimmed = run(&server, &["topics", "trim", "orders", "--before", "2"], "");
    assert!(stdout(&trimmed).contains("the earliest offset of orders is now 2"));
    stdout(&run(&server, &["topics", "delete", "orders"], ""));
    assert_eq!(stdout(&run(&server, &["topics", "list", "--output", "json"], "")), "");
}

/// Names of all topics.
fn names(server: &Server) -> Vec<String> {
    let listed = run(server, &["topics", "ls", "-o", "json"], "");
    let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["name"].as_str().unwrap().to_owned();
    stdout(&listed).lines().map(name).collect()
}

fn earliest(server: &Server, topic: &str) -> u64 {
    let described = run(server, &["topics", "describe", topic, "-o", "json"], "");
    let topic: Value = serde_json::from_str(stdout(&described)).unwrap();
    topic["earliestOffset"].as_str().unwrap().parse().unwrap()
}

fn create(server: &Server, topics: &[&str]) {
    for topic in topics {
        stdout(&run(server, &["topics", "create", topic], ""));
    }
}

/// All that can be done is done, and each name that failed is told.
#[tokio::test(flavor = "multi_thread")]
async fn one_name_of_several_that_fails_stops_no_other() {
    let server = Server::start().await;
    create(&server, &["a", "b"]);
    for (command, done) in [("describe", "name:         b"), ("purge", "the earliest offset of b is now 0")] {
        let output = run(&server, &["topics", command, "a", "nosuch", "b"], "");
        assert!(String::from_utf8_lossy(&output.stdout).contains(done), "{output:?}");
        let (code, line) = failure(&output);
        assert!(code == 1 && line.starts_with("error: nosuch: topic not found"), "{line}");
    }
    let (code, line) = failure(&run(&server, &["topics", "rm", "a", "nosuch", "b"], ""));
    assert!(code == 1 && line.starts_with("error: nosuch: topic not found"), "{line}");
    assert!(names(&server).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_deleted_by_prefix_only_where_somebody_agreed() {
    let server = Server::start().await;
    create(&server, &["test-a", "test-b", "tests"]);
    let (code, line) = failure(&run(&server, &["topics", "delete", "--prefix", "test-"], "y\n"));
    assert!(code == 2 && line.contains("Delete 2 topics") && line.contains("--yes"), "{line}");
    for bad in [&["--prefix", ""][..], &[], &["--prefix", "test-", "tests"]] {
        let (code, _) = failure(&run(&server, &[&["topics", "delete"], bad].concat(), ""));
        assert_eq!(code, 2, "{bad:?}");
    }
    assert_eq!(names(&server).len(), 3);
    let deleted = run(&server, &["topics", "delete", "--prefix", "test-", "--yes", "-o", "json"], "");
    assert_eq!(stdout(&deleted), "{\"name\":\"test-a\"}\n{\"name\":\"test-b\"}\n");
    assert_eq!(names(&server), ["tests"]);
    stdout(&run(&server, &["topics", "delete", "--prefix", "nosuch-", "--yes"], ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_trimmed_before_whatever_a_subscription_can_start_at() {
    let server = Server::start().await;
    for _ in 0..10 {
        stdout(&run(&server, &["publish", "t"], "x\n"));
    }
    let trim = |before: &str| {
        let output = run(&server, &["topics", "trim", "t", "--before", before, "-o", "json"], "");
        let answer: Value = serde_json::from_str(stdout(&output)).unwrap();
        answer["earliestOffset"].as_str().unwrap().to_owned()
    };
    assert_eq!(trim("earliest"), "0");
    assert_eq!(trim("3"), "3");
    assert_eq!(trim("1h ago"), "3", "everything is younger");
    assert_eq!(trim("-4"), "6");
    assert_eq!(trim("latest"), "10");
    assert_eq!(trim("-4"), "10", "there are fewer");
    stdout(&run(&server, &["publish", "t"], "x\n"));
    assert_eq!(trim("2999-01-01T00:00:00Z"), "11", "everything is older");
    stdout(&run(&server, &["publish", "t"], "x\n"));
    stdout(&run(&server, &["topics", "purge", "t"], ""));
    assert_eq!(earliest(&server, "t"), 12);
    let (other, epoch) = ("00000000000000aa_00000000000000000012", "00000000000000bb");
    let (code, line) =
        failure(&run(&server, &["topics", "trim", "t", "--before", other, "--epoch", epoch], ""));
    assert!(code == 2 && line.contains("is of epoch 00000000000000aa"), "{line}");
    let (code, line) = failure(&run(&server, &["topics", "trim", "t", "--before", "soon"], ""));
    assert!(code == 2 && line.contains("earliest, latest"), "{line}");
}
