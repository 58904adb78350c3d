//! The leases that a consumer holds, and when they have to be extended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::v1;

/// One lease.
#[derive(Debug)]
struct Held {
    token: Bytes,
    /// Records that were not answered as settled or lost.
    offsets: BTreeSet<u64>,
    ends: Instant,
    /// Time of the next request for more time; none while one is under way.
    extend_at: Option<Instant>,
}

impl Held {
    fn wakes_at(&self) -> Instant {
        self.extend_at.unwrap_or(self.ends).min(self.ends)
    }
}

/// Leases by fence.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: BTreeMap<u64, Held>,
    /// Leases that are to be extended now.
    due: VecDeque<u64>,
    /// Requests that are under way, by number.
    extending: BTreeMap<u64, u64>,
    number: u64,
    /// Time before which nothing is due; it may be too early.
    wakes_at: Option<Instant>,
}

/// Half of the time that a lease is held for: enough is left for a call that has to be made again.
fn extend_at(now: Instant, left: Duration) -> Instant {
    now + left / 2
}

impl Leases {
    /// Adds a lease.
    pub(super) fn add(&mut self, lease: &v1::Lease, offsets: impl Iterator<Item = u64>, now: Instant) {
        let left = time_left(lease.time_left);
        let held = Held {
            token: lease.token.clone(),
            offsets: offsets.collect(),
            ends: now + left,
            extend_at: Some(extend_at(now, left)),
        };
        if !held.offsets.is_empty() {
            self.wake(held.wakes_at());
            self.held.insert(lease.fence, held);
        }
    }

    fn wake(&mut self, at: Instant) {
        self.wakes_at = Some(self.wakes_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Returns true if the record is held under this fence.
    pub(super) fn holds(&self, fence: u64, offset: u64) -> bool {
        self.held.get(&fence).is_some_and(|held| held.offsets.contains(&offset))
    }

    /// The token of a lease.
    pub(super) fn token(&self, fence: u64) -> Option<Bytes> {
        self.held.get(&fence).map(|held| held.token.clone())
    }

    /// Forgets a record that was settled or lost.
    pub(super) fn remove(&mut self, fence: u64, offset: u64) {
        let Some(held) = self.held.get_mut(&fence) else { return };
        held.offsets.remove(&offset);
        if held.offsets.is_empty() {
            self.held.remove(&fence);
        }
    }

    /// The records of a lease in these ranges.
    pub(super) fn within(&self, fence: u64, ranges: &[v1::OffsetRange]) -> Vec<(u64, u64)> {
        let Some(held) = self.held.get(&fence) else { return Vec::new() };
        let found = ranges.iter().filter(|range| range.start < range.end);
        found.flat_map(|range| held.offsets.range(range.start..range.end).map(|at| (fence, *at))).collect()
    }

    /// All records of a lease.
    fn all(&self, fence: u64) -> Vec<(u64, u64)> {
        self.within(fence, &[v1::OffsetRange { start: 0, end: u64::MAX }])
    }

    /// Compares with what the session holds, as a new call says it. Returns the records that are lost, and ranges that
    /// are held but never came.
    pub(super) fn resume(&mut self, held: &[v1::Lease], now: Instant) -> (Vec<(u64, u64)>, Vec<Unknown>) {
        self.extending.clear();
        self.due.clear();
        let (mut lost, mut unknown) = (Vec::new(), Vec::new());
        for (fence, ours) in &mut self.held {
            let theirs = held.iter().find(|lease| lease.fence == *fence);
            let ranges = theirs.map_or(&[][..], |lease| &lease.ranges);
            let is_held = |at: u64| ranges.iter().any(|range| (range.start..range.end).contains(&at));
            lost.extend(ours.offsets.iter().filter(|at| !is_held(**at)).map(|at| (*fence, *at)));
            if let Some(lease) = theirs {
                let left = time_left(lease.time_left);
                (ours.token, ours.ends) = (lease.token.clone(), now + left);
                ours.extend_at = Some(extend_at(now, left));
            }
        }
        self.wakes_at = self.held.values().map(Held::wakes_at).min();
        for lease in held {
            let ours = self.held.get(&lease.fence).map(|held| &held.offsets);
            let missing: Vec<_> = lease.ranges.iter().flat_map(|range| without(*range, ours)).collect();
            if !missing.is_empty() {
                unknown.push(Unknown { fence: lease.fence, token: lease.token.clone(), ranges: missing });
            }
        }
        (lost, unknown)
    }

    /// The time at which [`Leases::tick`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.wakes_at.filter(|_| !self.held.is_empty())
    }

    /// Notes which leases are to be extended now, and returns the records of those that have ended.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(u64, u64)> {
        if self.wakes_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        for (fence, held) in &mut self.held {
            if held.ends <= now {
                ended.push(*fence);
            } else if held.extend_at.is_some_and(|at| at <= now) {
                held.extend_at = None;
                self.due.push_back(*fence);
            }
        }
        self.wakes_at = self.held.values().filter(|held| held.ends > now).map(Held::wakes_at).min();
        ended.into_iter().flat_map(|fence| self.all(fence)).collect()
    }

