//! Files that the configuration names and that are no files.

use std::time::Duration;

use crate::harness::within;

/// A process that ends with its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe that nobody writes to, in the place of every file that the configuration can name.
#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_fails_the_start_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, good) = (dir.path().join("pipe"), dir.path().join("good"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::write(&good, "").unwrap();
    let (pipe, good) = (pipe.to_str().unwrap(), good.to_str().unwrap());
    let jwt = ["--auth-jwt-issuer", "i", "--auth-jwt-audience", "a", "--auth-policy", good];
    let nats = ["--engine", "jetstream", "--nats-url", "nats://127.0.0.1:9"];
    for (flag, beside) in [
        ("--config", &[][..]),
        ("--auth-policy", &[]),
        ("--auth-tokens", &["--auth-policy", good]),
        ("--auth-jwks", &jwt),
        ("--tls-cert", &["--tls-key", good]),
        ("--tls-key", &["--tls-cert", good]),
        ("--nats-creds-file", &nats),
        ("--nats-token-file", &nats),
        ("--nats-tls-ca", &nats),
    ] {
        let log = dir.path().join("log");
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_streamway"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", flag, pipe])
            .args(beside)
            .current_dir(dir.path())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        let mut child = Killed(child.unwrap());
        let ended = within(60, flag, async {
            loop {
                match child.0.try_wait().unwrap() {
                    Some(status) => return status,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(!ended.success() && said.contains("not a regular file"), "{flag}: {said}");
        assert!(said.contains(pipe), "{flag} names the file: {said}");
    }
}
