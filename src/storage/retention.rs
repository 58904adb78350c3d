//! Limits of what a topic keeps.

use std::time::Duration;

/// Limits of what a topic keeps. Whole batches are kept, so there may be slightly more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Batches stored longer ago are forgotten; none means no limit.
    pub max_age: Option<Duration>,
    /// The oldest batches are forgotten above this many bytes; none means no limit.
    pub max_bytes: Option<u64>,
    /// The oldest batches are forgotten above this many records; none means no limit.
    pub max_records: Option<u64>,
}

impl Retention {
    /// Longest age: 10,000 years, the most that a protobuf `Duration` holds.
    pub const AGE_MAX: Duration = Duration::from_secs(315_576_000_000);

    /// Returns the same limits as every engine stores and reports them: the age in whole microseconds, rounded up so
    /// that the shortest age does not become none, and at most [`Self::AGE_MAX`]. A limit of zero becomes none.
    #[must_use]
    pub fn normalized(self) -> Self {
        let age = self.max_age.filter(|age| !age.is_zero()).map(|age| {
            let micros = age.min(Self::AGE_MAX).as_nanos().div_ceil(1000);
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        });
        let some = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
        Self { max_age: age, max_bytes: some(self.max_bytes), max_records: some(self.max_records) }
    }
}
