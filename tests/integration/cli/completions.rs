//! Completions, as the script of a shell asks for them.

use super::{command, run, stdout};
use crate::harness::Server;

/// Candidates that a shell gets for the last of these words.
fn completed(server: &Server, words: &[&str]) -> Vec<String> {
    let asked = run(server, &[&["complete-line", "--"], words].concat(), "");
    stdout(&asked).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_flags_and_the_topics_of_the_server_are_completed() {
    let server = Server::start().await;
    for topic in ["orders", "orders-eu", "payments"] {
        stdout(&run(&server, &["topics", "create", topic], ""));
    }
    assert_eq!(completed(&server, &["publish", "ord"]), ["orders", "orders-eu"]);
    assert_eq!(completed(&server, &["topics", "delete", "orders", "pay"]), ["payments"]);
    let url = server.url();
    // The rest of the line says which server.
    let mut elsewhere = command(&server, &["complete-line", "--", "--server", &url, "subscribe", "p"]);
    elsewhere.env("STREAMWAY_SERVER", "http://127.0.0.1:1");
    assert_eq!(stdout(&elsewhere.output().unwrap()), "payments\n");
    let away = ["topics", "delete", "--server", "http://127.0.0.1:1", "p"];
    assert!(completed(&server, &away).is_empty(), "nobody is there");
    assert!(completed(&server, &["copy", "a", "b", "-t", "or"]).is_empty(), "it names its servers itself");
    assert_eq!(completed(&server, &["copy", &url, "b", "-t", "pay"]), ["payments"]);
    assert_eq!(completed(&server, &["con"]), ["consume", "context"]);
    assert_eq!(completed(&server, &["topics", "li"]), ["list"]);
    assert_eq!(completed(&server, &["publish", "orders", "--batch-r"]), ["--batch-records"]);
    assert_eq!(completed(&server, &["serve", "--engine", ""]), ["embedded", "jetstream"]);
    assert_eq!(completed(&server, &["serve", "--log-format", "j"]), ["json"]);
    assert_eq!(completed(&server, &["topics", "list", "--compression", ""]), ["gzip", "zstd"]);
    assert_eq!(completed(&server, &["subscribe", "orders", "--output", ""]), ["raw", "json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_the_topic_on_the_line_are_completed() {
    let server = Server::start().await;
    for (topic, group) in [("orders", "mail"), ("orders", "bill"), ("payments", "more")] {
        stdout(&run(&server, &["publish", topic, "x"], ""));
        stdout(&run(&server, &["groups", "create", topic, group], ""));
    }
    assert_eq!(completed(&server, &["groups", "describe", "orders", "m"]), ["mail"]);
    assert_eq!(completed(&server, &["consume", "orders", "--group", ""]), ["bill", "mail"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_bash_asks_this_binary() {
    let server = Server::start().await;
    stdout(&run(&server, &["topics", "create", "orders"], ""));
    let script = run(&server, &["completions", "bash"], "");
    let line =
        "COMP_WORDS=(streamway publish ord); COMP_CWORD=2; _streamway; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = std::process::Command::new("bash");
    bash.arg("-c").arg(format!("{}\n{line}", stdout(&script))).env("STREAMWAY_SERVER", server.url());
    let here = std::path::Path::new(env!("CARGO_BIN_EXE_streamway")).parent().unwrap();
    bash.env("PATH", format!("{}:{}", here.display(), std::env::var("PATH").unwrap()));
    assert_eq!(stdout(&bash.output().unwrap()), "orders\n");
    for (shell, part) in
        [("zsh", "#compdef"), ("fish", "complete -c"), ("elvish", "edit:"), ("powershell", "Register-")]
    {
        let script = run(&server, &["completions", shell], "");
        assert!(stdout(&script).contains(part), "{shell}");
    }
    assert_eq!(run(&server, &["completions", "tcsh"], "").status.code(), Some(2));
}
