//! `streamway bench` against a real server: its figures are consistent. No test here requires a speed.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::Server;

fn bench(server: &Server, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.arg("bench").args(args).args(["--output", "json"]);
    if args[0] != "subscribe" {
        command.args(["--duration", "300ms", "--warmup", "100ms"]);
    }
    command.env("STREAMWAY_SERVER", server.url()).output().unwrap()
}

/// JSON lines of a run that verified everything.
fn figures(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(figures: &Value, what: &str) -> u64 {
    figures[what]["records"].as_u64().unwrap()
}

/// A latency is reported if anything was measured: on a busy machine 300 ms may yield nothing.
fn is_told(figures: &Value, what: &str, latency: &str) -> bool {
    let measured = figures[what]["measured"].as_u64().unwrap();
    measured == 0 || figures[latency]["p50"].as_f64().unwrap() > 0.0
}

fn keeps_up(step: &Value) -> bool {
    step["acknowledged"]["recordsPerSecond"].as_f64().unwrap() >= 0.95 * step["rate"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_load_accounts_for_every_record() {
    let server = Server::start().await;
    let publish = &figures(&bench(&server, &["publish", "--publishers", "2", "--batch", "3"]))[0];
    assert!(
        count(publish, "acknowledged") > 0 && count(publish, "acknowledged").is_multiple_of(3),
        "{publish}"
    );
    assert!(is_told(publish, "acknowledged", "ackLatencySeconds"), "{publish}");

    let fanout = &figures(&bench(&server, &["fanout", "--subscribers", "5", "--window", "10"]))[0];
    assert_eq!(count(fanout, "delivered"), 5 * count(fanout, "acknowledged"), "{fanout}");
    assert!(is_told(fanout, "delivered", "deliveryLatencySeconds"), "{fanout}");

    let url = format!("http://{}", server.http());
    for form in [&[][..], &["--events"]] {
        let args = ["fanout", "--subscribers", "5", "--batch", "10", "--http", &url];
        let web = &figures(&bench(&server, &[&args[..], form].concat()))[0];
        assert_eq!(count(web, "delivered"), 5 * count(web, "acknowledged"), "{web}");
    }
    let web = &figures(&bench(&server, &["publish", "--batch", "10", "--http", &url]))[0];
    assert!(count(web, "acknowledged") > 0, "{web}");

    let mixed = ["mixed", "--rate", "500", "--no-request-ids", "--server-pid", &server.pid().to_string()];
    let mixed = &figures(&bench(&server, &mixed))[0];
    assert!(count(mixed, "delivered") >= 4 * count(mixed, "acknowledged"), "{mixed}");
    assert!(mixed["serverCpuSeconds"].is_f64(), "{mixed}");

    let stored = ["subscribe", "--records", "5000", "--subscribers", "3"];
    assert_eq!(count(&figures(&bench(&server, &stored))[0], "delivered"), 15_000);

    let steps = ["ramp", "--from", "100", "--to", "250", "--latency-max", "1m"];
    let steps = figures(&bench(&server, &steps));
    // The number of steps depends on how busy the machine is; the knee is the last step it sustained.
    let held =
        ["null", "100", "200"][steps.iter().filter(|step| step["rate"].is_u64() && keeps_up(step)).count()];
    let knee = steps.last().unwrap()["kneeRecordsPerSecond"].to_string();
    assert_eq!((knee.as_str(), (2..=3).contains(&steps.len())), (held, true), "{steps:?}");

    let list = Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(["topics", "list", "--output", "json"])
        .env("STREAMWAY_SERVER", server.url())
        .output()
        .unwrap();
    assert!(list.status.success() && list.stdout.is_empty(), "topics are left: {list:?}");
}

fn refused(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let output = bench(server, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("could not be deleted"), "{said}");
    (output.status.code(), said)
}

/// A figure that nothing stands behind is worse than an error.
#[tokio::test(flavor = "multi_thread")]
async fn options_that_would_mislead_are_refused() {
    let server = Server::start().await;
    for (args, why) in [
        (&["publish", "--publishers", "0"][..], "0 is not in 1.."),
        (&["fanout", "--publishers", "0"], "0 is not in 1.."),
        (&["publish", "--records", "5"], "unexpected argument '--records'"),
        (&["ramp", "--rate", "5"], "unexpected argument '--rate'"),
        (&["publish", "--size", "23"], "must be at least 24"),
        (&["publish", "--yes"], "--topic"),
    ] {
        let (code, said) = refused(&server, args);
        assert!(code == Some(2) && said.contains(why), "{args:?}: {said}");
    }
    let stored = ["subscribe", "--records", "5", "--duration", "1s"];
    let output = Command::new(env!("CARGO_BIN_EXE_streamway")).arg("bench").args(stored).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nothing is measured for a time there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_exists_is_used_only_where_somebody_agreed() {
    let server = Server::start().await;
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
        command.args(args).env("STREAMWAY_SERVER", server.url()).output().unwrap()
    };
    assert!(run(&["topics", "create", "orders"]).status.success());
    let (code, said) = refused(&server, &["publish", "--topic", "orders"]);
    assert!(code == Some(2) && said.contains("orders exists") && said.contains("--yes"), "{said}");
    let stored = ["bench", "subscribe", "--records", "50", "--topic", "orders", "--yes", "-o", "json"];
    // The records of the first run are not counted as those of the second.
    for _ in 0..2 {
        assert_eq!(count(&figures(&run(&stored))[0], "delivered"), 50);
    }
    let (code, said) = refused(&server, &["publish", "--server", "http://127.0.0.1:1"]);
    assert!(code == Some(1) && said.contains("cannot reach"), "{said}");
}
