//! Damaged files are reported, never silently skipped, truncated or served (P10).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tonic::Code;

use crate::harness::make::{earliest, published, record, subscribe};
use crate::harness::{Reader, Server, detail};

/// 40 records of 100 kB: several segments of 1 MiB each.
async fn filled(dir: &Path) -> Server {
    let mut server = Server::on(dir, &SMALL).await;
    let mut client = server.client().await;
    for i in 0..40_u8 {
        published(&mut client, "t", vec![record(vec![i; 100_000])]).await;
    }
    server.sigterm().await;
    server
}

const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];

/// Files under `dir` whose name contains this part, largest first.
fn files(root: &Path, part: &str) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else if entry.path().strip_prefix(root).unwrap().to_string_lossy().contains(part) {
                found.push(entry.path());
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).unwrap().len()));
    found
}

fn flip_a_bit(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_segment_is_reported_and_what_is_whole_is_served() {
    let dir = TempDir::new().unwrap();
    let mut server = filled(dir.path()).await;
    let segment = files(dir.path(), "seg").into_iter().next().expect("segments");
    flip_a_bit(&segment, 350_000);
    server.restart().await;
    let mut client = server.client().await;
    let mut reader = Reader::open(&mut client, subscribe("t", earliest())).await.unwrap();
    let mut seen = Vec::new();
    let status = loop {
        match reader.records().await {
            Ok(Some(more)) => seen.extend(more),
            Ok(None) => panic!("the call ended with status OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    assert_eq!(detail(&status).error_info().unwrap().reason, "DATA_DAMAGED");
    assert!(seen.len() < 40, "the damaged record was served");
    for (seen, i) in seen.iter().zip(0..) {
        assert!(seen.offset == u64::from(i) && seen.record.value.iter().all(|byte| *byte == i));
    }
    assert_eq!(reader.next.unwrap().offset, seen.len() as u64, "says where the damage begins");
}

#[tokio::test]
async fn a_flipped_bit_in_the_middle_of_the_journal_is_reported_at_the_start() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::on(dir.path(), &[]).await;
    let mut client = server.client().await;
    for i in 0..40_u8 {
        published(&mut client, "t", vec![record(vec![i; 10_000])]).await;
    }
    // As after a power cut, everything is in the journal only.
    server.kill9().await;
    let journal = files(dir.path(), "journal").into_iter().next().expect("a journal");
    // In the middle of a record, because no checksum covers the padding between commits.
    let bytes = std::fs::read(&journal).unwrap();
    let record = bytes.windows(100).position(|window| window == [20; 100]).expect("a record");
    flip_a_bit(&journal, record + 50);
    let before = std::fs::read(&journal).unwrap();
    let mut serve = Command::new("timeout");
    serve.args(["-s", "KILL", "30", env!("CARGO_BIN_EXE_streamway"), "serve", "--listen", "127.0.0.1:0"]);
    serve.args(["--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()).stdin(Stdio::null());
    let output = serve.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?}\n{said}", output.status);
    assert!(said.contains("damaged") && said.contains("journal-"), "names the file: {said}");
    let command = format!("streamway check --repair {}", dir.path().display());
    assert!(said.contains(&command), "names the command: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(std::fs::read(&journal).unwrap(), before, "nothing was changed");
}

/// A torn commit, as a power cut leaves it, was never acknowledged.
#[tokio::test]
async fn a_torn_last_commit_is_truncated_and_the_server_starts() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::on(dir.path(), &[]).await;
    published(&mut server.client().await, "t", vec![record(vec![1; 10_000])]).await;
    server.kill9().await;
    let journal = files(dir.path(), "journal").into_iter().next().expect("a journal");
    let bytes = std::fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(4096);
    let mut torn = bytes[..end].to_vec();
    torn.extend([0xa5; 3000]);
    std::fs::write(&journal, torn).unwrap();
    server.restart().await;
    let seen = crate::harness::read_all(&mut server.client().await, "t").await;
    assert_eq!(seen.len(), 1);
}

/// Runs `streamway check`; returns its exit code and its output.
fn check(args: &[&str], dir: &Path) -> (i32, String) {
    let mut check = Command::new(env!("CARGO_BIN_EXE_streamway"));
    let output = check.arg("check").args(args).arg(dir).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().expect("ends by itself"), said)
}

/// Runs `streamway check -o json`; returns its exit code and its report.
fn check_json(args: &[&str], dir: &Path) -> (i32, serde_json::Value) {
    let (code, said) = check(&[args, &["-o", "json"]].concat(), dir);
    (code, serde_json::from_str(&said).expect(&said))
}

#[tokio::test]
async fn check_tells_a_whole_directory_from_a_damaged_one_and_changes_neither() {
    let dir = TempDir::new().unwrap();
    let mut server = filled(dir.path()).await;
    let (code, said) = check(&[], dir.path());
    assert!(code == 0 && said.contains("whole") && said.contains('t'), "{code} {said}");
    server.restart().await;
    let (code, said) = check(&[], dir.path());
    assert!(code == 1 && said.contains("locked by another process"), "{code} {said}");
    let (code, _) = check(&["--repair"], dir.path());
    assert_eq!(code, 1, "a running server's directory is not repaired");
    server.kill9().await;
    assert_eq!(check(&[], dir.path()).0, 0, "what kill -9 leaves is no damage");
    let segment = files(dir.path(), "seg").into_iter().next().expect("segments");
    flip_a_bit(&segment, 350_000);
    let before = std::fs::read(&segment).unwrap();
    let (code, said) = check(&[], dir.path());
    assert_eq!(code, 3, "{said}");
    let name = segment.file_name().unwrap().to_string_lossy();
    assert!(said.contains(&*name) && said.contains("at byte"), "names file and place: {said}");
    let (code, report) = check_json(&[], dir.path());
    assert!(code == 3 && report["whole"] == false && report["topics"][0]["name"] == "t", "{report}");
    assert!(report["damages"][0]["file"].as_str().unwrap().ends_with(&*name), "{report}");
    assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");
    assert_eq!(check(&[], &dir.path().join("nothing")).0, 1);
}

#[tokio::test]
async fn a_repaired_directory_serves_what_is_whole_under_a_new_epoch() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::on(dir.path(), &SMALL).await;
    let mut client = server.client().await;
    published(&mut client, "spared", vec![record("kept")]).await;
    let mut last = None;
    for i in 0..40_u8 {
        last = Some(published(&mut client, "t", vec![record(vec![i; 100_000])]).await);
    }
    let old = crate::harness::make::next(&last.unwrap());
    let spared = published(&mut client, "spared", vec![record("too")]).await;
    server.sigterm().await;
    let largest = files(dir.path(), "seg").into_iter().next().expect("segments");
    flip_a_bit(&largest, 350_000);
    let (code, report) = check_json(&["--repair"], dir.path());
    let renewed = &report["repair"]["topics"][0];
    assert!(
        code == 3 && renewed["name"] == "t" && renewed["lost"][0]["first"].is_string(),
        "{code} {report}"
    );
    let (code, report) = check_json(&[], dir.path());
    assert!(code == 0 && report["whole"] == true && report.get("repair").is_none(), "whole again: {report}");
    server.restart().await;
    let mut client = server.client().await;
    let left = crate::harness::read_all(&mut client, "t").await;
    assert!(left.len() < 40 && left.len() >= 30, "{} of 40", left.len());
    let values: Vec<u8> = left.iter().map(|seen| seen.record.value[0]).collect();
    assert!(values.is_sorted_by(|a, b| a < b), "in order, each once: {values:?}");
    let resumed = Reader::open(&mut client, subscribe("t", crate::harness::make::at(&old))).await;
    let status = match resumed {
        Err(status) => status,
        Ok(mut reader) => reader.message().await.expect_err("the old position must be refused"),
    };
    assert_eq!(detail(&status).error_info().unwrap().reason, "EPOCH_CHANGED");
    let position = crate::harness::make::next(&spared);
    published(&mut client, "spared", vec![record("on")]).await;
    let mut reader =
        Reader::open(&mut client, subscribe("spared", crate::harness::make::at(&position))).await.unwrap();
    assert_eq!(reader.take(1).await[0].text(), "on", "a topic that lost nothing goes on");
}
