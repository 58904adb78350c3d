//! `context`: saved servers, and what takes precedence over them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{failure, stdout};
use crate::harness::Server;

/// Runs a command of a user with this home.
fn run(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("STREAMWAY_SERVER");
    command.envs(variables.iter().copied()).current_dir(home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"s3cret-t0ken\n");
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_variables_take_precedence_over_the_context_in_use() {
    let server = Server::start().await;
    let (here, nobody) = (server.url(), "http://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &str)], args: &[&str]| run(dir.path(), variables, args);
    stdout(&run(&[], &["context", "add", "here", "--server", &here, "--use"]));
    stdout(&run(&[], &["context", "add", "away", "--server", nobody]));
    let reaches = |variables: &[(&str, &str)], args: &[&str]| {
        let listed = run(variables, &[args, &["topics", "list"]].concat());
        listed.status.success()
    };
    assert!(reaches(&[], &[]));
    assert!(!reaches(&[("STREAMWAY_SERVER", nobody)], &[]));
    assert!(!reaches(&[("STREAMWAY_CONTEXT", "away")], &[]));
    assert!(!reaches(&[], &["--context", "away"]));
    assert!(reaches(&[("STREAMWAY_CONTEXT", "away")], &["--context", "here"]));
    assert!(reaches(&[("STREAMWAY_SERVER", nobody)], &["--server", &here]));
    // The variables of a shell redirect no command whose context a flag names, and no context follows a server of a flag.
    assert!(reaches(&[("STREAMWAY_SERVER", nobody)], &["--context", "here"]));
    assert!(!reaches(&[("STREAMWAY_SERVER", &here)], &["--context", "away"]));
    assert!(reaches(&[("STREAMWAY_CONTEXT", "no-such")], &["--server", &here]));
    assert!(run(&[], &["healthcheck"]).status.success());
    stdout(&run(&[], &["context", "use", "away"]));
    assert!(!reaches(&[], &[]) && reaches(&[], &["--server", &here]));
    stdout(&run(&[], &["context", "rm", "away"]));
    let (code, line) = failure(&run(&[], &["--context", "away", "topics", "list"]));
    assert!(code == 2 && line.contains("no context away; there are: here"), "{line}");
    assert_eq!(failure(&run(&[], &["context", "show"])).0, 2, "none is in use");
}

/// A token is kept from other users, from the screen, and from servers that it is not for.
#[tokio::test(flavor = "multi_thread")]
async fn a_saved_token_is_shown_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &str)], args: &[&str]| run(dir.path(), variables, args);
    let add = [
        "context",
        "add",
        "prod",
        "--server",
        "https://x:1",
        "--token-stdin",
        "--use",
        "--tls-server-name",
        "y",
    ];
    stdout(&run(&[], &add));
    let file = dir.path().join(".config/streamway/contexts.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(fs::read_to_string(&file).unwrap().contains("s3cret-t0ken"));
    for format in ["table", "json"] {
        for command in [&["context", "list", "-o", format][..], &["context", "show", "-o", format]] {
            let shown = run(&[], command);
            assert!(stdout(&shown).contains("prod") && !stdout(&shown).contains("s3cret"), "{shown:?}");
        }
    }
    let shown = run(&[], &["context", "show", "-o", "json"]);
    let expected = serde_json::json!({
        "name": "prod", "server": ["https://x:1"], "hasToken": true, "tokenOverPlaintext": false, "tlsServerName": "y",
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(stdout(&shown)).unwrap(), expected);
    // In plaintext and to another machine, the token would be refused; it is not used there.
    let (code, line) =
        failure(&run(&[], &["topics", "list", "--server", "http://192.0.2.1:1", "--context", "prod"]));
    assert!(code == 2 && !line.contains("s3cret"), "{line}");
    let elsewhere = run(&[], &["topics", "list", "--server", "http://127.0.0.1:1"]);
    assert!(failure(&elsewhere).1.contains("cannot reach http://127.0.0.1:1"), "{elsewhere:?}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, line) = failure(&run(&[], &["topics", "list"]));
    assert!(code == 1 && line.contains("chmod 600"), "{line}");
    fs::write(&file, "rubbish").unwrap();
    let (code, line) = failure(&run(&[], &["context", "list"]));
    assert!(code == 1 && line.contains("contexts.json"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_no_client_could_use_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run(dir.path(), &[], args);
    for bad in [
        &["--server", "ftp://x"][..],
        &["--server", "https://x:1", "--tls-ca", "missing.pem"],
        &["--server", "http://192.0.2.1:1", "--token-stdin"],
        &["--server", "https://x:1", "--tls-cert", "cert.pem"],
        &["--context", "other"],
    ] {
        let added = run(&[&["context", "add", "bad"], bad].concat());
        assert_eq!(failure(&added).0, 2, "{bad:?}");
    }
    let long = "x".repeat(70_000);
    let (code, line) = failure(&run(&["context", "add", &long, "--server", "http://x:1"]));
    assert!(code == 1 && line.contains("nothing was saved"), "{line}");
    assert_eq!(failure(&run(&["context", "use", "bad"])).0, 2);
    assert!(!dir.path().join(".config").exists());
    // A relative path is kept as the file that it names now.
    fs::write(dir.path().join("token"), "t").unwrap();
    stdout(&run(&["context", "add", "good", "--server", "https://x:1", "--token-file", "token"]));
    let shown = run(&["context", "show", "good"]);
    assert!(stdout(&shown).contains(dir.path().join("token").to_str().unwrap()), "{shown:?}");
}

/// Commands at the same time change what the others have written, and lose nothing of it.
#[test]
fn contexts_that_are_added_at_the_same_time_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let add = |n: usize| {
        run(dir.path(), &[], &["context", "add", &format!("c{n:02}"), "--server", "http://127.0.0.1:1"])
    };
    std::thread::scope(|scope| {
        for n in 0..24 {
            scope.spawn(move || stdout(&add(n)).to_owned());
        }
    });
    let listed = run(dir.path(), &[], &["context", "list", "-o", "json"]);
    assert_eq!(stdout(&listed).lines().count(), 24, "{listed:?}");
}

/// The home of a user without one is often /dev/null.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_no_directory_holds_no_contexts() {
    let server = Server::start().await;
    let home = Path::new("/dev/null");
    let url = server.url();
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
        command.args(args).env("HOME", home).env_remove("XDG_CONFIG_HOME");
        command.env_remove("STREAMWAY_CONTEXT").env_remove("STREAMWAY_SERVER").output().unwrap()
    };
    stdout(&command(&["topics", "list", "--server", &url]));
    assert_eq!(stdout(&command(&["context", "list", "-o", "json"])), "");
    let (code, line) = failure(&command(&["context", "add", "c", "--server", &url]));
    assert!(code == 1 && line.contains("/dev/null/.config"), "{line}");
}

/// A password in an address would be of no use, and is shown nowhere.
#[test]
fn a_password_in_an_address_is_refused_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run(dir.path(), &[], args);
    let url = "http://me:s3cret@127.0.0.1:1";
    for args in [
        &["context", "add", "c", "--server", url][..],
        &["--server", url, "topics", "list"],
        &["--server", url, "clients", "list"],
        &["copy", url, "x.backup"],
    ] {
        let output = run(args);
        let (code, line) = failure(&output);
        assert!(code == 2 && line.contains("a user or a password") && !line.contains("s3cret"), "{line}");
    }
    let (code, line) = failure(&run(&["healthcheck", "--addr", url]));
    assert!(code == 1 && !line.contains("s3cret"), "{line}");
    // An earlier version saved it.
    let file = dir.path().join(".config/streamway/contexts.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("{{\"contexts\": {{\"old\": {{\"server\": [\"{url}\"]}}}}}}")).unwrap();
    for args in [&["list"][..], &["list", "-o", "json"], &["show", "old"], &["show", "old", "-o", "json"]] {
        let shown = run(&[&["context"], args].concat());
        assert!(stdout(&shown).contains("…@127.0.0.1:1") && !stdout(&shown).contains("s3cret"), "{shown:?}");
    }
}
