//! The command line as a user meets it: output, exit codes, pipes, signals.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use streamway::proto::v1::ListTopicsRequest;

use crate::harness::{Server, signal, within};

fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).env("STREAMWAY_SERVER", server.url()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with this on its standard input.
fn run(server: &Server, args: &[&str], input: &str) -> Output {
    let mut child = command(server, args).stdin(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Exit code, and the one line that says why.
fn failure(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    (output.status.code().unwrap(), lines[0].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_back_as_they_were() {
    let server = Server::start().await;
    let lines = "one\n\n  three \r\nvier ü\nlast";
    stdout(&run(&server, &["publish", "lines"], lines));
    assert_eq!(stdout(&run(&server, &["subscribe", "lines"], "")), format!("{lines}\n"));
    let last = run(&server, &["subscribe", "lines", "--from", "-2", "--no-newline"], "");
    assert_eq!(stdout(&last), "vier ülast");
    let one = run(&server, &["subscribe", "lines", "--from", "1h ago", "-n", "1"], "");
    assert_eq!(stdout(&one), "one\n");
    let keyed = ["publish", "keyed", "-k", "=", "-H", "a=b"];
    stdout(&run(&server, &keyed, "k=v=w\n"));
    assert_eq!(stdout(&run(&server, &["subscribe", "keyed", "--print-key", ": "], "")), "k: v=w\n");
    let json = run(&server, &["subscribe", "keyed", "--output", "json"], "");
    let json: serde_json::Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(
        (&json["key"], &json["value"], &json["headers"]["a"]),
        (&"k".into(), &"v=w".into(), &"b".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_an_import_under_its_name_stores_nothing_twice() {
    let server = Server::start().await;
    let text: String = (0..2500).map(|i| format!("line {i}\n")).collect();
    let import = ["publish", "import", "--request-id-prefix", "monday"];
    for _ in 0..2 {
        stdout(&run(&server, &import, &text));
    }
    assert_eq!(stdout(&run(&server, &["subscribe", "import"], "")), text);
    // Another input, or other batches, under a name that was used.
    let other: Vec<&str> = import.iter().chain(&["--batch-records", "999"]).copied().collect();
    for (args, text) in [(&import[..], &text[..text.len() / 2]), (&other[..], &text)] {
        let (code, line) = failure(&run(&server, args, text));
        assert!(code == 1 && line.contains("differ from the first run"), "{line}");
    }
}

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
            assert!(position.trim().ends_with(&format!(":{printed}")), "{printed} {position}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_to_do_and_have_their_exit_codes() {
    let server = Server::start().await;
    let fail = |args: &[&str]| failure(&run(&server, args, "x\n"));
    let (code, line) = fail(&["topics", "describe", "nope"]);
    assert!(code == 1 && line.contains("[TOPIC_NOT_FOUND]; check the topic's name"), "{line}");
    let (code, line) = fail(&["publish", "Bad"]);
    assert!(code == 2 && line.contains("topic name must begin with"), "{line}");
    let (code, line) = fail(&["publish", "t", "--file", "/nonexistent"]);
    assert!(code == 2 && line.contains("/nonexistent"), "{line}");
    let (code, line) = fail(&["--server", "http://127.0.0.1:1", "publish", "t"]);
    assert!(code == 1 && line.contains("cannot reach http://127.0.0.1:1"), "{line}");
    assert!(line.contains("nothing was acknowledged"), "{line}");
    let (code, line) = fail(&["publish", "t", "--key-separator", "="]);
    assert!(code == 1 && line.contains("line 1 has no key separator"), "{line}");
    let (code, line) = fail(&["--server", "http://127.0.0.1:1", "subscribe", "t"]);
    assert!(code == 1 && line.contains("is the server running"), "{line}");
    // What only reads makes no topic.
    for read in [&["subscribe", "nope"][..], &["subscribe", "nope", "--from", "5", "--follow"]] {
        let (code, line) = fail(read);
        assert!(code == 1 && line.contains("[TOPIC_NOT_FOUND]; check the topic's name"), "{line}");
    }
    assert!(!stdout(&run(&server, &["topics", "list"], "")).contains("nope"));
    stdout(&run(&server, &["publish", "t"], "x\n"));
    let (code, line) = fail(&["subscribe", "t", "--from", "99"]);
    assert!(code == 1 && line.contains("[OFFSET_BEYOND_TAIL]"), "{line}");
    let (code, line) = fail(&["subscribe", "t", "--from", "yesterday"]);
    assert!(code == 2 && line.contains("earliest, latest, an offset"), "{line}");
    let (code, line) = fail(&["serve", "--drain-delay", "9s"]);
    assert!(code == 2 && line.contains("drain_delay"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_has_the_exit_codes_of_grpc_health_probe() {
    let server = Server::start().await;
    let admin = server.admin().to_string();
    let code = |args: &[&str]| run(&server, &[&["healthcheck"], args].concat(), "").status.code().unwrap();
    assert_eq!(code(&["--addr", &admin]), 0);
    assert_eq!(code(&["--addr", &admin, "--service", "streamway.v1.StreamService"]), 0);
    assert_eq!(code(&["--no-such-flag"]), 1);
    let after_a_value = run(&server, &["--server", "http://x:1", "healthcheck", "--no-such-flag"], "");
    assert_eq!(after_a_value.status.code(), Some(1));
    assert_eq!(code(&["--addr", "127.0.0.1:1"]), 2);
    assert_eq!(code(&["--addr", &admin, "--service", "nope"]), 3);
    // Its container's configuration is where the server is.
    let mut command = command(&server, &["healthcheck"]);
    command.env("STREAMWAY_ADMIN_LISTEN", format!("0.0.0.0:{}", server.admin().port()));
    assert!(command.output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_listed_as_a_table_and_as_json() {
    let server = Server::start().await;
    stdout(&run(&server, &["topics", "create", "orders", "--max-age", "7d"], ""));
    stdout(&run(&server, &["publish", "orders"], "a\nb\n"));
    let table = run(&server, &["topics", "list"], "");
    let lines: Vec<&str> = stdout(&table).lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("orders"), "{lines:?}");
    stdout(&run(&server, &["topics", "update", "orders", "--max-records", "10", "--max-age", "0"], ""));
    let json = run(&server, &["topics", "describe", "orders", "--output", "json"], "");
    let json: serde_json::Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!((&json["tail"], &json["earliest_offset"]), (&2.into(), &0.into()));
    assert_eq!(json["retention"]["max_records"], 10);
    assert_eq!(json["retention"]["max_age_seconds"], 0);
    let trimmed = run(&server, &["topics", "trim", "orders", "--before", "2"], "");
    assert!(stdout(&trimmed).contains("the earliest offset of orders is now 2"));
    stdout(&run(&server, &["topics", "delete", "orders"], ""));
    assert_eq!(stdout(&run(&server, &["topics", "list", "--output", "json"], "")), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn printing_into_a_full_disk_is_a_failure() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "t"], "a\n"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command(&server, &["subscribe", "t"]).stdout(full).output().unwrap();
    let (code, line) = failure(&output);
    assert!(code == 1 && line.contains("standard output"), "{line}");
    for args in [&["completions", "bash"][..], &["serve", "--check-config"], &["topics", "list"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(failure(&command(&server, args).stdout(full).output().unwrap()).0, 1, "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_numbers_are_invalid_arguments() {
    let server = Server::start().await;
    for args in [
        &["bench", "publish", "--batch", "4294967295"][..],
        &["bench", "publish", "--size", "18446744073709551615"],
        &["bench", "fanout", "--subscribers", "4294967295"],
        &["topics", "list", "--server", "http://127.0.0.1:99999"],
    ] {
        let (code, line) = failure(&run(&server, args, ""));
        assert_eq!(code, 2, "{line}");
    }
    assert_eq!(run(&server, &["healthcheck", "--addr", "127.0.0.1:99999"], "").status.code(), Some(1));
    let (code, line) = failure(&run(&server, &["topics", "delete", "one", "two"], ""));
    assert!(code == 1 && line.starts_with("error: one: topic not found"), "{line}");
}

/// Whatever a signal ends says how far it got, and leaves nothing of its own behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_publish_and_a_benchmark_cleanly() {
    let server = Server::start().await;
    let named = async |prefix: &str| {
        let request = ListTopicsRequest { prefix: prefix.into(), ..ListTopicsRequest::default() };
        server.topics().await.list_topics(request).await.unwrap().into_inner().topics
    };
    let shown = async |prefix: &str, tail: u64| {
        while !named(prefix).await.iter().any(|topic| topic.tail >= tail) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for (name, tail) in [("INT", 1), ("TERM", 2)] {
        let mut publish = command(&server, &["publish", "t"]).stdin(Stdio::piped()).spawn().unwrap();
        // Its input stays open, which `wait` would close: it is the signal that ends it.
        let mut input = publish.stdin.take().unwrap();
        input.write_all(b"a\n").unwrap();
        within(30, "a record", shown("t", tail)).await;
        signal(publish.id(), name);
        let status = tokio::task::block_in_place(|| publish.wait()).unwrap();
        drop(input);
        let mut said = String::new();
        publish.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(130), "{name}: {said}");
        assert!(said.contains("interrupted; at least the first 1 lines are stored"), "{said}");

        let endless = ["bench", "publish", "--warmup", "584y", "--duration", "584y", "--rate", "100"];
        let mut bench = command(&server, &endless).spawn().unwrap();
        within(30, "a benchmark", shown("bench-", 1)).await;
        signal(bench.id(), name);
        let status = tokio::task::block_in_place(|| bench.wait()).unwrap();
        assert_eq!(status.code(), Some(130), "{name}");
        assert!(named("bench-").await.is_empty(), "its topic is deleted");
    }
}
