//! Positions after a restore from a backup: those up to its end go on, later ones fail loudly, on both engines.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamway::client::{Client, Options, Subscriber, SubscriberOptions};
use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, Position, RestoredFrom, Topic, TrimTopicRequest,
};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::make::{at, earliest, next, publish, published, record, records, subscribe, to_tail};
use crate::harness::{Nats, Reader, Seen, Server, metadata, refused, seed};

const TOPIC: &str = "orders";

async fn streamway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn copy(from: &str, to: &str) -> String {
    let output = streamway(&["copy", from, to]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn failed(output: &Output, code: i32, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(wanted) && said.lines().count() == 1, "{said}");
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

async fn topic(server: &Server) -> Topic {
    let request = GetTopicRequest { name: TOPIC.into() };
    server.topics().await.get_topic(request).await.unwrap().into_inner().topic.unwrap()
}

async fn delete(server: &Server) {
    let request = DeleteTopicRequest { name: TOPIC.into(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(request).await.unwrap();
}

/// Publishes this number of batches of one to three records.
async fn fill(server: &Server, batches: usize) {
    let mut client = server.client().await;
    for n in 0..batches {
        published(&mut client, TOPIC, records(&format!("{n}-{}-", fastrand::u32(..)), fastrand::usize(1..4)))
            .await;
    }
}

async fn read(server: &Server, position: &Position) -> Result<Vec<Seen>, tonic::Status> {
    let request = to_tail(subscribe(TOPIC, at(position)));
    Reader::open(&mut server.client().await, request).await?.sparse().rest().await
}

async fn all(server: &Server) -> Vec<Seen> {
    let request = to_tail(subscribe(TOPIC, earliest()));
    Reader::open(&mut server.client().await, request).await.unwrap().sparse().rest().await.unwrap()
}

fn same(found: &[Seen], wanted: &[Seen], what: &str) {
    let of = |seen: &[Seen]| seen.iter().map(|seen| (seen.offset, seen.text())).collect::<Vec<_>>();
    assert_eq!(of(found), of(wanted), "{what}");
}

/// Asserts that every position of an epoch up to the cut goes on with exactly the records after it, and that every later
/// one is told the cut.
async fn positions_hold(server: &Server, epoch: &str, cut: u64, known: &[Seen]) {
    let (here, kept) = (topic(server).await, all(server).await);
    let before: Vec<_> = known.iter().map(|seen| seen.offset).filter(|offset| *offset < cut).collect();
    for offset in before.into_iter().chain([cut]).filter(|offset| *offset >= here.earliest_offset) {
        let found = read(server, &Position { epoch: epoch.to_owned(), offset }).await.unwrap();
        let wanted = kept.iter().skip_while(|seen| seen.offset < offset).cloned().collect::<Vec<_>>();
        same(&found, &wanted, &format!("at {offset} of {epoch}"));
    }
    let beyond = known.iter().map(|seen| seen.offset + 1).filter(|offset| *offset > cut);
    for offset in beyond.chain([cut + 1, u64::MAX]) {
        let status = read(server, &Position { epoch: epoch.to_owned(), offset }).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
        let told = metadata(&status);
        assert_eq!((&told["resume_offset"], &told["resume_epoch"]), (&cut.to_string(), &here.epoch));
    }
}

/// Two backups, a restore of the older one, and a restore of a backup of that.
async fn goes_on(server: &Server) {
    fastrand::seed(seed());
    let dir = TempDir::new().unwrap();
    let [older, newer, second] = ["older", "newer", "second"].map(|name| path(&dir, name));
    fill(server, 12).await;
    copy(&server.url(), &older).await;
    let old = topic(server).await;
    fill(server, 6).await;
    copy(&server.url(), &newer).await;
    let held = topic(server).await;
    fill(server, 4).await;
    let known = all(server).await;
    for (file, cut) in [(&newer, held.tail), (&older, old.tail)] {
        delete(server).await;
        copy(file, &server.url()).await;
        let here = topic(server).await;
        assert_eq!(here.restored_from, [RestoredFrom { epoch: old.epoch.clone(), cut }]);
        assert!(here.epoch != old.epoch && here.tail == cut && here.earliest_offset == old.earliest_offset);
        let kept: Vec<_> = known.iter().filter(|seen| seen.offset < cut).cloned().collect();
        same(&all(server).await, &kept, "the same records at the same offsets");
        positions_hold(server, &old.epoch, cut, &known).await;
        // What is published later has later offsets, and changes nothing for earlier positions.
        fill(server, 3).await;
        positions_hold(server, &old.epoch, cut, &known).await;
        // The same restore again stores nothing.
        let before = all(server).await;
        assert!(copy(file, &server.url()).await.contains("copied 0 records"));
        same(&all(server).await, &before, "unchanged");
    }
    // A restore of a restore: both earlier epochs.
    let first = topic(server).await;
    let known_first = all(server).await;
    copy(&server.url(), &second).await;
    fill(server, 2).await;
    let known_late = all(server).await;
    delete(server).await;
    copy(&second, &server.url()).await;
    assert_eq!(topic(server).await.restored_from.len(), 2);
    same(&all(server).await, &known_first, "the same again");
    positions_hold(server, &first.epoch, first.tail, &known_late).await;
    positions_hold(server, &old.epoch, old.tail, &known).await;
    // An unrelated incarnation is not a restore of anything.
    delete(server).await;
    fill(server, 30).await;
    let status = read(server, &Position { epoch: old.epoch.clone(), offset: 0 }).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
    let output = streamway(&["copy", &second, &server.url()]).await;
    failed(&output, 1, "exists at the destination, and is not a restore of this backup");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_up_to_a_backups_end_outlive_a_deletion_on_one_machine() {
    let mut server = Server::start().await;
    goes_on(&server).await;
    // The lineage outlives a kill and a stop.
    let dir = TempDir::new().unwrap();
    let file = path(&dir, "last");
    copy(&server.url(), &file).await;
    let (old, known) = (topic(&server).await, all(&server).await);
    delete(&server).await;
    copy(&file, &server.url()).await;
    server.kill9().await;
    server.restart().await;
    positions_hold(&server, &old.epoch, old.tail, &known).await;
    server.sigterm().await;
    let checked = streamway(&["check", server.data_dir().to_str().unwrap()]).await;
    assert!(checked.status.success(), "{checked:?}");
    server.restart().await;
    positions_hold(&server, &old.epoch, old.tail, &known).await;
}

async fn fleet(nats: &Nats) -> Server {
    let url = nats.url();
    Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_up_to_a_backups_end_outlive_a_deletion_in_a_fleet() {
    let nats = Nats::single("");
    let (one, other) = (fleet(&nats).await, fleet(&nats).await);
    goes_on(&one).await;
    let dir = TempDir::new().unwrap();
    let file = path(&dir, "last");
    copy(&one.url(), &file).await;
    let (old, known) = (topic(&one).await, all(&one).await);
    delete(&one).await;
    copy(&file, &one.url()).await;
    positions_hold(&other, &old.epoch, old.tail, &known).await;
    fill(&other, 3).await;
    let late = all(&one).await;
    same(&late, &all(&other).await, "the same on both replicas");
    // A replica that has never seen the topic, and reads it from NATS.
    let third = fleet(&nats).await;
    same(&late, &all(&third).await, "the same on a new replica");
    positions_hold(&third, &old.epoch, old.tail, &known).await;
    // A request id of a restored topic is remembered by a replica that reads it from NATS.
    let request = || streamway::proto::v1::PublishRequest {
        request_id: "once".into(),
        ..publish(TOPIC, vec![record("once")])
    };
    let receipt = one.client().await.publish(request()).await.unwrap().into_inner().receipt.unwrap();
    let fourth = fleet(&nats).await;
    let again = fourth.client().await.publish(request()).await.unwrap().into_inner().receipt.unwrap();
    assert!(again.duplicate && again.first_offset == receipt.first_offset, "{again:?} {receipt:?}");
    assert_eq!(next(&again), next(&receipt));
}

/// Offsets of the other engine cannot be kept: they are mapped, with a warning, and the lineage is empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_the_other_engine_is_restored_without_positions() {
    let (nats, dir) = (Nats::single(""), TempDir::new().unwrap());
    let (one, many) = (Server::start().await, fleet(&nats).await);
    fill(&one, 5).await;
    let file = path(&dir, "one");
    copy(&one.url(), &file).await;
    assert!(
        copy(&file, &many.url()).await.contains("warning: topic orders: positions and groups are not kept")
    );
    assert!(topic(&many).await.restored_from.is_empty());
    let texts = |seen: Vec<Seen>| seen.iter().map(Seen::text).collect::<Vec<_>>();
    assert_eq!(texts(all(&many).await), texts(all(&one).await));
    let old = topic(&one).await;
    let status = read(&many, &Position { epoch: old.epoch, offset: 0 }).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
}

/// A topic that was trimmed, to its middle or to its tail, keeps its first offset; one without records its cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_and_empty_topics_keep_their_offsets() {
    let nats = Nats::single("");
    for server in [Server::start().await, fleet(&nats).await] {
        let dir = TempDir::new().unwrap();
        fill(&server, 10).await;
        for (name, share) in [("half", 2), ("none", 1)] {
            let old = topic(&server).await;
            let before_offset = old.tail / share;
            let trim = TrimTopicRequest { name: TOPIC.into(), before_offset, ..TrimTopicRequest::default() };
            server.topics().await.trim_topic(trim).await.unwrap();
            let (old, known, file) = (topic(&server).await, all(&server).await, path(&dir, name));
            assert!(old.earliest_offset > 0 && (share == 2 || known.is_empty()));
            copy(&server.url(), &file).await;
            delete(&server).await;
            copy(&file, &server.url()).await;
            let here = topic(&server).await;
            assert_eq!((here.earliest_offset, here.tail), (old.earliest_offset, old.tail));
            same(&all(&server).await, &known, name);
            positions_hold(&server, &old.epoch, old.tail, &known).await;
            let status = read(&server, &Position { epoch: old.epoch, offset: 0 }).await.unwrap_err();
            refused(&status, Code::OutOfRange, "OFFSET_TRIMMED");
            fill(&server, 3).await;
        }
        // A topic that never had a record.
        delete(&server).await;
        let request = CreateTopicRequest { topic: Some(Topic { name: TOPIC.into(), ..Topic::default() }) };
        server.topics().await.create_topic(request).await.unwrap();
        let (old, file) = (topic(&server).await, path(&dir, "new"));
        copy(&server.url(), &file).await;
        delete(&server).await;
        copy(&file, &server.url()).await;
        positions_hold(&server, &old.epoch, 0, &[]).await;
    }
}

/// The server is killed at random moments while a backup is restored, which goes on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_outlives_kills_of_the_server() {
    fastrand::seed(seed());
    let (source, dir) = (Server::start().await, TempDir::new().unwrap());
    let mut client = source.client().await;
    for n in 0..150 {
        published(&mut client, TOPIC, records(&format!("{n:0>20000}/"), 3)).await;
    }
    let (file, old) = (path(&dir, "backup"), topic(&source).await);
    copy(&source.url(), &file).await;
    let mut target = Server::start().await;
    let mut kills = 0;
    loop {
        let run = tokio::spawn({
            let (file, url) = (file.clone(), target.url());
            async move { streamway(&["copy", "--retry-for", "0s", &file, &url]).await }
        });
        // A random delay, not a wait for a condition.
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(5..80) + kills * 20)).await;
        target.kill9().await;
        target.restart().await;
        if run.await.unwrap().status.success() {
            break;
        }
        kills += 1;
    }
    println!("{kills} kills");
    same(&all(&target).await, &all(&source).await, "everything once, at its offset");
    for offset in [0, 1, old.tail / 2, old.tail] {
        let found = read(&target, &Position { epoch: old.epoch.clone(), offset }).await.unwrap();
        assert_eq!(found.len() as u64, old.tail - offset);
    }
}

/// A subscriber outlives the loss of a data directory: it resumes by itself at the restored server, and so does a resume
/// file. `--offsets` says that offsets are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_resumes_by_itself_at_a_restored_server() {
    let (lost, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut server = Server::on(lost.path(), &[]).await;
    fill(&server, 5).await;
    let [file, resume, map] = ["backup", "position", "map"].map(|name| path(&dir, name));
    let client = Client::new(Options::new(server.url())).unwrap();
    let mut subscriber = client.subscribe(SubscriberOptions::from_earliest(TOPIC));
    let (old, mut seen) = (topic(&server).await, Vec::new());
    let mut upto = async |subscriber: &mut Subscriber, tail: u64| {
        while seen.last().is_none_or(|last| last + 1 < tail) {
            let delivery = subscriber.next().await.unwrap().unwrap();
            seen.extend(delivery.records().map(|record| record.unwrap().offset.get()));
        }
        seen.clone()
    };
    assert_eq!(upto(&mut subscriber, old.tail).await.len() as u64, old.tail);
    let args = ["--server", &server.url(), "subscribe", TOPIC, "--from", "earliest", "--max", "3"];
    let first = streamway(&[&args[..], &["--resume-file", &resume]].concat()).await;
    assert!(first.status.success(), "{first:?}");
    copy(&server.url(), &file).await;
    server.kill9().await;
    for entry in std::fs::read_dir(lost.path()).unwrap().map(Result::unwrap) {
        let entry = entry.path();
        if entry.is_dir() {
            std::fs::remove_dir_all(entry).unwrap()
        } else {
            std::fs::remove_file(entry).unwrap()
        }
    }
    server.restart().await;
    let restored = streamway(&["copy", &file, &server.url(), "--offsets", &map]).await;
    assert!(restored.status.success(), "{restored:?}");
    fill(&server, 2).await;
    let here = topic(&server).await;
    assert_ne!(here.epoch, old.epoch);
    let offsets = upto(&mut subscriber, here.tail).await;
    assert_eq!(offsets, (0..here.tail).collect::<Vec<_>>(), "each record once");
    let rest = streamway(&["--server", &server.url(), "subscribe", TOPIC, "--resume-file", &resume]).await;
    assert!(rest.status.success(), "{rest:?}");
    assert_eq!(String::from_utf8(rest.stdout).unwrap().lines().count() as u64, here.tail - 3);
    assert!(std::fs::read_to_string(&resume).unwrap().starts_with(&here.epoch));
    for line in std::fs::read_to_string(&map).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["offset"], &line["epoch"]), (&line["source_offset"], &here.epoch.clone().into()));
    }
}

