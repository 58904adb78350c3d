//! Files that the configuration names: pipes in their place, and what `--check-config` says of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::harness::identities::{Setup, publish_as, rule, until};
use crate::harness::{signal, within};

/// A process that ends with its test.
struct Killed {
    child: Child,
    log: PathBuf,
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Killed {
    fn serve(dir: &Path, name: &str, args: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_streamway"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--data-dir", dir.join(format!("{name}.data")).to_str().unwrap()])
            .args(args)
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        Self { child: child.unwrap(), log }
    }

    async fn ended(&mut self) -> (ExitStatus, String) {
        let status = within(60, "the end of the process", async {
            loop {
                match self.child.try_wait().unwrap() {
                    Some(status) => return status,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        (status.await, std::fs::read_to_string(&self.log).unwrap())
    }

    /// Waits until the process handles SIGTERM itself.
    async fn handles_sigterm(&self) {
        const SIGTERM: u64 = 1 << 14;
        let status = format!("/proc/{}/status", self.child.id());
        let caught = || {
            let text = std::fs::read_to_string(&status).unwrap();
            let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        };
        until("a handler of SIGTERM", async || caught() & SIGTERM != 0).await;
    }
}

fn fifo(dir: &Path) -> String {
    let path = dir.join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pipe_that_nobody_writes_fails_the_start_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, good) = (fifo(dir.path()), dir.path().join("good"));
    std::fs::write(&good, "").unwrap();
    let good = good.to_str().unwrap();
    let jwt = ["--auth-jwt-issuer", "i", "--auth-jwt-audience", "a", "--auth-policy", good];
    let nats = ["--engine", "jetstream", "--nats-url", "nats://127.0.0.1:9"];
    let started = [
        ("--config", &[][..]),
        ("--auth-policy", &[]),
        ("--auth-tokens", &["--auth-policy", good]),
        ("--auth-jwks", &jwt),
        ("--tls-cert", &["--tls-key", good]),
        ("--tls-key", &["--tls-cert", good]),
        ("--nats-creds-file", &nats),
        ("--nats-token-file", &nats),
        ("--nats-tls-ca", &nats),
    ]
    .map(|(flag, more)| (flag, Killed::serve(dir.path(), flag, &[&[flag, &pipe], more].concat())));
    for (flag, mut process) in started {
        let (status, log) = process.ended().await;
        assert!(!status.success() && log.contains("did not finish within 5 s"), "{flag}: {log}");
        assert!(log.contains(&pipe), "{flag} names the file: {log}");
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, good) = (fifo(dir.path()), dir.path().join("good"));
    std::fs::write(&good, "").unwrap();
    let good = good.to_str().unwrap();
    for (flag, more) in [("--auth-policy", &[][..]), ("--tls-cert", &["--tls-key", good])] {
        let mut process = Killed::serve(dir.path(), flag, &[&[flag, &pipe], more].concat());
        process.handles_sigterm().await;
        signal(process.child.id(), "TERM");
        let (status, log) = process.ended().await;
        assert!(status.success() && !log.contains("did not finish"), "{flag}: {status} {log}");
    }
}

#[tokio::test]
async fn a_configuration_from_a_process_substitution_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"exec "$0" serve --check-config --config <(sleep 0.1; echo "topics_max = 7") \
        --auth-policy <(echo "[[rule]]"; echo 'principals = ["*"]'; echo 'topics = ["*"]'; echo 'actions = ["admin"]')"#;
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_streamway")])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let row = printed.lines().find(|line| line.starts_with("topics_max ")).unwrap();
    assert!(row.contains(" 7 ") && row.contains("/dev/fd/") && row.trim_end().ends_with("line 1"), "{row}");
}

/// The end of a pipe that was read is no change of its content, which would withdraw every permission.
#[tokio::test]
async fn a_policy_from_a_pipe_stays_in_force_while_other_files_change() {
    let mut setup = Setup::new(&["one"], "");
    let policy = rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#);
    let pipe = fifo(setup.path("tokens").parent().unwrap());
    setup.args.truncate(setup.args.len() - 2);
    setup.args.extend(["--auth-policy".to_owned(), pipe.clone()]);
    let writer = std::thread::spawn(move || std::fs::write(pipe, policy).unwrap());
    let server = setup.start(&[]).await;
    writer.join().unwrap();
    publish_as(&server, "one", "t").await.unwrap();
    for name in ["two", "three"] {
        setup.tokens(&[name]);
        until("the new token", async || publish_as(&server, name, "t").await.is_ok()).await;
    }
}

#[tokio::test]
async fn check_config_refuses_the_files_that_serve_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (empty, bad) = (path("empty", ""), path("bad", "[[rule]]\nprincipals = 1"));
    for (args, found) in [
        (&["--auth-policy", &empty][..], None),
        (&["--auth-policy", &bad], Some("auth_policy")),
        (&["--auth-policy", &empty, "--auth-tokens", &bad], Some("auth_tokens")),
        (&["--tls-cert", &bad, "--tls-key", &bad], Some("holds no certificate")),
        (&["--tls-cert", "/nonexistent", "--tls-key", &bad], Some("/nonexistent")),
    ] {
        let (status, log) =
            Killed::serve(dir.path(), "check", &[&["--check-config"], args].concat()).ended().await;
        assert_eq!(status.success(), found.is_none(), "{args:?}: {log}");
        assert!(
            log.contains(found.unwrap_or_default()) && log.contains("configuration: ") == found.is_some(),
            "{log}"
        );
    }
}
