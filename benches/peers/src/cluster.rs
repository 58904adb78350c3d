//! A cluster of three nats-servers that sync every message, used by the fleet and by plain NATS.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};

use crate::outcome::Outcome;
use crate::peer::{Process, free_port};

/// Number of servers, and of copies of each stream.
pub const SERVERS: usize = 3;
/// Time allowed for the cluster to form.
const READY_MAX: Duration = Duration::from_secs(60);

/// Starts the servers and waits until they accept a stream of three copies.
pub async fn start(binary: &Path) -> Outcome<Vec<Process>> {
    let mut routes = Vec::new();
    for _ in 0..SERVERS {
        routes.push(free_port()?);
    }
    let mut servers = Vec::new();
    // Started one after the other, with one route per pair: servers of 2.10 that connect to each other at the same time may
    // repeatedly close each other's routes as duplicates.
    for own in 0..SERVERS {
        let command = |port: u16, dir: &Path| {
            std::fs::write(dir.join("nats.conf"), config(port, dir, own, &routes))?;
            let mut command = Command::new(binary);
            command.arg("--config").arg(dir.join("nats.conf"));
            Ok(command)
        };
        servers.push(Process::start(command).await?);
    }
    ready(&urls(&servers)).await?;
    Ok(servers)
}

fn config(port: u16, dir: &Path, own: usize, routes: &[u16]) -> String {
    let others = (0..SERVERS).filter(|other| *other != own);
    let others: Vec<_> = others.map(|other| format!("\"nats://127.0.0.1:{}\"", routes[other])).collect();
    format!(
        "server_name: n{own}\nlisten: \"127.0.0.1:{port}\"\nmax_payload: 2MB\n\
         jetstream {{ store_dir: {:?}\n max_file_store: 40GB\n sync_interval: always }}\n\
         cluster {{ name: peers, listen: \"127.0.0.1:{}\", no_advertise: true, pool_size: -1, routes: [{}] }}\n",
        dir.join("store"),
        routes[own],
        others.join(", ")
    )
}

/// URLs for clients.
pub fn urls(servers: &[Process]) -> Vec<String> {
    servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port)).collect()
}

async fn ready(urls: &[String]) -> Outcome<()> {
    let context = jetstream::new(async_nats::connect(urls).await?);
    let begin = Instant::now();
    let config = stream::Config { name: "ready".into(), num_replicas: SERVERS, ..stream::Config::default() };
    loop {
        match context.create_stream(config.clone()).await {
            Err(error) if begin.elapsed() > READY_MAX => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(_) => return Ok(()),
        }
    }
}
