//! Quotas: what was used, as one number a bucket. A publish is admitted while its buckets are not in
//! debt, and then pays, whatever it costs; a bucket holds what one second brings.
//! Never: a lock, or an allocation for a publish.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;

/// What a bucket holds, in time: one second's worth.
const BURST_NS: u64 = 1_000_000_000;

/// How much; 0 for as much as they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of records published in a second.
    pub publish_bytes_per_s: u64,
    /// Records published in a second.
    pub publish_records_per_s: u64,
    /// Subscriptions open at once.
    pub subscriptions_max: u64,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether publishing is not limited.
    pub(super) const fn publishing_is_free(&self) -> bool {
        self.publish_bytes_per_s == 0 && self.publish_records_per_s == 0
    }
}

/// What one principal, or all together, have used.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: Bucket,
    records: Bucket,
    subscriptions: AtomicU64,
}

/// Nanoseconds on our own clock, which begins when it is first looked at.
pub(super) fn now_ns() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = Instant::now().saturating_duration_since(*ORIGIN);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    /// The quota that is in debt, its limit, and for how long it is.
    pub(super) fn debt(&self, limits: &Limits, now: u64) -> Option<(&'static str, u64, Duration)> {
        let buckets = [
            ("publish_bytes_per_s", limits.publish_bytes_per_s, &self.bytes),
            ("publish_records_per_s", limits.publish_records_per_s, &self.records),
        ];
        let owing = buckets.into_iter().filter(|(_, limit, _)| *limit > 0);
        let owing = owing.map(|(name, limit, bucket)| (name, limit, bucket.debt(now)));
        owing.filter(|(.., debt)| !debt.is_zero()).max_by_key(|(.., debt)| *debt)
    }

    /// Pays for a publish.
    pub(super) fn pay(&self, limits: &Limits, bytes: u64, records: u64, now: u64) {
        self.bytes.pay(bytes, limits.publish_bytes_per_s, now);
        self.records.pay(records, limits.publish_records_per_s, now);
    }

    /// Counts one subscription more, where the limit leaves room.
    pub(super) fn subscribe(self: &Arc<Self>, limits: &Limits) -> Option<Counted> {
        let most = if limits.subscriptions_max == 0 { u64::MAX } else { limits.subscriptions_max };
        let more = |open: u64| (open < most).then_some(open + 1);
        let counted = self.subscriptions.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        counted.is_ok().then(|| Counted(Arc::clone(self)))
    }

    /// Whether a new meter would say the same.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        let full = |bucket: &Bucket| bucket.full_at.load(Ordering::Relaxed) <= now;
        full(&self.bytes) && full(&self.records) && self.subscriptions.load(Ordering::Relaxed) == 0
    }
}

/// A subscription that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Meter>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A subscription that counts against the quotas until this is dropped.
#[derive(Debug)]
pub struct Subscribed(#[expect(dead_code, reason = "held")] pub(super) [Counted; 2]);

/// A bucket as the time at which it is full (GCRA, ATM Forum TM 4.1 §4.4.2, with debt): every payment
/// puts that off. It is in debt where that is further away than filling it from empty takes.
#[derive(Debug, Default)]
struct Bucket {
    full_at: AtomicU64,
}

impl Bucket {
    fn debt(&self, now: u64) -> Duration {
        let full_at = self.full_at.load(Ordering::Acquire);
        Duration::from_nanos(full_at.saturating_sub(now.saturating_add(BURST_NS)))
    }

    fn pay(&self, amount: u64, rate: u64, now: u64) {
        if rate == 0 {
            return;
        }
        let cost = u128::from(amount) * u128::from(BURST_NS) / u128::from(rate);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let later = |full_at: u64| Some(full_at.max(now).saturating_add(cost));
        let _ = self.full_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Limits, Meter};
    use std::sync::Arc;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_full_bucket_admits_a_seconds_worth_and_one_publish_into_debt() {
        let (bucket, now) = (Bucket::default(), 7 * SECOND);
        for _ in 0..10 {
            assert!(bucket.debt(now).is_zero());
            bucket.pay(100, 1000, now);
        }
        assert!(bucket.debt(now).is_zero(), "empty is not in debt");
        bucket.pay(2500, 1000, now);
        assert_eq!(bucket.debt(now), Duration::from_millis(2500));
        assert_eq!(bucket.debt(now + SECOND), Duration::from_millis(1500));
        assert!(bucket.debt(now + 5 * SECOND / 2).is_zero());
    }

    #[test]
    fn over_time_it_admits_the_rate_and_no_more() {
        let bucket = Bucket::default();
        let (mut admitted, mut now) = (0, SECOND);
        while now < 11 * SECOND {
            if bucket.debt(now).is_zero() {
                bucket.pay(50, 1000, now);
                admitted += 50;
            }
            now += SECOND / 1000;
        }
        assert!((10_900..=11_100).contains(&admitted), "ten seconds and one burst: {admitted}");
    }

    #[test]
    fn the_quota_that_owes_longest_is_named() {
        let limits = Limits { publish_bytes_per_s: 1000, publish_records_per_s: 10, subscriptions_max: 0 };
        let meter = Meter::default();
        meter.pay(&limits, 1100, 30, 0);
        let (name, limit, debt) = meter.debt(&limits, 0).unwrap();
        assert_eq!((name, limit, debt), ("publish_records_per_s", 10, Duration::from_secs(2)));
        assert!(meter.debt(&Limits { publish_records_per_s: 0, ..limits }, SECOND).is_none());
        assert_eq!((meter.is_unused(2 * SECOND), meter.is_unused(3 * SECOND)), (false, true));
    }

    #[test]
    fn subscriptions_are_given_back() {
        let (limits, meter) =
            (Limits { subscriptions_max: 2, ..Limits::default() }, Arc::new(Meter::default()));
        let (first, second) = (meter.subscribe(&limits), meter.subscribe(&limits));
        assert!(first.is_some() && second.is_some() && meter.subscribe(&limits).is_none());
        drop(first);
        assert!(meter.subscribe(&limits).is_some());
        assert!(meter.subscribe(&Limits::default()).is_some(), "0 is no limit");
    }

    #[test]
    fn amounts_beyond_all_measure_overflow_nothing() {
        let bucket = Bucket::default();
        bucket.pay(u64::MAX, 1, u64::MAX / 2);
        bucket.pay(u64::MAX, 1, 0);
        assert!(!bucket.debt(0).is_zero());
    }
}
