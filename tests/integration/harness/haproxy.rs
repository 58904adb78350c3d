//! A real HAProxy in front of replicas, as a fleet has one: HTTP/2 on both sides, round robin over the
//! replicas, and a health check of `/readyz`. It is killed by its pid when dropped.

use std::fmt::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Server, free_ports};

/// A running HAProxy.
pub struct HaProxy {
    pub at: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl HaProxy {
    pub fn before(replicas: &[Server]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let at = SocketAddr::from(([127, 0, 0, 1], free_ports(1)[0]));
        let mut text = format!(
            "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  \
             timeout server 60s\nfrontend grpc\n  bind {at} proto h2\n  default_backend replicas\n\
             backend replicas\n  balance roundrobin\n  option httpchk GET /readyz\n"
        );
        for (n, replica) in replicas.iter().enumerate() {
            let _ = writeln!(
                text,
                "  server r{n} {} proto h2 check check-proto h1 port {} inter 200ms fall 2 rise 1 \
                 on-marked-down shutdown-sessions",
                replica.listen(),
                replica.admin().port()
            );
        }
        let config = dir.path().join("haproxy.cfg");
        std::fs::write(&config, text).expect("a configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("haproxy is installed: tests/run installs it");
        let proxy = Self { at, child, dir };
        proxy.wait();
        proxy
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(self.at).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "HAProxy does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- HAProxy's log ---\n{}", self.log());
        }
    }
}
