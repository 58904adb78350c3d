//! `subscribe`: positions, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;

use super::{command, failure, run, stdout};
use crate::harness::{Server, signal};

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_file_continues_where_the_last_run_stopped() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pos");
    let read = || run(&server, &["subscribe", "t", "--resume-file", file.to_str().unwrap()], "");
    stdout(&run(&server, &["publish", "t"], "a\nb\n"));
    assert_eq!(stdout(&read()), "a\nb\n");
    assert_eq!(stdout(&read()), "");
    stdout(&run(&server, &["publish", "t"], "c\n"));
    assert_eq!(stdout(&read()), "c\n");
}

fn follow(server: &Server, topic: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let args = ["subscribe", topic, "--follow", "--from", "earliest"];
    let mut child = command(server, &args).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

#[tokio::test(flavor = "multi_thread")]
async fn following_ends_with_success_on_a_signal_and_on_a_closed_pipe() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "t"], "a\n"));
    for name in ["INT", "TERM", "a closed pipe"] {
        let (mut child, mut out) = follow(&server, "t");
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "a\n", "printed as soon as there is nothing more to print");
        if name == "a closed pipe" {
            // Noticed although nothing more is published.
            drop(out);
        } else {
            signal(child.id(), name);
        }
        let status = tokio::task::block_in_place(|| child.wait()).unwrap();
        let mut complaint = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        assert!(status.success(), "{name}: {status:?} {complaint}");
        assert_eq!(complaint, "", "{name}");
    }
}

/// Neither a backlog that is always ready nor a reader that has stopped keeps a signal waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_reading_of_a_backlog() {
    let server = Server::start().await;
    let line = "x".repeat(1000);
    let text: String = (0..60_000).map(|i| format!("{i:06}{line}\n")).collect();
    stdout(&run(&server, &["publish", "t"], &text));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pos");
    let args = ["subscribe", "t", "--resume-file", file.to_str().unwrap()];
    for read in [false, true] {
        // Kept by the first run where it was flushed before it blocked.
        let _ = std::fs::remove_file(&file);
        let mut child = command(&server, &args).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut buffer = vec![0; 1 << 20];
        out.read_exact(&mut buffer).unwrap();
        if !read {
            // It is blocked in a write by now.
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        let signalled = std::time::Instant::now();
        signal(child.id(), "TERM");
        let mut rest = Vec::new();
        if read {
            out.read_to_end(&mut rest).unwrap();
        }
        let status = tokio::task::block_in_place(|| child.wait()).unwrap();
        assert_eq!(status.code(), Some(130));
        assert!(signalled.elapsed() < std::time::Duration::from_secs(10));
        if read {
            buffer.extend(rest);
            let printed = buffer.iter().filter(|byte| **byte == b'\n').count();
            let position = std::fs::read_to_string(&file).unwrap();
            assert!(position.ends_with(&format!("_{printed:020} t\n")), "{printed} {position}");
        }
    }
}

/// Every topic keeps its order and its position, whichever record arrives first.
#[tokio::test(flavor = "multi_thread")]
async fn several_topics_are_read_at_once_each_from_its_position() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pos");
    let read = ["subscribe", "a", "b", "--print-topic", ":", "--resume-file", file.to_str().unwrap()];
    let sorted = || {
        let output = run(&server, &read, "");
        let mut lines: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
        lines.sort_by(|one, other| one[..1].cmp(&other[..1]));
        lines
    };
    stdout(&run(&server, &["publish", "a", "2", "1"], ""));
    stdout(&run(&server, &["publish", "b", "3"], ""));
    assert_eq!(sorted(), ["a:2", "a:1", "b:3"]);
    stdout(&run(&server, &["publish", "b", "4"], ""));
    assert_eq!(sorted(), ["b:4"]);
    let json = run(&server, &["subscribe", "a", "b", "-n", "1", "-o", "json"], "");
    assert!(stdout(&json).contains("{\"topic\":\"b\",\"offset\":\"0\""), "{json:?}");

    let (code, line) =
        failure(&run(&server, &["subscribe", "c", "--resume-file", file.to_str().unwrap()], ""));
    assert!(code == 2 && line.contains("is of the topic a"), "{line}");
    // Those that can be read are read.
    let output = run(&server, &["subscribe", "nosuch", "a"], "");
    let (code, line) = failure(&output);
    assert!(code == 1 && line.starts_with("error: nosuch: topic not found"), "{line}");
    assert_eq!(output.stdout, b"2\n1\n");
    // What would go on for ever ends, so that it is noticed.
    let from = format!("{:016x}_{:020}", 7, 0);
    let (code, _) = failure(&run(&server, &["subscribe", "a", "b", "--follow", "--from", &from], ""));
    assert_eq!(code, 1);
    let (code, line) = failure(&run(&server, &["subscribe", "a", "a"], ""));
    assert!(code == 2 && line.contains("twice"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_a_start_and_belongs_to_one_incarnation() {
    let server = Server::start().await;
    let published = run(&server, &["publish", "t", "a", "b", "-o", "json"], "");
    let next: serde_json::Value = serde_json::from_str(stdout(&published)).unwrap();
    let position = format!("{}_{:020}", next["next"]["epoch"].as_str().unwrap(), 1);
    let from = ["subscribe", "t", "--from", &position];
    assert_eq!(stdout(&run(&server, &from, "")), "b\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pos");
    // Version 0.1 stored positions in another form, without the topic.
    std::fs::write(&file, position.replace('_', ":")).unwrap();
    assert_eq!(
        stdout(&run(&server, &["subscribe", "t", "--resume-file", file.to_str().unwrap()], "")),
        "b\n"
    );
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("_00000000000000000002 t\n"));
    stdout(&run(&server, &["topics", "delete", "t"], ""));
    stdout(&run(&server, &["publish", "t", "c"], ""));
    let (code, line) = failure(&run(&server, &from, ""));
    assert!(code == 1 && line.contains("[EPOCH_CHANGED]"), "{line}");
}
