//! A file system that becomes read-only while the server runs, one that is read-only at its start, and one with short reads
//! and writes (P1, P7, P10).

use std::process::{Command, Stdio};

use tempfile::TempDir;
use tonic::Code;

use crate::harness::faults::FragileDisk;
use crate::harness::make::{publish, published, record, records};
use crate::harness::preload::Preload;
use crate::harness::{Server, metadata, read_all, refused};

const TOPIC: &str = "odd";

/// P1, P7: on a read-only file system nothing is acknowledged and reads continue; a start fails with the reason, changes
/// nothing, and succeeds once the file system is writable again.
#[tokio::test]
async fn a_file_system_that_turns_read_only_ends_writing_and_loses_nothing() {
    let disk = FragileDisk::mount(256 << 20);
    let data = disk.path().join("data");
    let mut server = Server::on(&data, &["--storage-journal-bytes", "8388608"]).await;
    let mut client = server.client().await;
    for i in 0..50 {
        published(&mut client, TOPIC, vec![record(format!("before-{i}"))]).await;
    }
    disk.turn_read_only();
    let status = client.publish(publish(TOPIC, records("unknown", 3))).await.expect_err("must be refused");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // If sealing the previous commit failed first, nothing of this one was written.
    let nothing_stored = metadata(&status)["side_effects"] == "none";
    let status = client.publish(publish(TOPIC, records("after", 1))).await.expect_err("must be refused");
    refused(&status, Code::Unavailable, "STORAGE_UNAVAILABLE");
    assert_eq!(server.ready_and_alive().await, (false, true));
    assert_eq!(read_all(&mut client, TOPIC).await.len(), 50, "what was acknowledged is served");
    let (exit, _) = server.stop("TERM", 10).await;
    assert!(exit.code().is_some_and(|code| code != 0), "{exit:?}");

    disk.mount_again();
    disk.remount("ro");
    let mut serve = Command::new("timeout");
    serve.args(["-s", "KILL", "30", env!("CARGO_BIN_EXE_streamway"), "serve", "--listen", "127.0.0.1:0"]);
    serve.args(["--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(&data).stdin(Stdio::null());
    let output = serve.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?}\n{said}", output.status);
    assert!(said.to_lowercase().contains("read-only file system"), "says why: {said}");

    disk.remount("rw");
    server.restart().await;
    let mut client = server.client().await;
    let texts: Vec<String> = read_all(&mut client, TOPIC).await.iter().map(|seen| seen.text()).collect();
    let before: Vec<String> = (0..50).map(|i| format!("before-{i}")).collect();
    assert_eq!(texts[..50], before);
    let unknown = &texts[50..];
    let whole = !nothing_stored && unknown == ["unknown0", "unknown1", "unknown2"];
    assert!(unknown.is_empty() || whole, "{unknown:?}, and nothing stored: {nothing_stored}");
    published(&mut client, TOPIC, records("on", 1)).await;
    server.sigterm().await;
}

/// P1, P10: short writes, short reads and interrupted system calls during commits, checkpoints, recovery after kill -9, and
/// reads from segments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_writes_that_do_less_than_asked_change_nothing() {
    let (preload, dir) = (Preload::new(), TempDir::new().unwrap());
    let args = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
    let args = [&args[..], &["--storage-cache-bytes", "65536"]].concat();
    preload.set_io_bytes_max(1777);
    let mut server = Server::under(preload.command(), dir.path(), &args).await;
    let mut want = Vec::new();
    for round in 0..3 {
        let mut client = server.client().await;
        for i in 0..40 {
            let text = format!("{round}-{i}/{}", "s".repeat(50_000 + 37 * i));
            published(&mut client, TOPIC, vec![record(text.as_bytes())]).await;
            want.push(text);
        }
        let seen = read_all(&mut client, TOPIC).await;
        assert!(seen.iter().map(|seen| seen.text()).eq(want.iter().cloned()), "{} records", seen.len());
        server.kill9().await;
        server.restart().await;
    }
    // The bytes on disk are the same as without short writes.
    preload.set_io_bytes_max(0);
    let seen = read_all(&mut server.client().await, TOPIC).await;
    assert!(seen.iter().map(|seen| seen.text()).eq(want), "{} records", seen.len());
    server.sigterm().await;
}
