//! `streamway bench` against a real server: that its figures add up.
//! Never: asks for a speed.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::Server;

fn bench(server: &Server, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.arg("bench").args(args).args(["--output", "json", "--duration", "300ms", "--warmup", "100ms"]);
    command.env("STREAMWAY_SERVER", server.url()).output().unwrap()
}

/// The JSON lines of a run that found everything.
fn figures(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(figures: &Value, what: &str) -> u64 {
    figures[what]["records"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_load_accounts_for_every_record() {
    let server = Server::start().await;
    let publish = &figures(&bench(&server, &["publish", "--publishers", "2", "--batch", "3"]))[0];
    assert!(
        count(publish, "acknowledged") > 0 && count(publish, "acknowledged").is_multiple_of(3),
        "{publish}"
    );
    assert!(publish["ack_latency_seconds"]["p50"].as_f64().unwrap() > 0.0, "{publish}");

    let fanout = &figures(&bench(&server, &["fanout", "--subscribers", "5", "--window", "10"]))[0];
    assert_eq!(count(fanout, "delivered"), 5 * count(fanout, "acknowledged"), "{fanout}");
    assert!(fanout["delivery_latency_seconds"]["p50"].as_f64().unwrap() > 0.0, "{fanout}");

    let mixed = ["mixed", "--rate", "500", "--no-request-ids", "--server-pid", &server.pid().to_string()];
    let mixed = &figures(&bench(&server, &mixed))[0];
    assert!(count(mixed, "delivered") >= 4 * count(mixed, "acknowledged"), "{mixed}");
    assert!(mixed["server_cpu_seconds"].is_f64(), "{mixed}");

    let stored = ["subscribe", "--records", "5000", "--subscribers", "3"];
    assert_eq!(count(&figures(&bench(&server, &stored))[0], "delivered"), 15_000);

    let steps = ["ramp", "--from", "100", "--to", "250", "--latency-max", "1m"];
    let steps = figures(&bench(&server, &steps));
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert_eq!(steps[2]["knee_records_per_second"], 200);

    let list = Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(["topics", "list", "--output", "json"])
        .env("STREAMWAY_SERVER", server.url())
        .output()
        .unwrap();
    assert!(list.status.success() && list.stdout.is_empty(), "topics are left: {list:?}");
}
