//! `streamway copy`: servers and backups, interrupted and damaged, through the real binary.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, PublishRequest, Retention, Topic,
    UpdateTopicRequest,
};
use tempfile::TempDir;

use crate::harness::make::{earliest, publish, published, record, records, subscribe, to_tail};
use crate::harness::{Nats, Reader, Seen, Server, soak};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.arg("copy").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn copy(from: &str, to: &str, more: &[&str]) -> Output {
    let mut command = command(&[&[from, to], more].concat());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn copied(from: &str, to: &str) -> String {
    let output = copy(from, to, &[]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn refusal(output: &Output, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(wanted), "{said}");
}

async fn fleet(nats: &Nats) -> Server {
    let url = nats.url();
    Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await
}

/// Content of a topic as users see it: batches with their trace contexts, without values assigned by the server.
async fn content(server: &Server, topic: &str) -> Vec<(Vec<streamway::proto::v1::Record>, String)> {
    let mut client = server.client().await;
    let request = to_tail(subscribe(topic, earliest()));
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let mut batches = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        batches.extend(message.batches.into_iter().map(|batch| (batch.records, batch.traceparent)));
    }
    batches
}

/// A server with three topics: one with everything a record may contain, one with retention, and an empty one.
async fn filled() -> Server {
    let server = Server::start().await;
    let mut client = server.client().await;
    for i in 0..50_u8 {
        let mut one = record(format!("value {i}"));
        one.key = vec![i, 0xff].into();
        one.headers.insert("header".into(), format!("of {i}"));
        one.event_time = Some(prost_types::Timestamp { seconds: -5, nanos: 7 });
        let batch = publish("everything", vec![one, record(""), record(vec![i; 2000])]);
        client.publish(PublishRequest { traceparent: TRACE.into(), ..batch }).await.unwrap();
    }
    let mut topics = server.topics().await;
    let retention = Some(Retention { max_records: 1000, ..Retention::default() });
    for (name, retention) in [("kept", retention), ("empty", None)] {
        let topic = Some(Topic { name: name.into(), retention, ..Topic::default() });
        topics.create_topic(CreateTopicRequest { topic }).await.unwrap();
    }
    published(&mut client, "kept", records("k", 20)).await;
    server
}

async fn is_same(a: &Server, b: &Server) {
    for topic in ["everything", "kept", "empty"] {
        assert_eq!(content(a, topic).await, content(b, topic).await, "{topic}");
        let get = async |server: &Server| {
            let request = GetTopicRequest { name: topic.into() };
            let topic = server.topics().await.get_topic(request).await.unwrap().into_inner().topic.unwrap();
            topic.retention.unwrap_or_default()
        };
        assert_eq!(get(a).await, get(b).await, "{topic}");
    }
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_come_through_a_backup_as_they_were() {
    let (source, dir) = (filled().await, TempDir::new().unwrap());
    let file = path(&dir, "all.backup");
    assert!(copied(&source.url(), &file).await.contains("copied 170 records"));
    refusal(&copy(&source.url(), &file, &[]).await, "is there already");
    let target = Server::start().await;
    assert!(copied(&file, &target.url()).await.contains("copied 170 records"));
    is_same(&source, &target).await;
    // A second run stores nothing twice, however long ago the first one was.
    assert!(copied(&file, &target.url()).await.contains("copied 0 records"));
    is_same(&source, &target).await;
    let one = Server::start().await;
    assert!(copy(&file, &one.url(), &["-t", "kept"]).await.status.success());
    assert_eq!(content(&one, "kept").await, content(&source, "kept").await);
    refusal(&copy(&file, &one.url(), &["-t", "none"]).await, "holds no topic none");
    // What was published since is left alone, and so is a topic that was not restored from this backup.
    published(&mut one.client().await, "kept", records("x", 1)).await;
    assert!(copied(&file, &one.url()).await.contains("20 were there already"));
    assert_eq!(content(&one, "kept").await.len(), content(&source, "kept").await.len() + 1);
    let other = Server::start().await;
    published(&mut other.client().await, "everything", records("x", 1)).await;
    refusal(&copy(&file, &other.url(), &[]).await, "exists at the destination, and is not a restore");
    refusal(&copy(&source.url(), &other.url(), &[]).await, "other records than the source, at offset 0");
    published(&mut target.client().await, "kept", records("x", 1)).await;
    refusal(
        &copy(&source.url(), &target.url(), &["-t", "kept"]).await,
        "more records than the source, at offset",
    );
}

/// Copies from one machine to a fleet and back; records published between two runs are copied by the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_move_from_one_machine_to_a_fleet_and_back() {
    let (source, nats, dir) = (filled().await, Nats::single(""), TempDir::new().unwrap());
    let target = fleet(&nats).await;
    let map = path(&dir, "offsets");
    assert!(copy(&source.url(), &target.url(), &["--offsets", &map]).await.status.success());
    is_same(&source, &target).await;
    published(&mut source.client().await, "everything", records("late", 3)).await;
    let output = copy(&source.url(), &target.url(), &["--offsets", &map]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("copied 3 records"), "{output:?}");
    is_same(&source, &target).await;
    offsets_are_right(&source, &target, Path::new(&map)).await;
    // A copy through a file turns offsets with gaps into dense ones.
    let (back, file) = (Server::start().await, path(&dir, "fleet.backup"));
    copied(&target.url(), &file).await;
    copied(&file, &back.url()).await;
    is_same(&source, &back).await;
}

/// Asserts that the record at each offset of the source is at the offset given by the map.
async fn offsets_are_right(source: &Server, target: &Server, map: &Path) {
    let all = async |server: &Server| {
        let request = to_tail(subscribe("everything", earliest()));
        let reader = Reader::open(&mut server.client().await, request).await.unwrap();
        reader.sparse().rest().await.unwrap()
    };
    let (from, to) = (all(source).await, all(target).await);
    let find = |of: &[Seen], offset: u64| of.iter().find(|seen| seen.offset == offset).unwrap().text();
    let mut records = 0;
    for line in std::fs::read_to_string(map).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["topic"] != "everything" {
            continue;
        }
        let number = |name: &str| line[name].as_u64().unwrap();
        for i in 0..number("records") {
            assert_eq!(find(&from, number("source_offset") + i), find(&to, number("offset") + i));
            records += 1;
        }
    }
    assert_eq!(records, from.len());
}

