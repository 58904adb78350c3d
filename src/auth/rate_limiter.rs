//! Quotas, as token buckets of one number each, without a lock or an allocation for a publish. A publish is
//! admitted while its buckets are not in deficit, and then consumes whatever it costs; a bucket holds the tokens of
//! one second. A stream takes what is left without asking for each publish, and consumes it at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// Capacity of a bucket as the time that fills it.
const BURST_NS: u64 = 1_000_000_000;

/// Limits of callers; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of records published in a second.
    pub publish_bytes_per_s: u64,
    /// Records published in a second.
    pub publish_records_per_s: u64,
    /// Subscriptions open at once.
    pub subscriptions_max: u64,
    /// Topics that a caller may administer and still create one more.
    pub topics_max: u64,
}

impl Limits {
    /// Tells whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Tells whether publishing is not limited.
    pub(super) const fn publishing_is_free(&self) -> bool {
        self.publish_bytes_per_s == 0 && self.publish_records_per_s == 0
    }
}

/// Amount that may be published until a quota is in deficit; one more publish is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of records.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Allowance {
    /// Allowance without a limit.
    pub(super) const ANY: Self = Self { bytes: u64::MAX, records: u64::MAX };

    /// Returns what both allow.
    pub(super) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), records: self.records.min(other.records) }
    }
}

/// Usage of one principal, or of all together.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    bytes: Bucket,
    records: Bucket,
    subscriptions: AtomicU64,
    /// Held by the one call that may create a topic.
    creating: Arc<tokio::sync::Mutex<()>>,
}

/// Returns nanoseconds on a monotonic clock, which starts an hour before it is first read.
pub(super) fn now_ns() -> u64 {
    // By the system's clock, and early: a test may have paused its clock before, or have advanced it.
    static ORIGIN: LazyLock<Instant> = LazyLock::new(|| {
        let now = std::time::Instant::now();
        now.checked_sub(Duration::from_secs(3600)).unwrap_or(now).into()
    });
    let since = Instant::now().saturating_duration_since(*ORIGIN);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl RateLimiter {
    /// Returns the quota that is longest in deficit, its limit, and for how long.
    pub(super) fn deficit(&self, limits: &Limits, now: u64) -> Option<(&'static str, u64, Duration)> {
        let buckets = [
            ("publish_bytes_per_s", limits.publish_bytes_per_s, &self.bytes),
            ("publish_records_per_s", limits.publish_records_per_s, &self.records),
        ];
        let in_deficit = buckets.into_iter().filter(|(_, limit, _)| *limit > 0);
        let in_deficit = in_deficit.map(|(name, limit, bucket)| (name, limit, bucket.deficit(now)));
        in_deficit.filter(|(.., deficit)| !deficit.is_zero()).max_by_key(|(.., deficit)| *deficit)
    }

    /// Returns what may be published before there is a deficit.
    pub(super) fn allowance(&self, limits: &Limits, now: u64) -> Allowance {
        Allowance {
            bytes: self.bytes.left(limits.publish_bytes_per_s, now),
            records: self.records.left(limits.publish_records_per_s, now),
        }
    }

    /// Consumes what was published.
    pub(super) fn consume(&self, limits: &Limits, bytes: u64, records: u64, now: u64) {
        self.bytes.consume(bytes, limits.publish_bytes_per_s, now);
        self.records.consume(records, limits.publish_records_per_s, now);
    }

    /// Counts one more subscription, where the limit leaves room.
    pub(super) fn subscribe(self: &Arc<Self>, limits: &Limits) -> Option<CountedSubscription> {
        let most = if limits.subscriptions_max == 0 { u64::MAX } else { limits.subscriptions_max };
        let more = |open: u64| (open < most).then_some(open + 1);
        let counted = self.subscriptions.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        counted.is_ok().then(|| CountedSubscription(Arc::clone(self)))
    }

    /// Waits for the lock of creating a topic.
    pub(super) async fn creating(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.creating).lock_owned().await
    }

    /// Tells whether a new rate limiter would behave the same.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.bytes.is_full(now)
            && self.records.is_full(now)
            && self.subscriptions.load(Ordering::Relaxed) == 0
    }
}

/// Subscription that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct CountedSubscription(Arc<RateLimiter>);

