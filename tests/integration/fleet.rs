//! Replicas on the JetStream engine use one topic while they and NATS stop and restart.

use std::time::Duration;

use tonic::Code;

use crate::harness::make::{at, earliest, published, records, subscribe, to_tail};
use crate::harness::{Nats, Reader, Seen, Server, free_ports, refused, within};

async fn replica(nats: &Nats) -> Server {
    let url = nats.url();
    Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await
}

/// P1, P2, P3: replicas are drained and killed in turn, and a subscriber resumes at another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_moves_among_replicas_that_come_and_go() {
    const ROUNDS: usize = 6;
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    let (mut all, mut start) = (Vec::new(), earliest());
    for round in 0..ROUNDS {
        // A record acknowledged by one replica is served by the other at once.
        for (n, replica) in replicas.iter().enumerate() {
            let mut client = replica.client().await;
            for i in 0..5 {
                published(&mut client, "fleet", records(&format!("{round}/{n}/{i}/"), 7)).await;
            }
        }
        let mut client = replicas[round % 2].client().await;
        let mut reader = Reader::open(&mut client, subscribe("fleet", start)).await.unwrap().sparse();
        // Leaves some records unread, so that each round starts in the middle of the topic.
        while all.len() < (round + 1) * 70 - 10 {
            all.extend(reader.records().await.unwrap().unwrap());
        }
        start = at(&reader.next.unwrap());
        let leaving = &mut replicas[round % 2];
        if round % 3 == 0 {
            leaving.kill9().await
        } else {
            leaving.sigterm().await
        }
        leaving.restart().await;
    }
    let mut client = replicas[0].client().await;
    let mut reader = Reader::open(&mut client, to_tail(subscribe("fleet", start))).await.unwrap().sparse();
    all.extend(reader.rest().await.unwrap());
    let expected = (0..ROUNDS).flat_map(|r| {
        (0..2).flat_map(move |n| (0..5).flat_map(move |i| (0..7).map(move |j| format!("{r}/{n}/{i}/{j}"))))
    });
    assert!(all.iter().map(Seen::text).eq(expected), "nothing lost, repeated or out of order");
}

/// The start log warns of settings that weaken P1, and only of those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_warns_of_settings_that_keep_records_less_safely() {
    let nats = Nats::single("");
    let warnings = async |more: &[&str]| {
        let url = nats.url();
        let args = [&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"], more].concat();
        let log = Server::with(&args).await.log();
        ["nats.replicas is below 3", "nats.storage is memory"].map(|warning| log.contains(warning))
    };
    assert_eq!(warnings(&[]).await, [true, false]);
    assert_eq!(warnings(&["--nats-storage", "memory"]).await, [true, true]);
}

/// The log and `/readyz` of a server that is not ready say why, repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_nats_says_so_where_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(3);
    let at = |n: usize| format!("127.0.0.1:{}", ports[n]);
    let url = format!("nats://{}", at(2));
    let (listen, admin) = (at(0), at(1));
    let args = ["serve", "--listen", &listen, "--admin-listen", &admin, "--engine", "jetstream"];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(args)
        .args(["--nats-url", &url])
        .current_dir(dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let says = async {
        let ask = || {
            let url = format!("http://{admin}/readyz");
            std::process::Command::new("curl").args(["-s", "-m", "5", &url]).output().unwrap().stdout
        };
        while !String::from_utf8_lossy(&ask()).starts_with("not ready: waiting for NATS: ") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(30), says).await;
    let _ = child.kill();
    child.wait().unwrap();
    said.expect("the reason in /readyz");
}

/// While NATS is away publishes fail, readiness is off and a subscriber's stream stays open; all recover afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_waits_for_nats_and_goes_on_by_itself() {
    let mut nats = Nats::single("");
    let server = replica(&nats).await;
    let mut client = server.client().await;
    published(&mut client, "waits", records("before", 3)).await;
    let mut reader = Reader::open(&mut client, subscribe("waits", earliest())).await.unwrap().sparse();
    let mut seen = reader.records().await.unwrap().unwrap();
    nats.servers[0].kill();
    let ready = async |wanted: &str| {
        let url = format!("http://{}/readyz", server.admin());
        let ask = || {
            std::process::Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
                .output()
        };
        while String::from_utf8_lossy(&ask().unwrap().stdout) != wanted {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(20, "readiness turns off", ready("503")).await;
    let request = crate::harness::make::publish("waits", records("lost", 1));
    let status = within(20, "an answer", client.publish(request)).await.unwrap_err();
    refused(&status, Code::Unavailable, "STORAGE_UNAVAILABLE");
    nats.servers[0].start();
    nats.wait();
    within(20, "readiness turns on", ready("200")).await;
    published(&mut client, "waits", records("after", 3)).await;
    while seen.len() < 6 {
        seen.extend(within(20, "the rest", reader.records()).await.unwrap().unwrap());
    }
    let texts: Vec<_> = seen.iter().map(Seen::text).collect();
    assert_eq!(texts, ["before0", "before1", "before2", "after0", "after1", "after2"]);
}