/// `streamway check` reads backups: what is in them, and whether they are whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_checked() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    fill(&server, 40).await;
    let (file, here) = (path(&dir, "good"), topic(&server).await);
    copy(&server.url(), &file).await;
    let output = streamway(&["check", &file]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("whole: every checksum matches"), "{said}");
    let row: Vec<_> = said.lines().nth(1).unwrap().split_whitespace().map(str::to_owned).collect();
    let tail = here.tail.to_string();
    assert_eq!(row, [TOPIC, &here.epoch, "0", &tail, &tail, "40"], "{said}");
    let json = async |file: &str| -> serde_json::Value {
        serde_json::from_slice(&streamway(&["check", file, "-o", "json"]).await.stdout).unwrap()
    };
    let report = json(&file).await;
    assert!(report["whole"] == true && report["kind"] == "BACKUP", "{report}");
    assert!(report["topics"][0]["epoch"] == here.epoch && report["topics"][0]["tail"] == tail, "{report}");
    let copied = streamway(&["copy", &server.url(), &path(&dir, "second"), "-o", "json"]).await;
    let copied: serde_json::Value = serde_json::from_slice(&copied.stdout).unwrap();
    assert!(copied["topics"] == "1" && copied["copiedRecords"] == tail, "{copied}");
    let good = std::fs::read(&file).unwrap();
    let bad = path(&dir, "bad");
    for _ in 0..10 {
        let mut flipped = good.clone();
        flipped[fastrand::usize(24..good.len())] ^= 1 << fastrand::u8(0..8);
        for bytes in [&flipped[..], &good[..fastrand::usize(24..good.len())], &[&good[..], b"x"].concat()] {
            std::fs::write(&bad, bytes).unwrap();
            let output = streamway(&["check", &bad]).await;
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(said.contains("damage: ") && !said.contains("whole"), "{said}");
            let row = said.lines().nth(1).filter(|row| row.starts_with(TOPIC));
            let held = row.map(|row| row.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap());
            assert!(held.is_none_or(|tail| tail <= here.tail), "{said}");
        }
    }
    let report = json(&bad).await;
    assert!(report["whole"] == false && report["damages"][0]["byte"].is_string(), "{report}");
    std::fs::write(&bad, "something else entirely, and long enough").unwrap();
    failed(&streamway(&["check", &bad]).await, 1, "it is no backup of streamway");
    std::fs::write(&bad, "").unwrap();
    failed(&streamway(&["check", &bad]).await, 1, "it is no backup of streamway");
    failed(&streamway(&["check", "--repair", &file]).await, 2, "--repair is for a data directory");
    failed(&streamway(&["check", &path(&dir, "nothing")]).await, 1, "neither a data directory nor a backup");
    // A directory of something else is not called whole, and no error names a flag that `check` does not have.
    let output = streamway(&["check", dir.path().to_str().unwrap()]).await;
    failed(&output, 1, "is not a data directory");
    let output = streamway(&["check", server.data_dir().to_str().unwrap()]).await;
    failed(&output, 1, "is locked by another process: stop the server first");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("--data-dir"));
    assert!(Path::new(&file).exists());
}