impl Drop for CountedSubscription {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Permit of a subscription, which counts against the quotas until this is dropped.
#[derive(Debug)]
pub struct SubscriptionPermit(#[expect(dead_code, reason = "held")] pub(super) [CountedSubscription; 2]);

/// Token bucket, stored as the time at which it is full (GCRA, ATM Forum TM 4.1 §4.4.2, with deficit): consuming
/// moves that time back. It is in deficit while that time is farther away than it takes to fill an empty bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at: AtomicU64,
}

impl Bucket {
    /// Returns for how long it is in deficit.
    pub(super) fn deficit(&self, now: u64) -> Duration {
        let full_at = self.full_at.load(Ordering::Acquire);
        Duration::from_nanos(full_at.saturating_sub(now.saturating_add(BURST_NS)))
    }

    /// Returns how much is left in a bucket that is filled at `rate` a second.
    fn left(&self, rate: u64, now: u64) -> u64 {
        if rate == 0 {
            return u64::MAX;
        }
        let missing = self.full_at.load(Ordering::Acquire).saturating_sub(now);
        let left = u128::from(BURST_NS.saturating_sub(missing)) * u128::from(rate);
        u64::try_from(left / u128::from(BURST_NS)).unwrap_or(u64::MAX)
    }

    /// Tells whether a new one would behave the same.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now
    }

    /// Takes `amount` from a bucket that is filled at `rate` a second.
    pub(super) fn consume(&self, amount: u64, rate: u64, now: u64) {
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
    use super::{Bucket, Limits, RateLimiter};
    use std::sync::Arc;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_full_bucket_admits_a_seconds_worth_and_one_publish_into_debt() {
        let (bucket, now) = (Bucket::default(), 7 * SECOND);
        for _ in 0..10 {
            assert!(bucket.deficit(now).is_zero());
            bucket.consume(100, 1000, now);
        }
        assert!(bucket.deficit(now).is_zero(), "empty is not in deficit");
        assert_eq!(bucket.left(1000, now), 0);
        bucket.consume(2500, 1000, now);
        assert_eq!((bucket.left(1000, now), bucket.left(1000, now + 3 * SECOND)), (0, 500));
        assert_eq!((bucket.left(1000, now + 9 * SECOND), bucket.left(0, now)), (1000, u64::MAX));
        assert_eq!(bucket.deficit(now), Duration::from_millis(2500));
        assert_eq!(bucket.deficit(now + SECOND), Duration::from_millis(1500));
        assert!(bucket.deficit(now + 5 * SECOND / 2).is_zero());
    }

    #[test]
    fn over_time_it_admits_the_rate_and_no_more() {
        let bucket = Bucket::default();
        let (mut admitted, mut now) = (0, SECOND);
        while now < 11 * SECOND {
            if bucket.deficit(now).is_zero() {
                bucket.consume(50, 1000, now);
                admitted += 50;
            }
            now += SECOND / 1000;
        }
        assert!((10_900..=11_100).contains(&admitted), "ten seconds and one burst: {admitted}");
    }

    #[test]
    fn the_quota_with_the_longest_deficit_is_named() {
        let limits = Limits { publish_bytes_per_s: 1000, publish_records_per_s: 10, ..Limits::default() };
        let rate_limiter = RateLimiter::default();
        rate_limiter.consume(&limits, 1100, 30, 0);
        let (name, limit, deficit) = rate_limiter.deficit(&limits, 0).unwrap();
        assert_eq!((name, limit, deficit), ("publish_records_per_s", 10, Duration::from_secs(2)));
        assert!(rate_limiter.deficit(&Limits { publish_records_per_s: 0, ..limits }, SECOND).is_none());
        assert_eq!((rate_limiter.is_unused(2 * SECOND), rate_limiter.is_unused(3 * SECOND)), (false, true));
    }

    #[test]
    fn subscriptions_are_given_back() {
        let (limits, rate_limiter) =
            (Limits { subscriptions_max: 2, ..Limits::default() }, Arc::new(RateLimiter::default()));
        let (first, second) = (rate_limiter.subscribe(&limits), rate_limiter.subscribe(&limits));
        assert!(first.is_some() && second.is_some() && rate_limiter.subscribe(&limits).is_none());
        drop(first);
        assert!(rate_limiter.subscribe(&limits).is_some());
        assert!(rate_limiter.subscribe(&Limits::default()).is_some(), "0 is no limit");
    }

    #[test]
    fn huge_amounts_do_not_overflow() {
        let bucket = Bucket::default();
        bucket.consume(u64::MAX, 1, u64::MAX / 2);
        bucket.consume(u64::MAX, 1, 0);
        assert!(!bucket.deficit(0).is_zero());
        assert_eq!((bucket.left(1, 0), Bucket::default().left(u64::MAX, 0)), (0, u64::MAX));
    }
}
