//! Settings of a group, checked.

use serde::{Deserialize, Serialize};

use super::marks::Mark;
use crate::record::TopicName;

/// Order in which a group's records are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// No order: records are handled in parallel.
    #[default]
    None,
    /// Records with the same key are handled one after the other. Records without a key are in no order.
    Key,
    /// All records are handled one after the other, by one member at a time.
    Total,
}

/// Treatment of a record whose deliveries were all in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Poison {
    /// A copy goes to the dead letter topic, and the record is settled.
    #[default]
    DeadLetter,
    /// The record and all later ones of its key are set aside.
    ParkKey,
    /// The record is delivered no more, and what is ordered after it waits.
    Hold,
}

/// Settings of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Order of delivery.
    pub order: Order,
    /// Time that a member has for a lease until it has to extend it, in milliseconds; 1 s to a day.
    pub ack_deadline_ms: u64,
    /// Longest time of one lease, extensions included, in milliseconds; at least the deadline, at most a week.
    pub lease_max_ms: u64,
    /// Time for which a member that was cut off keeps its leases, in milliseconds; at most a day.
    pub session_grace_ms: u64,
    /// Number of failed deliveries after which a record is poison; 0 for never.
    pub deliveries_max: u32,
    /// Delays after the first, second … failure, in milliseconds, the last one for all further ones; at most 16 of at
    /// most a day. Without any, a failed record is due at once.
    pub backoff_ms: Vec<u64>,
    /// Topic for copies of poison.
    pub dead_letter_topic: Option<TopicName>,
    /// Treatment of poison.
    pub poison: Poison,
    /// Most records that may be leased or blocked at a time; 1 to 10,000,000.
    pub lookahead_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            order: Order::None,
            ack_deadline_ms: 30_000,
            lease_max_ms: HOUR_MS,
            session_grace_ms: 10_000,
            deliveries_max: 0,
            backoff_ms: Vec::new(),
            dead_letter_topic: None,
            poison: Poison::DeadLetter,
            lookahead_max: 1_000_000,
        }
    }
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Longest list of delays.
pub(super) const BACKOFF_LEN_MAX: usize = 16;

impl Settings {
    /// Checks the settings of a group of `topic`.
    ///
    /// # Errors
    /// The field that is wrong, and the reason.
    pub fn check(&self, topic: &TopicName) -> Result<(), (&'static str, &'static str)> {
        let rules: [(bool, &str, &str); 8] = [
            ((1000..=DAY_MS).contains(&self.ack_deadline_ms), "ack_deadline", "must be between 1 s and 24 h"),
            (
                (self.ack_deadline_ms..=7 * DAY_MS).contains(&self.lease_max_ms),
                "lease_max",
                "must be between ack_deadline and 7 d",
            ),
            (self.session_grace_ms <= DAY_MS, "session_grace", "must be at most 24 h"),
            (self.deliveries_max < Mark::DEAD, "deliveries_max", "must be below 2^31"),
            (self.backoff_ms.len() <= BACKOFF_LEN_MAX, "backoff", "must have at most 16 delays"),
            (self.backoff_ms.iter().all(|&delay| delay <= DAY_MS), "backoff", "must be at most 24 h each"),
            (self.dead_letter_topic.as_ref() != Some(topic), "dead_letter_topic", "must be another topic"),
            (
                (1..=10_000_000).contains(&self.lookahead_max),
                "lookahead_max",
                "must be between 1 and 10,000,000",
            ),
        ];
        let broken = rules.iter().find(|(is_kept, _, _)| !is_kept);
        broken.map_or(Ok(()), |&(_, field, reason)| Err((field, reason)))
    }

    /// Delay after this many failed deliveries, in milliseconds.
    #[must_use]
    pub fn delay_ms(&self, deliveries: u32) -> u64 {
        let at = (deliveries.max(1) - 1) as usize;
        self.backoff_ms.get(at).or(self.backoff_ms.last()).copied().unwrap_or(0)
    }
}
