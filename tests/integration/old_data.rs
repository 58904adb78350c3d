//! Data directories written by an earlier version, stored in `tests/data`, can be read and extended (P1, P5, P10). They are
//! of a version whose catalog had neither the newest acknowledged group (`last_acked_commit`)
//! nor the checksums of the files of request ids.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use streamway::proto::v1::PublishRequest;
use tempfile::TempDir;

use crate::harness::make::{publish, published, record};
use crate::harness::preload::Preload;
use crate::harness::{Server, read_all};

const TOPIC: &str = "old";
/// Time at which the images were made, in Unix seconds. The server runs with this clock, because it remembers request ids
/// only for minutes.
const MADE: i64 = 1_795_522_470;

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
