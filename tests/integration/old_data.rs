//! Data directories written by earlier versions, stored in `tests/data`, can be read and extended (P1, P5, P10).
//!
//! - `log-before-proven`: the catalog has neither the newest acknowledged group (`last_acked_commit`) nor the checksums
//!   of the files of request ids.
//! - `log-0.1.0`: of format 1, whose topics have no lineages.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use streamway::proto::v1::{ListTopicsRequest, PublishRequest};
use tempfile::TempDir;

use crate::harness::make::{publish, published, record};
use crate::harness::preload::Preload;
use crate::harness::{Server, read_all};

const TOPIC: &str = "old";
/// Times at which the images were made, in Unix seconds. The server runs with this clock, because it remembers request ids
/// only for minutes.
const MADE: i64 = 1_795_522_470;
const MADE_BY_0_1_0: i64 = 1_796_007_598;

fn unpack(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            unpack(&path, &to.join(entry.file_name()));
            continue;
        }
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
        fs::write(to.join(path.file_stem().unwrap()), bytes).unwrap();
    }
}

fn is_whole(dir: &Path) -> bool {
    let mut check = Command::new(env!("CARGO_BIN_EXE_streamway"));
    check.arg("check").arg(dir).status().unwrap().success()
}

async fn goes_on(image: &str) {
    let dir = TempDir::new().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/log-before-proven");
    unpack(&root.join(image), dir.path());
    assert!(is_whole(dir.path()), "{image}: check finds nothing");
    let mut want: Vec<String> = (0..60).map(|i| format!("{i:03} {}", "x".repeat(50_000))).collect();
    let preload = Preload::new();
    preload.set_clock(MADE - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64);
    let mut server = Server::under(preload.command(), dir.path(), &[]).await;
    for round in 0..3 {
        let mut client = server.client().await;
        let seen = read_all(&mut client, TOPIC).await;
        assert!(seen.iter().map(|seen| seen.text()).eq(want.iter().cloned()), "{image}: {}", seen.len());
        for line in [1, 30, 60] {
            let again =
                PublishRequest { request_id: format!("id-{line}"), ..publish(TOPIC, vec![record("again")]) };
            let receipt = client.publish(again).await.unwrap().into_inner().receipt.unwrap();
            assert!(receipt.duplicate && receipt.first_offset == line - 1, "{image}: {line} {receipt:?}");
        }
        published(&mut client, TOPIC, vec![record(format!("new{round}"))]).await;
        want.push(format!("new{round}"));
        // Records added by this version can be read after a stop and after a kill.
        if round == 0 {
            server.sigterm().await;
            assert!(is_whole(dir.path()), "{image}: check finds nothing after a stop");
        } else {
            server.kill9().await;
        }
        server.restart().await;
    }
}

#[tokio::test]
async fn a_directory_that_an_earlier_program_closed_is_read_and_written_on() {
    goes_on("stopped").await;
}

#[tokio::test]
async fn a_directory_that_an_earlier_program_was_killed_on_is_read_and_written_on() {
    goes_on("killed").await;
}

/// The format in the header of each catalog and journal. A server that runs may remove a file meanwhile.
fn formats(dir: &Path) -> Vec<u32> {
    let word = |bytes: Vec<u8>, at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let format = |path: std::path::PathBuf| match path.file_name()?.to_str()? {
        "catalog" => Some(word(fs::read(&path).ok()?, 8)),
        name if name.starts_with("journal-") => Some(word(fs::read(&path).ok()?, 12)),
        _ => None,
    };
    files.filter_map(format).collect()
}

/// What 0.1.0 wrote is whole: topics, settings, a trim, a deletion and request ids. From the first start on, the directory
/// is of format 2, which 0.1.0 refuses: its newest catalog and its newest journal say so.
#[tokio::test]
async fn a_directory_of_0_1_0_is_read_and_becomes_one_of_format_2() {
    for image in ["stopped", "killed"] {
        let dir = TempDir::new().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/log-0.1.0");
        unpack(&root.join(image), dir.path());
        assert!(is_whole(dir.path()) && formats(dir.path()).iter().all(|format| *format == 1), "{image}");
        let preload = Preload::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        preload.set_clock(MADE_BY_0_1_0 - now);
        let mut server = Server::under(preload.command(), dir.path(), &[]).await;
        assert!(formats(dir.path()).contains(&2), "{image}: {:?}", formats(dir.path()));
        let mut client = server.client().await;
        let orders = read_all(&mut client, "orders").await;
        let want = (0..30).map(|n| format!("{n:03} {}", "x".repeat(60_000)));
        assert!(orders.iter().map(|seen| seen.text()).eq(want), "{image}: {}", orders.len());
        let trimmed = read_all(&mut client, "trimmed").await;
        assert_eq!(
            trimmed.iter().map(|seen| (seen.offset, seen.text())).collect::<Vec<_>>(),
            [(3, "d".into())]
        );
        let listed =
            server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
        let kept: Vec<_> = listed.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(kept, ["orders", "trimmed"], "{image}");
        assert_eq!(listed.topics[0].retention.unwrap().max_records, 1_000_000, "{image}");
        assert!(listed.topics.iter().all(|topic| topic.restored_from.is_empty()), "{image}");
        let again = PublishRequest { request_id: "id-1".into(), ..publish("orders", vec![record("again")]) };
        let status = client.publish(again).await.unwrap_err();
        assert!(status.message().contains("stored before"), "{image}: {status:?}");
        published(&mut client, "orders", vec![record("new")]).await;
        server.sigterm().await;
        assert!(is_whole(dir.path()) && formats(dir.path()).iter().all(|format| *format == 2), "{image}");
        server.restart().await;
        assert_eq!(read_all(&mut server.client().await, "orders").await.len(), 31, "{image}");
    }
}
