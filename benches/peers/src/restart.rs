//! Time until a server answers again after kill -9, with stored data.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Until};
use crate::peer::{Peer as _, Process};
use crate::streamway::{Streamway, serve};
use crate::workload::Figure;

pub const START_2: &str = "start after kill -9 with 2 GB kept, ms";
pub const START_10: &str = "start after kill -9 with 10 GB kept, ms";
/// Amounts of stored data, measured one after the other on the same data.
const LEVELS: [(u64, &str); 2] = [(2_000_000_000, START_2), (10_000_000_000, START_10)];
/// Bytes of one batch of the fill: 100 records of 1 KiB.
const BATCH_BYTES: u64 = 100 << 10;

/// Measures with up to `bytes_max` of stored data.
pub async fn measure(binary: &Path, bytes_max: u64) -> Outcome<Vec<Figure>> {
    let mut server = Streamway::start(binary).await?;
    let (mut figures, mut kept) = (Vec::new(), 0);
    for (bytes, what) in LEVELS.into_iter().filter(|(bytes, _)| *bytes <= bytes_max) {
        fill(&server, bytes - kept).await?;
        kept = bytes;
        let (started, ms) = restarted(server, serve(binary)).await?;
        server = started;
        figures.push((what, ms));
    }
    Ok(figures)
}

/// Kills the server and restarts it on its data; returns the milliseconds until it has stored a record.
pub async fn restarted(
    server: Streamway,
    command: impl Fn(u16, &Path) -> Outcome<Command>,
) -> Outcome<(Streamway, f64)> {
    let dir = server.kill()?;
    let begin = Instant::now();
    let server = Streamway::on(Process::start_in(dir, command).await?).await?;
    Ok((server, begin.elapsed().as_secs_f64() * 1e3))
}

/// Stores this many more bytes.
pub async fn fill(server: &Streamway, bytes: u64) -> Outcome<()> {
    let until = Until::Batches(bytes / BATCH_BYTES);
    let pace = Pace::new(Load { window: 16, batch: 100, value_len: 1024, until, ..Load::default() });
    server.publish("kept", pace.clone()).await?;
    pace.outcome()?;
    Ok(())
}
