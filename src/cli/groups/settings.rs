//! Flags of a group's settings.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::parse_duration;
use crate::proto::v1::{self, DeliveryOrder, PoisonPolicy};

/// Order in which the records of a group are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// Records are handled in parallel.
    None,
    /// Records with the same key are handled in order.
    Key,
    /// All records are handled in order, by one member at a time.
    Total,
}

impl Order {
    pub(super) const fn message(self) -> DeliveryOrder {
        match self {
            Self::None => DeliveryOrder::None,
            Self::Key => DeliveryOrder::Key,
            Self::Total => DeliveryOrder::Total,
        }
    }
}

/// Treatment of a record that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Poison {
    /// A copy is published to the dead letter topic.
    DeadLetter,
    /// The record and all later ones of its key are set aside.
    ParkKey,
    /// The record is delivered no more, and what is ordered after it waits.
    Hold,
}

/// Settings that can be changed.
#[derive(Clone, Debug, Args)]
pub(super) struct Settings {
    /// Time that a member has for a lease before it has to extend it, 1s to 24h; 30s by default. `consume` extends by
    /// itself.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ack_deadline: Option<Duration>,
    /// Longest time of one lease, extensions included; 1h by default, at most 7d.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lease_max: Option<Duration>,
    /// Time for which a member that was cut off keeps its leases, 0 to 24h; 10s by default.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    session_grace: Option<Duration>,
    /// Number of failed deliveries after which a record is given up; 0, the default, for never.
    #[arg(long, value_name = "N")]
    deliveries_max: Option<u32>,
    /// Delays after the first, second and further failed deliveries, separated by commas; the last one is for all that
    /// follow.
    #[arg(long, value_name = "DURATION", value_delimiter = ',', value_parser = parse_duration)]
    backoff: Vec<Duration>,
    /// Topic for copies of records that are given up.
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// Treatment of a record that is given up; by default dead-letter if there is a dead letter topic, else hold.
    #[arg(long, value_enum, value_name = "POLICY")]
    poison: Option<Poison>,
    /// Most records that may be leased or blocked at a time, up to 10000000; 1000000 by default.
    #[arg(long, value_name = "N")]
    lookahead_max: Option<u64>,
}

impl Settings {
    pub(super) fn message(&self) -> v1::GroupSettings {
        let poison = self.poison.map_or(PoisonPolicy::Unspecified, |poison| match poison {
            Poison::DeadLetter => PoisonPolicy::DeadLetter,
            Poison::ParkKey => PoisonPolicy::ParkKey,
            Poison::Hold => PoisonPolicy::Hold,
        });
        v1::GroupSettings {
            ack_deadline: self.ack_deadline.map(duration),
            lease_max: self.lease_max.map(duration),
            session_grace: self.session_grace.map(duration),
            deliveries_max: self.deliveries_max.unwrap_or(0),
            backoff: self.backoff.iter().copied().map(duration).collect(),
            dead_letter_topic: self.dead_letter_topic.clone().unwrap_or_default(),
            poison: poison.into(),
            lookahead_max: self.lookahead_max.unwrap_or(0),
            ..v1::GroupSettings::default()
        }
    }

    /// Paths of the settings that were given.
    pub(super) fn paths(&self) -> Vec<String> {
        let named = [
            (self.ack_deadline.is_some(), "ack_deadline"),
            (self.lease_max.is_some(), "lease_max"),
            (self.session_grace.is_some(), "session_grace"),
            (self.deliveries_max.is_some(), "deliveries_max"),
            (!self.backoff.is_empty(), "backoff"),
            (self.dead_letter_topic.is_some(), "dead_letter_topic"),
            (self.poison.is_some(), "poison"),
            (self.lookahead_max.is_some(), "lookahead_max"),
        ];
        named.into_iter().filter(|(given, _)| *given).map(|(_, path)| format!("settings.{path}")).collect()
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}
