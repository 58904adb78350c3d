//! The owner of the groups of a fleet, as the logs of the replicas tell it. All groups of such a test are in one shard.

use std::time::Duration;

use super::{Server, within};

/// Log line of a replica that begins to own a shard.
const OWNS: &str = "this replica owns a shard of groups";

/// Line of a log that says that the replica owns a shard: its time, and the shard.
fn lines(server: &Server) -> Vec<(String, u64)> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(OWNS));
    let parsed = lines.filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let shard = line.get("fields").unwrap_or(&line).get("shard")?.as_u64()?;
        Some((line.get("timestamp")?.as_str()?.to_owned(), shard))
    });
    parsed.collect()
}

/// Number of times that this process became the owner.
pub fn ownerships(server: &Server) -> usize {
    lines(server).len()
}

/// Index of the replica that was the last to become the owner. Waits until one has.
pub async fn owner(replicas: &[Server]) -> usize {
    within(60, "an owner", async {
        loop {
            let last = |at: &usize| lines(&replicas[*at]).pop().map(|(time, _)| time);
            let newest = (0..replicas.len()).filter(|at| last(at).is_some()).max_by_key(last);
            if let Some(at) = newest {
                return at;
            }
            // There is no event for a line of a log.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// Name of the stream of NATS that stores the shard of a replica that owns it, or did.
pub fn stream(owner: &Server) -> String {
    let (_, shard) = lines(owner).pop().expect("it owns a shard");
    format!("streamway-~groups-{shard:02}")
}
