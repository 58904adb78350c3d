//! The contestants: the rows each takes part in, and its durability.

use std::sync::Arc;

use crate::Outcome;
use crate::install::Installed;
use crate::limit::Limit;
use crate::nats::Nats;
use crate::peer::Peer;
use crate::python::Python;
use crate::redis::Redis;
use crate::s2::S2Lite;
use crate::streamway::Streamway;
use crate::workload::{Row, Runner, Scale};

/// Streamway on a cluster of NATS servers.
pub const FLEET: &str = "Streamway fleet";

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Contestant {
    Streamway,
    Limit,
    RedisAlways,
    RedisEverysec,
    NatsDefault,
    NatsAlways,
    S2Lite,
    Python,
    Fleet,
    NatsR3,
}

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Streamway => "Streamway",
            Self::Limit => "limit",
            Self::RedisAlways => "Redis always",
            Self::RedisEverysec => "Redis everysec",
            Self::NatsDefault => "NATS default",
            Self::NatsAlways => "NATS always",
            Self::S2Lite => "s2-lite",
            Self::Python => "Python",
            Self::Fleet => FLEET,
            Self::NatsR3 => "NATS R3 always",
        }
    }

    /// True if an acknowledgement means that the record is on disk.
    pub fn is_durable(name: &str) -> bool {
        matches!(name, "Streamway" | "Redis always" | "NATS always" | "s2-lite" | FLEET | "NATS R3 always")
    }

    /// True if the row is measured for this contestant in this round.
    pub fn runs(self, row: Row, round: usize) -> bool {
        let fleet = matches!(self, Self::Fleet | Self::NatsR3);
        if row.is_fleet() || fleet {
            return row.is_fleet() && fleet;
        }
        let reads = matches!(row, Row::Replay | Row::Fanout10 | Row::Fanout100);
        if row == Row::SlowSync {
            return Self::is_durable(self.name());
        }
        match self {
            Self::Streamway => row != Row::Start || round == 0,
            Self::Limit => !matches!(row, Row::Idle | Row::Topics | Row::Start | Row::Publishers),
            // Reading is the same whatever a write waits for, and a fill that syncs each record takes minutes.
            Self::NatsAlways => !matches!(row, Row::Idle | Row::Start) && !reads,
            Self::RedisEverysec => !matches!(row, Row::Idle | Row::Start | Row::Topics),
            Self::RedisAlways | Self::NatsDefault => row != Row::Start,
            Self::S2Lite => !matches!(row, Row::Start | Row::Idle | Row::Topics),
            Self::Python => row == Row::Unary,
            Self::Fleet | Self::NatsR3 => false,
        }
    }

    pub async fn start(self, installed: &Installed) -> Outcome<Runner> {
        let mut sync_micros = None;
        let peer: Arc<dyn Peer> = match self {
            Self::Streamway => Arc::new(Streamway::start(&installed.streamway).await?),
            Self::Limit => {
                let limit = Limit::start().await?;
                sync_micros = Some(limit.sync_micros()?);
                Arc::new(limit)
            }
            Self::RedisAlways => Arc::new(Redis::start("always").await?),
            Self::RedisEverysec => Arc::new(Redis::start("everysec").await?),
            Self::NatsDefault => Arc::new(Nats::start(&installed.nats, "").await?),
            Self::NatsAlways => Arc::new(Nats::start(&installed.nats, "sync_interval: always").await?),
            Self::S2Lite => Arc::new(S2Lite::start(&installed.s2).await?),
            Self::Fleet => Arc::new(Streamway::fleet(&installed.streamway, &installed.nats).await?),
            Self::NatsR3 => Arc::new(Nats::cluster(&installed.nats).await?),
            Self::Python => Arc::new(Python::start(&installed.python).await?),
        };
        let is_limit = self == Self::Limit;
        let stores = !is_limit && self != Self::Python;
        Ok(Runner { peer, scale: Scale::default(), round: 0, is_limit, sync_micros, stores })
    }
}
