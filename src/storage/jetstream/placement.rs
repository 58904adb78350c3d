//! Which NATS servers a cluster does not count, where it finds too few for a stream's copies. Asked with what
//! any client may ask, as NATS's monitoring is out of a replica's reach.
//! Never: leaves its probe behind while NATS answers.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::jetstream::stream::{ClusterInfo, Config, StorageType};
use futures_util::future;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::nats::Nats;

/// Stream that shows whom the cluster places copies on. No topic's stream is called so.
const PROBE: &str = "streamway_probe";
/// How long a server may take to say its name.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest first line of a server: some kilobytes, as it may list the addresses of its cluster.
const HELLO_BYTES_MAX: u64 = 64 << 10;
/// How long a leader may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the probe is asked for its members, and the pause between: it elects a leader first.
const ASKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What a server says of itself to whoever connects.
#[derive(Debug, Deserialize)]
struct Hello {
    server_name: String,
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    jetstream: bool,
}

/// One sentence: how many servers the cluster counts, and what is known of those it does not.
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

/// Why a server is not counted, as far as it can be known; none where it is.
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
        // Without a leader nobody says whom it counts.
        Ok(_) if counted.is_none() => None,
        Ok(hello) => Some(format!("{} at {at} (it runs, and has not joined the others)", hello.server_name)),
    }
}

/// The first line of a server, which it says before it asks who calls.
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

/// Names of the servers that the cluster places streams on: those of the largest stream it can place. None where it
/// places not even the smallest, as without a leader.
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
        // One that another replica made a moment ago, or left, tells as much.
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
