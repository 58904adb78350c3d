//! Commands that cannot work: one line on standard error, and the exit code.

use std::fs::File;

use serde_json::Value;

use super::{command, failure, run, stdout};
use crate::harness::Server;

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
async fn a_command_line_that_is_wrong_is_told_in_one_line() {
    let server = Server::start().await;
    let missing = "the following required arguments were not provided: <TOPIC>; try --help";
    let similar =
        "unrecognized subcommand 'lst'; tip: some similar subcommands exist: 'ls', 'list'; try --help";
    for (args, told) in [
        (&["publish"][..], missing),
        (&["topics", "lst"], similar),
        (&["topics", "create", "t", "--max-age", "soon"], "invalid value 'soon' for '--max-age <DURATION>'"),
        (&["groups", "create", "t", "g", "--order", "some"], "[possible values: none, key, total]"),
        (
            &["publish", "t", "--kee", "k"],
            "unexpected argument '--kee' found; tip: a similar argument exists",
        ),
        (&["clients", "end", "--address", "nowhere"], "invalid IP address syntax"),
        (&["clients", "end", "--principal", ""], "a value is required for '--principal <PRINCIPAL>'"),
        (&["clients", "unban", "--address", "1.2.3"], "invalid IP address syntax"),
        (&["healthcheck", "--nope"], "unexpected argument '--nope' found"),
    ] {
        let output = run(&server, args, "");
        let text = std::str::from_utf8(&output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(if args[0] == "healthcheck" { 1 } else { 2 }), "{output:?}");
        let is_line =
            text.starts_with("error: ") && text.lines().count() == 1 && text.ends_with("; try --help\n");
        assert!(is_line && text.contains(told), "{text}");
    }
}

/// With `-o json`, every line on standard error is an object that says what failed and why.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_json_where_that_is_asked_for() {
    let server = Server::start().await;
    stdout(&run(&server, &["publish", "t"], "x\n"));
    let fail = |args: &[&str], code: i32| {
        let output = run(&server, args, "");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let lines = std::str::from_utf8(&output.stderr).unwrap().lines();
        let errors = lines.map(|line| serde_json::from_str::<Value>(line).expect(line)["error"].take());
        errors.collect::<Vec<_>>()
    };
    // A call that was refused, one topic of several, and one of two servers.
    let [error] = &fail(&["topics", "describe", "nope", "-o", "json"], 1)[..] else { panic!() };
    assert_eq!((&error["code"], &error["reason"]), (&"NOT_FOUND".into(), &"TOPIC_NOT_FOUND".into()));
    assert_eq!((&error["retryable"], &error["exitCode"]), (&false.into(), &1.into()));
    assert!(error["message"].as_str().unwrap().contains("check the topic's name"), "{error}");
    let [error] = &fail(&["subscribe", "t", "--from", "99", "--output", "json"], 1)[..] else { panic!() };
    assert_eq!((&error["reason"], &error["metadata"]["tail"]), (&"OFFSET_BEYOND_TAIL".into(), &"1".into()));
    let errors = fail(&["topics", "purge", "no", "t", "nope", "-o", "json"], 1);
    assert_eq!(errors.iter().map(|error| &error["topic"]).collect::<Vec<_>>(), ["no", "nope"]);
    let both = format!("{},http://127.0.0.1:1", server.url());
    let [error] = &fail(&["clients", "list", "-o", "json", "--server", &both], 1)[..] else { panic!() };
    assert_eq!((&error["server"], &error["code"]), (&"http://127.0.0.1:1".into(), &"UNAVAILABLE".into()));
    let [error] = &fail(&["healthcheck", "-o", "json", "--addr", "127.0.0.1:1"], 2)[..] else { panic!() };
    assert_eq!((&error["server"], &error["exitCode"]), (&"http://127.0.0.1:1".into(), &2.into()));
    // Arguments and settings that are wrong, of which nothing is called.
    for args in [
        &["topics", "lst", "-o", "json"][..],
        &["topics", "trim", "t", "--before", "x", "--output=json"],
        &["topics", "describe", "-ojson"],
        &["publish", "Bad", "x", "-o", "json"],
        &["topics", "delete", "--prefix", "t", "-o", "json"],
        &["serve", "--check-config", "-o", "json", "--drain-delay", "9s"],
    ] {
        let [error] = &fail(args, 2)[..] else { panic!("{args:?}") };
        assert!(
            error["exitCode"] == 2 && error.get("code").is_none_or(|code| code == "INVALID_ARGUMENT"),
            "{error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(!message.starts_with("error") && !message.contains("--help"), "{message}");
    }
    let [error] = &fail(&["topics", "lst", "-o", "json"], 2)[..] else { panic!() };
    let tip = "unrecognized subcommand 'lst'; tip: some similar subcommands exist: 'ls', 'list'";
    assert_eq!(error["message"], tip);
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
}
