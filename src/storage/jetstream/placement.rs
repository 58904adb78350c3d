//! Explanation for a cluster that finds too few servers for a stream's copies: it names the servers that the cluster
//! does not count. Only requests that any client may send are used, because a replica cannot reach the monitoring port
//! of NATS. The probe stream is deleted again.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::jetstream::stream::{ClusterInfo, Config, StorageType};
use futures_util::future;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::nats::Nats;

/// Stream that shows on which servers the cluster places copies. No topic's stream has this name.
const PROBE: &str = "streamway_probe";
/// Maximum time until a server sends its first line.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum length of a server's first line. It may list the addresses of the cluster, which takes some kilobytes.
const HELLO_BYTES_MAX: u64 = 64 << 10;
/// Maximum time until a leader answers.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of requests for the members of the probe, which elects a leader first.
const ASKS: usize = 20;
/// Pause between two of these requests.
const PAUSE: Duration = Duration::from_millis(100);

/// First message of a server on a new connection.
#[derive(Debug, Deserialize)]
struct Hello {
    server_name: String,
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    jetstream: bool,
}

/// Builds one sentence with the number of servers that the cluster counts, and the known facts about the others.
pub async fn explain(nats: &Nats, urls: &str) -> String {
    let addresses: Vec<_> = urls.split(',').filter_map(|url| url.trim().parse::<ServerAddr>().ok()).collect();
    let (counted, hellos) = future::join(counted(nats), future::join_all(addresses.iter().map(hello))).await;
    let cluster = nats.client.server_info().cluster.unwrap_or_default();
    let missing: Vec<_> = addresses
        .iter()
        .zip(hellos)
        .filter_map(|(address, hello)| {
            let at = format!("{}:{}", address.host(), address.port());
            suspicion(&at, hello, &cluster, counted.as_ref())
        })
        .collect();
    let missing = if missing.is_empty() { "none of nats.url".to_owned() } else { missing.join("; ") };
    let known = match counted {
        Some(counted) => {
            let names = counted.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("the cluster counts {} of its servers ({names}); not counted: {missing}", counted.len())
        }
        None => format!("the cluster has no leader; missing: {missing}"),
    };
    format!("{known}; see docs/operations.md#a-nats-server-is-not-counted")
}

/// Returns the likely reason why a server is not counted. None if it is counted.
fn suspicion(
    at: &str,
    hello: Result<Hello, String>,
    cluster: &str,
    counted: Option<&BTreeSet<String>>,
) -> Option<String> {
    match hello {
        Err(why) => Some(format!("{at} ({why})")),
        Ok(Hello { server_name, .. }) if counted.is_some_and(|counted| counted.contains(&server_name)) => {
            None
        }
        Ok(hello) if !hello.jetstream => {
            Some(format!("{} at {at} (it runs without JetStream)", hello.server_name))
        }
        Ok(hello) if hello.cluster != cluster => Some(format!(
            "{} at {at} (it is of the cluster {:?} and not of {cluster:?})",
            hello.server_name, hello.cluster
        )),
        // Without a leader, it is unknown which servers are counted.
        Ok(_) if counted.is_none() => None,
        Ok(hello) => Some(format!("{} at {at} (it runs, and has not joined the others)", hello.server_name)),
    }
}

/// Reads the first line of a server, which it sends before it asks for credentials.
async fn hello(address: &ServerAddr) -> Result<Hello, String> {
    let said = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        let mut line = String::new();
        BufReader::new(stream).take(HELLO_BYTES_MAX).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    let line = match tokio::time::timeout(HELLO_TIMEOUT, said).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".into()),
    };
    let said = line.strip_prefix("INFO ").and_then(|said| serde_json::from_str(said).ok());
    said.ok_or_else(|| "it does not say its name".into())
}

/// Returns the names of the servers on which the cluster places streams, which are the members of the largest stream
/// that it can place. None if it cannot place even the smallest, for example without a leader.
async fn counted(nats: &Nats) -> Option<BTreeSet<String>> {
    tokio::time::timeout(PROBE_TIMEOUT, nats.topics()).await.ok()?.ok()?;
    for replicas in (1..nats.stream_config.replicas).rev() {
        let probe = Config {
            name: PROBE.into(),
            subjects: vec![PROBE.into()],
            num_replicas: replicas,
            storage: StorageType::Memory,
            max_messages: 1,
            ..Config::default()
        };
        // A probe that another replica created or left serves as well.
        let _ = nats.context.create_stream(probe).await;
        let found = members(nats).await;
        let _ = nats.context.delete_stream(PROBE).await;
        if !found.is_empty() {
            return Some(found);
        }
    }
    None
}

async fn members(nats: &Nats) -> BTreeSet<String> {
    for _ in 0..ASKS {
        let Ok(Some(info)) = nats.info(PROBE).await else { return BTreeSet::new() };
        if let Some(ClusterInfo { leader: Some(leader), replicas, .. }) = info.cluster
            && !leader.is_empty()
        {
            return replicas.into_iter().map(|peer| peer.name).chain([leader]).collect();
        }
        tokio::time::sleep(PAUSE).await;
    }
    BTreeSet::new()
}
