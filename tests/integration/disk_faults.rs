//! The real binary on a disk that fails, fills up or is slow (P1, P7, P8): nothing is acknowledged that may not be on disk,
//! and errors say so.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use streamway::proto::v1::{DeleteTopicRequest, GetTopicRequest, TrimTopicRequest};
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::faults::{Fault, SmallDisk};
use crate::harness::make::{publish, published, record, records};
use crate::harness::{Server, detail, metadata, read_all, refused, seed, soak, within};
use crate::history::Recorder;
use crate::history::check::check;
use crate::history::clients::Publisher;

const TOPIC: &str = "faults";

/// Answer to a gRPC health check on that port.
async fn health(port: SocketAddr, service: &str) -> ServingStatus {
    let channel = Endpoint::from_shared(format!("http://{port}")).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

/// Asserts that after `fault`, even once it has passed, nothing is acknowledged, reads continue, readiness is off, liveness
/// is on, the exit code is not zero, and everything acknowledged is there after a restart.
async fn ends_writing_for_good(fault: &str) {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    for i in 0..20 {
        published(&mut client, TOPIC, vec![record(format!("before-{i}"))]).await;
    }
    let failing = Fault::inject(server.pid(), fault).await;
    let status = client.publish(publish(TOPIC, records("unknown", 3))).await.expect_err("must be refused");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(detail(&status).error_info().unwrap().reason, "STORAGE_UNAVAILABLE");
    // If sealing the previous commit failed first, nothing of this one was written.
    let nothing_stored = metadata(&status)["side_effects"] == "none";
    drop(failing);
    for _ in 0..3 {
        let status = client.publish(publish(TOPIC, records("after", 1))).await.expect_err("must be refused");
        refused(&status, Code::Unavailable, "STORAGE_UNAVAILABLE");
    }
    assert_eq!(server.ready_and_alive().await, (false, true));
    for port in [server.listen(), server.admin()] {
        for service in ["", "readiness", "streamway.v1.StreamService"] {
            assert_eq!(health(port, service).await, ServingStatus::NotServing, "{service} on {port}");
        }
        assert_eq!(health(port, "liveness").await, ServingStatus::Serving, "on {port}");
    }
    let seen = read_all(&mut client, TOPIC).await;
    assert_eq!(seen.len(), 20, "what was acknowledged is still served, and nothing else");
    let (exit, _) = server.stop("TERM", 10).await;
    assert!(exit.code().is_some_and(|code| code != 0), "{exit:?}");
    server.restart().await;
    let texts: Vec<String> =
        read_all(&mut server.client().await, TOPIC).await.iter().map(|seen| seen.text()).collect();
    let want: Vec<String> = (0..20).map(|i| format!("before-{i}")).collect();
    assert_eq!(texts[..20], want);
    let unknown = &texts[20..];
    let whole = !nothing_stored && unknown == ["unknown0", "unknown1", "unknown2"];
    assert!(unknown.is_empty() || whole, "whole or not: {unknown:?}, and nothing stored: {nothing_stored}");
}

#[tokio::test]
async fn a_failed_sync_ends_writing_for_good() {
    ends_writing_for_good("fdatasync:error=EIO").await;
}

#[tokio::test]
async fn a_failed_write_ends_writing_for_good() {
    ends_writing_for_good("pwrite64:error=EIO").await;
}

/// P1, P7: on a full disk publishes are refused before anything is written, readiness stays on, and publishing continues
/// by itself once there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let disk = SmallDisk::mount(12 << 20);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let data = disk.path().join("data");
    let args = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
    let mut server = Server::on(&data, &args).await;
    let mut client = server.client().await;
    let (mut stored, mut full) = (Vec::new(), 0);
    for i in 0.. {
        let text = format!("{i}/{}", "x".repeat(50_000));
        match client.publish(publish(TOPIC, vec![record(text.as_bytes())])).await {
            Ok(_) => stored.push(text),
            Err(status) => {
                refused(&status, Code::ResourceExhausted, "DISK_FULL");
                full += 1;
            }
        }
        if full == 20 {
            break;
        }
    }
    assert!(stored.len() > 20, "{}", stored.len());
    assert_eq!(server.ready_and_alive().await, (true, true), "a full disk passes");
    assert_eq!(read_all(&mut client, TOPIC).await.len(), stored.len());
    std::fs::remove_file(&ballast).unwrap();
    let begun = Instant::now();
    let more = loop {
        match client.publish(publish(TOPIC, vec![record("more")])).await {
            Ok(response) => break response.into_inner(),
            Err(status) => refused(&status, Code::ResourceExhausted, "DISK_FULL"),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it goes on by itself");
        // Back-off of the client.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    stored.push("more".into());
    assert_eq!(more.receipt.unwrap().next.unwrap().offset, stored.len() as u64);
    server.kill9().await;
    server.restart().await;
    let seen = read_all(&mut server.client().await, TOPIC).await;
    assert!(seen.iter().map(|seen| seen.text()).eq(stored), "{} records", seen.len());
    server.sigterm().await;
}

/// Fills the remaining space of a file system.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
}

/// P1, P7: without a free byte, starts succeed repeatedly after clean stops and kills, everything acknowledged is there, a
/// trim and a deletion are accepted and free space, and publishing continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_no_reason_not_to_start_and_can_be_freed_by_trims() {
    let disk = SmallDisk::mount(16 << 20);
    let args = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
    let mut server = Server::on(&disk.path().join("data"), &args).await;
    let mut stored = 0;
    for topic in ["kept", "trimmed", "deleted"].iter().cycle() {
        let record = record(vec![b'x'; 30_000]);
        match server.client().await.publish(publish(topic, vec![record])).await {
            Ok(_) => stored += 1,
            Err(status) => {
                refused(&status, Code::ResourceExhausted, "DISK_FULL");
                break;
            }
        }
    }
    assert!(stored > 100, "{stored}");
    fill(&disk.path().join("ballast"));
    for round in 0..4 {
        if round % 2 == 0 {
            server.kill9().await
        } else {
            server.sigterm().await
        }
        server.restart().await;
        assert_eq!(server.ready_and_alive().await, (true, true), "start {round}");
        let mut seen = 0;
        for topic in ["kept", "trimmed", "deleted"] {
            seen += read_all(&mut server.client().await, topic).await.len();
        }
        assert_eq!(seen, stored, "start {round}");
    }
    let mut topics = server.topics().await;
    let get = GetTopicRequest { name: "trimmed".into() };
    let before_offset = topics.get_topic(get).await.unwrap().into_inner().topic.unwrap().tail;
    let trim = TrimTopicRequest { name: "trimmed".into(), before_offset, ..TrimTopicRequest::default() };
    assert_eq!(topics.trim_topic(trim).await.unwrap().into_inner().earliest_offset, before_offset);
    topics.delete_topic(DeleteTopicRequest { name: "deleted".into(), ..Default::default() }).await.unwrap();
    let mut client = server.client().await;
    let goes_on = async {
        for i in 0..50 {
            // Back-off of the client.
            while let Err(status) = client.publish(publish(TOPIC, records(&format!("{i}-"), 1))).await {
                refused(&status, Code::ResourceExhausted, "DISK_FULL");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    within(60, "publishing on what was freed", goes_on).await;
    server.kill9().await;
    server.restart().await;
    assert_eq!(read_all(&mut server.client().await, TOPIC).await.len(), 50);
    assert_eq!(read_all(&mut server.client().await, "trimmed").await.len(), 0);
    server.sigterm().await;
}

/// Group commit: everything that waits during a sync of one second is stored by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_a_second_to_sync_slows_down_and_breaks_nothing() {
    let mut server = Server::start().await;
    let client = server.client().await;
    published(&mut client.clone(), TOPIC, records("a", 1)).await;
    let slow = Fault::inject(server.pid(), "fdatasync:delay_enter=1000000").await;
    let begun = Instant::now();
    let mut publishes = tokio::task::JoinSet::new();
    for i in 0..100 {
        let mut client = client.clone();
        publishes.spawn(async move { published(&mut client, TOPIC, records(&format!("{i}-"), 2)).await });
    }
    within(30, "a hundred publishes", publishes.join_all()).await;
    println!("a hundred publishes took {:?}", begun.elapsed());
    assert_eq!(server.ready_and_alive().await, (true, true));
    let mut last = client.clone();
    let last = tokio::spawn(async move { last.publish(publish(TOPIC, records("last", 1))).await });
    let (exit, took) = server.stop("TERM", 10).await;
    assert!(exit.success() && took < Duration::from_secs(8), "{exit:?} after {took:?}");
    let last = last.await.unwrap();
    drop(slow);
    server.restart().await;
    let seen = read_all(&mut server.client().await, TOPIC).await.len();
    assert!(seen == 202 || (seen == 201 && last.is_err()), "{seen} {last:?}");
}

/// P1, P4: kills the server during recovery, checkpoints and commits, at the n-th system call of a kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_system_call_it_loses_nothing_acknowledged() {
    let rounds = if soak() { 100 } else { 10 };
    let mut rng = Rng::with_seed(seed());
    let mut server =
        Server::with(&["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"]).await;
    published(&mut server.client().await, TOPIC, records("first", 1)).await;
    let recorder = Recorder::new();
    let first = recorder.begin(None, &["first0".into()], "", None);
    recorder.end(first, crate::history::Outcome::Acknowledged { first: 0, next: 1, duplicate: false });
    let (_run, stop) = watch::channel(false);
    let mut killed = 0;
    for round in 0..rounds {
        server.kill9().await;
        let call = *rng
            .choice(&["rename", "unlink", "fdatasync", "fsync", "ftruncate", "fallocate", "pwrite64"])
            .unwrap();
        let when = if call == "fdatasync" || call == "pwrite64" { rng.u32(1..200) } else { rng.u32(1..8) };
        let inject = format!("inject={call}:signal=KILL:when={when}");
        server.start_again_under(&["strace", "-D", "-f", "-o", "/dev/null", "-e", &inject]);
        if !server.ready_or_ended().await {
            killed += 1;
            server.restart().await;
            continue;
        }
        let mut publishers = tokio::task::JoinSet::new();
        for i in 0..2 {
            let publisher = Publisher {
                client: server.client_of_maybe_gone(),
                topic: TOPIC.into(),
                name: format!("r{round}p{i}"),
                rng: rng.fork(),
                recorder: recorder.clone(),
                stop: stop.clone(),
                pause: Duration::ZERO,
            };
            publishers.spawn(publisher.exchanging());
        }
        // Some calls are too rare, so the server is killed after a while in any case.
        let ended = tokio::time::timeout(Duration::from_secs(2), server.ended()).await.is_ok();
        killed += usize::from(ended);
        server.kill9().await;
        publishers.join_all().await;
        server.restart().await;
    }
    let topic = read_all(&mut server.client().await, TOPIC).await;
    let summary = check(&recorder.history(&topic)).unwrap_or_else(|reason| panic!("{reason}"));
    println!("{killed} of {rounds} killed at a system call: {summary:?}");
    assert!(killed > 0);
}
