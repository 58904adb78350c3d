//! How long a server takes to answer again, killed with data kept.

use std::path::Path;
use std::sync::Arc;
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
    let pace = Pace::new(load.clone());
    server.publish("kept", pace.clone()).await?;
    pace.outcome()?;
    let dir = server.kill()?;
    let begin = Instant::now();
    let server = Streamway::on(Process::start_in(dir, serve(binary)).await?).await?;
    let again = Load { until: Until::Batches(1), batch: 1, ..load };
    let mut first = Pace::new(again.clone());
    // The port answers before recovery is done: the first publish that is stored counts.
    while server.one_by_one(&["kept".into()], Arc::clone(&first)).await.is_err() {
        if begin.elapsed().as_secs() > 60 {
            return Err("the server does not serve again".into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        // What failed was not acknowledged: it is sent again.
        first = Pace::new(again.clone());
    }
    Ok(vec![("start after kill -9 with the data kept, ms", begin.elapsed().as_secs_f64() * 1e3)])
}