/// Kills a copy at random moments until a run completes.
async fn killed_and_resumed(from: &str, to: &str, done: impl Fn() -> bool) {
    for round in 0..100 {
        let mut child = command(&[from, to]).spawn().unwrap();
        // A random delay, not a wait for a condition.
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(5..60) + round * 10)).await;
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        // A kill may also come after the finished backup has got its name and before the exit.
        if output.status.success() || Path::new(to).exists() {
            println!("{round} kills");
            assert!(done());
            assert!(round > 0 || soak(), "no run was interrupted");
            return;
        }
        assert_eq!(output.status.code(), None, "{output:?}");
    }
    panic!("it never came to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_killed_goes_on_and_stores_everything_once() {
    let (source, dir) = (filled().await, TempDir::new().unwrap());
    let mut client = source.client().await;
    for i in 0..300 {
        published(&mut client, "everything", records(&format!("{i:0>5000}/"), 20)).await;
    }
    let (target, file) = (Server::start().await, path(&dir, "killed.backup"));
    killed_and_resumed(&source.url(), &target.url(), || true).await;
    is_same(&source, &target).await;
    killed_and_resumed(&source.url(), &file, || Path::new(&file).exists()).await;
    assert!(!Path::new(&format!("{file}.partial")).exists());
    let restored = Server::start().await;
    killed_and_resumed(&file, &restored.url(), || true).await;
    is_same(&source, &restored).await;
}

/// P9, P10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_and_nothing_of_it_is_stored() {
    let (source, dir) = (filled().await, TempDir::new().unwrap());
    let (file, damaged) = (path(&dir, "good.backup"), path(&dir, "damaged.backup"));
    copied(&source.url(), &file).await;
    let good = std::fs::read(&file).unwrap();
    let target = Server::start().await;
    let refused = async |bytes: &[u8], wanted: &str| {
        std::fs::write(&damaged, bytes).unwrap();
        refusal(&copy(&damaged, &target.url(), &[]).await, wanted);
    };
    for _ in 0..if soak() { 200 } else { 10 } {
        let mut bad = good.clone();
        bad[fastrand::usize(24..good.len())] ^= 1 << fastrand::u8(0..8);
        refused(&bad, "is damaged at byte").await;
        refused(&good[..fastrand::usize(24..good.len())], "it is cut short").await;
    }
    refused(b"something else entirely, and long enough", "it is no backup of streamway").await;
    refused(&[&good[..], b"x"].concat(), "something follows its end").await;
    let topics = target.topics().await.list_topics(streamway::proto::v1::ListTopicsRequest::default()).await;
    assert!(topics.unwrap().into_inner().topics.is_empty(), "nothing was stored");
}

