//! How long a topic's records are kept.

use std::time::Duration;

/// How long records are kept. Whole batches are kept, so slightly more may be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Forget batches stored longer ago; none means never.
    pub max_age: Option<Duration>,
    /// Forget the oldest above so many bytes; none means no limit.
    pub max_bytes: Option<u64>,
    /// Forget the oldest above so many records; none means no limit.
    pub max_records: Option<u64>,
}

impl Retention {
    /// Longest age that is kept as such: 10,000 years, the most that a protobuf `Duration` holds.
    pub const AGE_MAX: Duration = Duration::from_secs(315_576_000_000);

    /// The same limits, as every engine keeps and tells them: an age in whole microseconds, rounded up so that
    /// the shortest is not taken for none, and at most [`Self::AGE_MAX`]. A limit of zero is none.
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
