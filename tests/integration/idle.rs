//! An idle server uses no processor time: no thread is busy, also after faults and recoveries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use streamway::proto::v1::{CreateTopicRequest, GetTopicRequest, Retention, Topic, TrimTopicRequest};
use tempfile::TempDir;

use crate::harness::faults::{Fault, SmallDisk};
use crate::harness::make::{earliest, publish, published, record, records, subscribe};
use crate::harness::{Reader, Server, within};

const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];

/// Processor time of each thread with its name, in hundredths of a second.
fn used(pid: u32) -> BTreeMap<u32, (String, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let stats = tasks.filter_map(|task| {
        let task = task.ok()?;
        // comm (2) is in parentheses; utime and stime are 14 and 15: proc(5).
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) =
            (stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned(), stat.rsplit_once(") ")?.1);
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, (name, ticks)))
    });
    stats.collect()
}

/// Waits for a second in which every thread is idle. A spinning thread gets processor time in every second, however busy
/// the machine is.
async fn comes_to_rest(server: &Server, when: &str) {
    /// A twentieth of a core.
    const TICKS_MAX: u64 = 5;
    let mut busy = Vec::new();
    for _ in 0..40 {
        let before = used(server.pid());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let since = used(server.pid()).into_iter().map(|(id, (name, ticks))| {
            let began = before.get(&id).map_or(0, |(_, ticks)| *ticks);
            (ticks.saturating_sub(began), name)
        });
        busy = since.filter(|(ticks, _)| *ticks > TICKS_MAX).collect();
        if busy.is_empty() {
            return;
        }
    }
    panic!("{when}: busy without end, in hundredths of the last second: {busy:?}");
}

async fn with_retention(server: &Server, name: &str, retention: Retention) {
    let topic = Topic { name: name.into(), retention: Some(retention), ..Topic::default() };
    server.topics().await.create_topic(CreateTopicRequest { topic: Some(topic) }).await.unwrap();
}

fn an_hour() -> Retention {
    let max_age = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    Retention { max_age, ..Retention::default() }
}

async fn fill(server: &Server, topic: &str, batches: usize) {
    let mut client = server.client().await;
    for _ in 0..batches {
        published(&mut client, topic, vec![record(vec![b'i'; 100_000])]).await;
    }
}

fn first_segment(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    files.min().expect("a segment")
}

/// Covers a server at rest, after kill -9, and after damage was trimmed away with retention by age set, which once kept
/// the storage thread busy for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_thread_is_busy_after_recovery_and_after_damage_was_trimmed() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::on(dir.path(), &SMALL).await;
    for n in 0..20 {
        let count = Retention { max_records: 3, ..an_hour() };
        with_retention(&server, &format!("t{n}"), if n % 2 == 0 { an_hour() } else { count }).await;
        fill(&server, &format!("t{n}"), 4).await;
    }
    fill(&server, "t0", 40).await;
    comes_to_rest(&server, "filled").await;
    server.kill9().await;
    server.restart().await;
    comes_to_rest(&server, "recovered").await;
    server.sigterm().await;
    let segment = first_segment(dir.path());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    server.restart().await;
    let mut client = server.client().await;
    if let Ok(mut reader) = Reader::open(&mut client, subscribe("t0", earliest())).await {
        reader.message().await.expect_err("damaged");
    }
    comes_to_rest(&server, "damaged").await;
    let mut topics = server.topics().await;
    let tail = topics.get_topic(GetTopicRequest { name: "t0".into() }).await.unwrap().into_inner();
    let before_offset = tail.topic.unwrap().tail - 1;
    let trim = TrimTopicRequest { name: "t0".into(), before_offset, ..TrimTopicRequest::default() };
    topics.trim_topic(trim).await.unwrap();
    let goes = async {
        while segment.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(60, "the end of the trimmed file", goes).await;
    comes_to_rest(&server, "trimmed").await;
}

/// Covers a full disk, a restart on it, and a failed sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_thread_is_busy_while_the_disk_is_full_or_has_failed() {
    let disk = SmallDisk::mount(12 << 20);
    let mut server = Server::on(&disk.path().join("data"), &SMALL).await;
    with_retention(&server, "full", an_hour()).await;
    let mut client = server.client().await;
    while client.publish(publish("full", vec![record(vec![b'f'; 100_000])])).await.is_ok() {}
    comes_to_rest(&server, "full").await;
    server.kill9().await;
    server.restart().await;
    comes_to_rest(&server, "started on a full disk").await;
    server.kill9().await;

    let server = Server::with(&SMALL).await;
    let mut client = server.client().await;
    published(&mut client, "failed", records("a", 3)).await;
    let failing = Fault::inject(server.pid(), "fdatasync:error=EIO").await;
    client.publish(publish("failed", records("b", 3))).await.expect_err("it fails");
    drop(failing);
    comes_to_rest(&server, "failed").await;
}
