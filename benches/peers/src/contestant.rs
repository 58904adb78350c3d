//! The contestants: the rows each takes part in, and its durability.

use crate::workload::Row;

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
        if row.is_group() {
            return self.runs_group(row);
        }
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

    /// Groups are compared between servers that confirm a settlement, and only with those that sync what they store.
    fn runs_group(self, row: Row) -> bool {
        match self {
            Self::Streamway => !row.is_fleet(),
            Self::RedisAlways | Self::NatsAlways => {
                matches!(row, Row::GroupBatches | Row::GroupSingles | Row::GroupMembers)
            }
            Self::Fleet => row.is_fleet(),
            Self::NatsR3 => row == Row::FleetGroup,
            _ => false,
        }
    }
}
