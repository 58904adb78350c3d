//! Resources of a server: memory, files, threads, tasks, and bytes on disk. Each measurement is one scrape.

use std::fmt;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Server;

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    pub resident: u64,
    pub files: u64,
    pub threads: u64,
    pub tasks: u64,
    pub disk: u64,
}

impl Vitals {
    pub async fn of(server: &Server) -> Self {
        let text = metrics(server).await;
        let gauge = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
                as u64
        };
        Self {
            resident: server.resident_bytes(),
            files: gauge("process_open_file_descriptors"),
            threads: gauge("process_threads"),
            tasks: gauge("streamway_tasks"),
            disk: used(server.data_dir()),
        }
    }
}

pub async fn metrics(server: &Server) -> String {
    let mut tcp = tokio::net::TcpStream::connect(server.admin()).await.expect("the admin port");
    tcp.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.expect("answered");
    text
}

/// Bytes that files below a directory occupy, sparse ones by their blocks. Files may vanish during the walk.
fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.filter_map(|entry| {
        let meta = entry.as_ref().ok()?.metadata().ok()?;
        Some(if meta.is_dir() { used(&entry.ok()?.path()) } else { meta.blocks() * 512 })
    });
    sizes.sum()
}

/// Mean of several measurements.
pub fn mean(of: &[Vitals]) -> Vitals {
    let n = of.len().max(1) as u64;
    let of = |field: fn(&Vitals) -> u64| of.iter().map(field).sum::<u64>() / n;
    Vitals {
        resident: of(|now| now.resident),
        files: of(|now| now.files),
        threads: of(|now| now.threads),
        tasks: of(|now| now.tasks),
        disk: of(|now| now.disk),
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident, files, threads, tasks, disk } = self;
        let (resident, disk) = (resident >> 20, disk >> 20);
        write!(
            f,
            "{resident} MiB of memory, {files} files, {threads} threads, {tasks} tasks, {disk} MiB on disk"
        )
    }
}
