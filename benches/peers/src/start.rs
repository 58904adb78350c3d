//! Starting of the contestants.

use std::sync::Arc;

use crate::contestant::Contestant;
use crate::install::Installed;
use crate::limit::Limit;
use crate::nats::Nats;
use crate::outcome::Outcome;
use crate::peer::Peer;
use crate::python::Python;
use crate::redis::Redis;
use crate::s2::S2Lite;
use crate::streamway::Streamway;
use crate::workload::{Runner, Scale};

/// Starts a contestant's server.
pub async fn start(contestant: Contestant, installed: &Installed) -> Outcome<Runner> {
    let mut sync_micros = None;
    let peer: Arc<dyn Peer> = match contestant {
        Contestant::Streamway => Arc::new(Streamway::start(&installed.streamway).await?),
        Contestant::Limit => {
            let limit = Limit::start().await?;
            sync_micros = Some(limit.sync_micros()?);
            Arc::new(limit)
        }
        Contestant::RedisAlways => Arc::new(Redis::start("always").await?),
        Contestant::RedisEverysec => Arc::new(Redis::start("everysec").await?),
        Contestant::NatsDefault => Arc::new(Nats::start(&installed.nats, "").await?),
        Contestant::NatsAlways => Arc::new(Nats::start(&installed.nats, "sync_interval: always").await?),
        Contestant::S2Lite => Arc::new(S2Lite::start(&installed.s2).await?),
        Contestant::Fleet => Arc::new(Streamway::fleet(&installed.streamway, &installed.nats).await?),
        Contestant::NatsR3 => Arc::new(Nats::cluster(&installed.nats).await?),
        Contestant::Python => Arc::new(Python::start(&installed.python).await?),
    };
    let is_limit = contestant == Contestant::Limit;
    let stores = !is_limit && contestant != Contestant::Python;
    Ok(Runner { peer, scale: Scale::default(), round: 0, is_limit, sync_micros, stores })
}
