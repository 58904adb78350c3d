//! How long a server takes to answer again, killed with data kept.

use std::path::Path;
use std::time::Instant;

use crate::Outcome;
use crate::pace::{Load, Pace, Until};
use crate::peer::{Peer as _, Process};
use crate::streamway::{Streamway, serve};
use crate::workload::Figure;

/// Bytes of one batch that fills the topic: 100 records of 1 KiB.
const BATCH_BYTES: u64 = 100 << 10;

pub async fn measure(binary: &Path, bytes: u64) -> Outcome<Vec<Figure>> {
    let server = Streamway::start(binary).await?;
    let until = Until::Batches(bytes / BATCH_BYTES);
    let load = Load {
        publisher: 0,
        window: 16,
        batch: 100,
        value_len: 1024,
        until,
        rate: None,
        followed_by: Vec::new(),
    };
    let pace = Pace::new(load);
    server.publish("kept", pace.clone()).await?;
    pace.outcome()?;
    let dir = server.kill()?;
    let begin = Instant::now();
    let _server = Streamway::on(Process::start_in(dir, serve(binary)).await?).await?;
    Ok(vec![("start after kill -9 with the data kept, ms", begin.elapsed().as_secs_f64() * 1e3)])
}
