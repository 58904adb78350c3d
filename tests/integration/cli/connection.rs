//! Options of the connection: where they are accepted, and what takes precedence.

use super::{command, failure, run, stdout};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_connection_stand_before_the_command_or_behind_it() {
    let server = Server::start().await;
    let (here, nobody) = (server.url(), "http://127.0.0.1:1");
    for args in [
        &["--server", &here, "topics", "list"][..],
        &["topics", "--server", &here, "list"],
        &["topics", "list", "--server", &here],
        // The nearer one counts.
        &["--server", nobody, "topics", "list", "--server", &here],
        &["--compression", "gzip", "--server", &here, "topics", "list"],
    ] {
        let output = command(&server, args).env("STREAMWAY_SERVER", nobody).output().unwrap();
        assert!(stdout(&output).starts_with("NAME"), "{args:?}");
    }
    for args in
        [&["--tls-ca", "/nonexistent", "topics", "list"][..], &["topics", "list", "--tls-ca", "/nonexistent"]]
    {
        let (code, line) = failure(&run(&server, args, ""));
        assert!(code == 2 && line.contains("/nonexistent"), "{line}");
    }
    let (code, line) =
        failure(&command(&server, &["topics", "list"]).env("STREAMWAY_COMPRESSION", "lz4").output().unwrap());
    assert!(code == 2 && line.contains("STREAMWAY_COMPRESSION"), "{line}");
}

/// What has no use for a server neither takes its address nor shows it in the help.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_connection_refuses_its_options() {
    let server = Server::start().await;
    for name in ["serve", "check", "token", "completions", "nats-credentials", "copy"] {
        let help = run(&server, &[name, "--help"], "");
        assert!(!stdout(&help).contains("--server <URL>"), "{name}");
        assert_eq!(run(&server, &[name, "--server", "http://x:1"], "").status.code(), Some(2), "{name}");
    }
    let (code, line) = failure(&run(&server, &["--server", "http://x:1", "token", "me"], ""));
    assert!(code == 2 && line.contains("takes neither --server"), "{line}");
    let (code, _) = failure(&run(&server, &["--server", "http://x:1", "copy", "a", "http://y:1"], ""));
    assert_eq!(code, 2);
}