/// P3: a position of the topic that a backup had begun with may be valid in a topic that was restored since, but what follows
/// there are other records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_backup_is_not_continued_in_a_restored_topic() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    let mut client = server.client().await;
    let (early, full, later) = (path(&dir, "early"), path(&dir, "full"), path(&dir, "later"));
    for i in 0..10 {
        published(&mut client, "t", records(&format!("{i}-"), 2)).await;
    }
    copied(&server.url(), &early).await;
    published(&mut client, "t", records("old", 20)).await;
    copied(&server.url(), &full).await;
    // An interrupted run leaves the beginning of the file.
    let bytes = std::fs::read(&full).unwrap();
    std::fs::write(format!("{later}.partial"), &bytes[..bytes.len() / 2]).unwrap();
    let request = DeleteTopicRequest { name: "t".into(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(request).await.unwrap();
    copied(&early, &server.url()).await;
    published(&mut client, "t", records("new", 20)).await;
    refusal(&copy(&server.url(), &later, &[]).await, "deleted and created again since");
    assert!(!Path::new(&later).exists());
}

/// Ends of the frames of a backup, as docs/backup.md describes them; first that of the header.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![24];
    while let Some(head) = bytes.get(*ends.last().unwrap()..).and_then(|rest| rest.first_chunk::<4>()) {
        ends.push(ends.last().unwrap() + 12 + u32::from_le_bytes(*head) as usize);
    }
    ends
}

/// A backup that was interrupted anywhere becomes the file that it would have become, on both engines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_goes_on_exactly_where_it_was_interrupted() {
    let nats = Nats::single("");
    for server in [Server::start().await, fleet(&nats).await] {
        let dir = TempDir::new().unwrap();
        let mut client = server.client().await;
        for i in 0..6 {
            published(&mut client, "t", records(&format!("{i}-"), 1 + i % 3)).await;
        }
        let whole = path(&dir, "whole");
        copied(&server.url(), &whole).await;
        let bytes = std::fs::read(&whole).unwrap();
        let ends = frame_ends(&bytes);
        assert_eq!((ends.len(), ends.last()), (10, Some(&bytes.len())), "a topic, six batches, and two ends");
        // The last interruption is before the file gets its name. Within a frame, the frame is written again.
        for (n, end) in ends.iter().flat_map(|end| [*end, end - 3]).enumerate() {
            let file = path(&dir, &format!("{n}"));
            std::fs::write(format!("{file}.partial"), &bytes[..end]).unwrap();
            copied(&server.url(), &file).await;
            assert!(std::fs::read(&file).unwrap() == bytes, "interrupted after {end} bytes");
        }
    }
}

/// A restore that is killed between its last batch and the setting of the retention sets it when it is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_stored_everything_still_sets_the_retention() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    let name = || "t".to_owned();
    published(&mut server.client().await, "t", records("x", 5)).await;
    let kept = Retention { max_records: 1000, ..Retention::default() };
    let set = async |retention: Retention| {
        let topic = Some(Topic { name: name(), retention: Some(retention), ..Topic::default() });
        let request = UpdateTopicRequest { topic, update_mask: None };
        server.topics().await.update_topic(request).await.unwrap();
    };
    set(kept).await;
    let file = path(&dir, "all.backup");
    copied(&server.url(), &file).await;
    let request = DeleteTopicRequest { name: name(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(request).await.unwrap();
    copied(&file, &server.url()).await;
    // As it is when the last batch is stored.
    set(Retention::default()).await;
    copied(&file, &server.url()).await;
    let request = GetTopicRequest { name: name() };
    let topic = server.topics().await.get_topic(request).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.tail, topic.retention), (5, Some(kept)));
}
