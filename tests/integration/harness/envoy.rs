//! A real Envoy in front of three replicas, with the configuration of the repository. It is killed by its pid when dropped.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Server, free_ports};

/// Configuration of the repository.
const SHIPPED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/envoy.yaml"));

/// A running Envoy.
pub struct Envoy {
    pub at: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Envoy {
    pub fn before(replicas: &[Server]) -> Self {
        let (dir, ports) = (TempDir::new().expect("a temporary directory"), free_ports(3));
        let at = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let config = dir.path().join("envoy.yaml");
        std::fs::write(&config, configured(replicas, &ports)).expect("a configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new(binary())
            .arg("-c")
            .arg(config)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let proxy = Self { at, child, dir };
        proxy.wait();
        proxy
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(self.at).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "Envoy does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Envoy's log ---\n{}", self.log());
        }
    }
}

/// The configuration of the repository with these replicas on loopback instead of three in a network.
fn configured(replicas: &[Server], ports: &[u16]) -> String {
    let mut text = SHIPPED.to_owned();
    for (own, port) in
        ["0.0.0.0, port_value: 50051", "0.0.0.0, port_value: 8080", "127.0.0.1, port_value: 9901"]
            .into_iter()
            .zip(ports)
    {
        text = text.replace(own, &format!("127.0.0.1, port_value: {port}"));
    }
    for (n, replica) in replicas.iter().enumerate() {
        for (own, bound) in [(50051, replica.listen()), (8080, replica.http())] {
            let own = format!("streamway-{}, port_value: {own}", n + 1);
            let (before, after) = text.split_once(&own).expect("the configuration names three replicas");
            // The port of the health check is in the next line.
            let after =
                after.replacen("port_value: 8081", &format!("port_value: {}", replica.admin().port()), 1);
            text = format!("{before}{}, port_value: {}{after}", bound.ip(), bound.port());
        }
    }
    text
}

/// Path of Envoy, which the tools of the tests install once.
fn binary() -> String {
    let found = Command::new("bash")
        .args(["-c", "source tests/tools.sh && envoy_binary"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("bash");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}