    /// Returns true if a lease is to be extended now.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The next request for more time.
    pub(super) fn next(&mut self) -> Option<v1::Extend> {
        loop {
            let fence = self.due.pop_front()?;
            if let Some(token) = self.token(fence) {
                self.number += 1;
                self.extending.insert(self.number, fence);
                return Some(v1::Extend { number: self.number, token, time: None });
            }
        }
    }

    /// Takes the answer to a request for more time. Returns the records that are lost.
    pub(super) fn extended(&mut self, extension: &v1::Extension, now: Instant) -> Vec<(u64, u64)> {
        let Some(fence) = self.extending.remove(&extension.number) else { return Vec::new() };
        let Some(left) = extension.time_left else { return self.all(fence) };
        let left = time_left(Some(left));
        if let Some(held) = self.held.get_mut(&fence) {
            let ends = now + left;
            // A lease whose longest time has come gets no more of it.
            let is_longer = ends > held.ends + Duration::from_millis(100);
            held.extend_at = is_longer.then(|| extend_at(now, left));
            held.ends = ends;
            let at = held.wakes_at();
            self.wake(at);
        }
        Vec::new()
    }
}

/// Ranges that a session holds, and whose records never came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) fence: u64,
    pub(super) token: Bytes,
    pub(super) ranges: Vec<v1::OffsetRange>,
}

/// Parts of a range that are left without these offsets.
fn without(range: v1::OffsetRange, offsets: Option<&BTreeSet<u64>>) -> Vec<v1::OffsetRange> {
    let (mut left, mut start) = (Vec::new(), range.start);
    let known =
        offsets.into_iter().flat_map(|offsets| offsets.range(range.start..range.end.max(range.start)));
    for &at in known {
        if at > start {
            left.push(v1::OffsetRange { start, end: at });
        }
        start = at + 1;
    }
    if range.end > start {
        left.push(v1::OffsetRange { start, end: range.end });
    }
    left
}

fn time_left(left: Option<prost_types::Duration>) -> Duration {
    /// A lease lasts for at most 7 days; a longer time would overflow the clock.
    const LEFT_MAX: Duration = Duration::from_secs(8 * 24 * 3600);
    left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default().min(LEFT_MAX)
}

#[cfg(test)]
mod tests {
    use super::{Leases, without};
    use crate::proto::v1::{Extension, Lease, OffsetRange};
    use std::time::{Duration, Instant};

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange { start, end }
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn lease(fence: u64, ranges: Vec<OffsetRange>) -> Lease {
        Lease { fence, token: "t".into(), time_left: seconds(30), ranges, ..Lease::default() }
    }

    #[test]
    fn a_lease_is_extended_at_half_its_time_until_it_gets_no_more() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        leases.add(&lease(7, vec![]), [1, 2].into_iter(), start);
        assert!(leases.wakes_at() == Some(at(15)) && leases.tick(at(14)).is_empty() && !leases.has_due());
        assert!(leases.tick(at(15)).is_empty() && leases.has_due());
        let number = leases.next().unwrap().number;
        assert!(leases.extended(&Extension { number, time_left: seconds(30) }, at(15)).is_empty());
        leases.tick(at(15));
        assert_eq!(leases.wakes_at(), Some(at(30)));
        leases.tick(at(30));
        let number = leases.next().unwrap().number;
        assert!(leases.extended(&Extension { number, time_left: seconds(15) }, at(30)).is_empty());
        leases.tick(at(30));
        assert_eq!(leases.wakes_at(), Some(at(45)), "its longest time has come");
        assert_eq!(leases.tick(at(45)), [(7, 1), (7, 2)]);
    }

    #[test]
    fn a_lease_that_cannot_be_extended_is_lost() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.add(&lease(7, vec![]), [1].into_iter(), start);
        leases.tick(start + Duration::from_secs(20));
        let number = leases.next().unwrap().number;
        assert_eq!(leases.extended(&Extension { number, time_left: None }, start), [(7, 1)]);
    }

    #[test]
    fn a_new_call_tells_what_is_lost_and_what_never_came() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        leases.add(&lease(1, vec![]), [1, 2, 4].into_iter(), now);
        leases.add(&lease(2, vec![]), [9].into_iter(), now);
        let (lost, unknown) =
            leases.resume(&[lease(1, vec![range(2, 5)]), lease(3, vec![range(20, 30)])], now);
        assert_eq!(lost, [(1, 1), (2, 9)]);
        let unknown: Vec<_> = unknown.into_iter().map(|unknown| (unknown.fence, unknown.ranges)).collect();
        assert_eq!(unknown, [(1, vec![range(3, 4)]), (3, vec![range(20, 30)])]);
        assert_eq!(without(range(3, 3), None), []);
    }
}
