//! `groups` and `consume`: output, exit codes, and what becomes of records.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{command, failure, run, stdout};
use crate::harness::{Server, signal, within};

fn json(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(stdout(&run(server, args, ""))).unwrap()
}

fn status(server: &Server) -> Value {
    json(server, &["groups", "describe", "orders", "mail", "-o", "json"])["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_created_described_changed_and_deleted() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "orders"], "a\nb\n"));
    let backoff = ["--deliveries-max", "3", "--backoff", "1s,1m", "--dead-letter-topic", "failed"];
    let create = [&["groups", "create", "orders", "mail", "--order", "key"], &backoff[..]].concat();
    assert!(stdout(&run(&server, &create, "")).contains("dead letter to failed after 3 failed deliveries"));
    let (code, line) = failure(&run(&server, &create, ""));
    assert!(code == 1 && line.contains("GROUP_EXISTS"), "{line}");
    let update = ["groups", "update", "orders", "mail", "--ack-deadline", "5m", "-o", "json"];
    let group = json(&server, &update);
    let settings = &group["settings"];
    assert_eq!((&settings["ackDeadline"], &settings["deliveriesMax"]), (&"300s".into(), &3.into()));
    assert_eq!(settings["backoff"], serde_json::json!(["1s", "60s"]));
    assert_eq!(failure(&run(&server, &["groups", "update", "orders", "mail"], "")).0, 2);
    let table = run(&server, &["groups", "list"], "");
    let lines: Vec<&str> = stdout(&table).lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("orders  mail  key"), "{lines:?}");
    let (seek, delete) = (["seek", "orders", "mail", "--to", "latest"], ["delete", "orders", "mail"]);
    for question in [&seek[..], &delete, &["reset", "groups-07"]] {
        let (code, line) = failure(&run(&server, &[&["groups"], question].concat(), "y\n"));
        assert!(code == 2 && line.contains("--yes"), "{line}");
    }
    for shard in 0..16 {
        let reset = ["groups", "reset", &format!("~groups-{shard:02}"), "--yes"];
        let (code, line) = failure(&run(&server, &reset, ""));
        assert!(code == 1 && line.contains("GROUPS_NOT_DAMAGED"), "{line}");
    }
    assert_eq!(failure(&run(&server, &["groups", "reset", "orders", "--yes"], "")).0, 1);
    assert_eq!(status(&server)["lagRecords"], "2");
    stdout(&run(&server, &["groups", "seek", "orders", "mail", "--to", "latest", "--yes"], ""));
    assert_eq!(status(&server)["lagRecords"], "0");
    stdout(&run(&server, &["groups", "delete", "orders", "mail", "--yes"], ""));
    let (code, line) = failure(&run(&server, &["groups", "describe", "orders", "mail"], ""));
    assert!(code == 1 && line.contains("GROUP_NOT_FOUND"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_printed_and_then_acknowledged() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "orders"], "a\nb\nc\n"));
    let consume = ["consume", "orders", "--group", "mail"];
    let printed = run(&server, &[&consume[..], &["--max", "1"]].concat(), "");
    assert_eq!(stdout(&printed), "a\n");
    let printed = run(&server, &[&consume[..], &["--stop-at-tail", "-o", "json"]].concat(), "");
    let values: Vec<Value> = stdout(&printed)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].clone())
        .collect();
    assert_eq!(values, ["b", "c"]);
    assert_eq!(stdout(&run(&server, &[&consume[..], &["--stop-at-tail"]].concat(), "")), "");
    assert_eq!(status(&server)["lagRecords"], "0");
}

/// The exit code of the command says what becomes of a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_run_for_each_record() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "orders"], "good\nbusy\nbad\n"));
    stdout(&run(&server, &["groups", "create", "orders", "mail", "--dead-letter-topic", "failed"], ""));
    let script = "read -r value; echo $value $STREAMWAY_OFFSET $STREAMWAY_DELIVERY; \
                  case $value$STREAMWAY_DELIVERY in good*) ;; busy1) exit 75;; bad*) exit 65;; esac";
    let consume = ["consume", "orders", "--group", "mail", "--exec", script, "-P", "3", "--max", "4"];
    let output = run(&server, &consume, "");
    let mut lines: Vec<&str> = stdout(&output).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["bad 2 1", "busy 1 1", "busy 1 2", "good 0 1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("2 records acknowledged, 1 failed, 1 given up"), "{said}");
    let failed = run(&server, &["subscribe", "failed"], "");
    assert_eq!(stdout(&failed), "bad\n");
    assert_eq!(failure(&run(&server, &["consume", "orders", "-g", "mail", "-P", "2"], "")).0, 2);
}

/// A signal lets the command that runs end, and gives back the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_lets_the_command_end_that_runs() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    stdout(&run(&server, &["publish", "orders"], "a\nb\nc\n"));
    let script = format!("touch {}; until test -e {}; do sleep 0.02; done", begun.display(), go.display());
    let consume = ["consume", "orders", "--group", "mail", "--exec", &script];
    let mut child = command(&server, &consume).stdin(Stdio::null()).spawn().unwrap();
    let started = async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(30, "the command", started).await;
    signal(child.id(), "TERM");
    std::fs::write(go, "").unwrap();
    let ended = tokio::task::block_in_place(|| child.wait()).unwrap();
    assert_eq!(ended.code(), Some(0));
    let status = status(&server);
    assert_eq!((&status["lagRecords"], &status["memberCount"]), (&"2".into(), &"0".into()));
}
