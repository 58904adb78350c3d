//! A real nats-server, for the engine that keeps topics there.
//! Never: leaves one running; it is ended by its own pid.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where `tests/run` puts it.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/nats/nats-server");

/// One nats-server on loopback that syncs every message.
pub struct Nats {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Nats {
    pub fn start() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let store = dir.path().join("store");
        let text = format!(
            "listen: 127.0.0.1:{port}\nmax_payload: 2MB\njetstream {{ store_dir: {store:?}, sync_interval: always }}"
        );
        std::fs::write(dir.path().join("nats.conf"), text).expect("a configuration");
        let child = spawn(&dir);
        let nats = Self { dir, port, child };
        nats.wait();
        nats
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As a power cut would.
    pub fn kill9(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    /// On the same data and port.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir);
        self.wait();
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn spawn(dir: &TempDir) -> Child {
    let mut command = Command::new(BINARY);
    command.arg("-c").arg(dir.path().join("nats.conf")).arg("-l").arg(dir.path().join("nats.log"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.unwrap_or_else(|error| panic!("{BINARY}: {error}: run tests/run, which installs it"))
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
