//! Decision of a replica to append its batches itself or to hand them to the replica that is usually faster. It depends
//! on the replicas that stored the latest messages and on the duration of commits. It affects only speed: the order is
//! always correct, because each commit names the sequence that it must follow.

use std::time::Duration;

use tokio::time::Instant;

use super::bus::Address;

/// Number of consecutive commits that must lose their place before batches are handed over.
const LOSSES: u32 = 2;
/// Multiple of the duration of a commit. A rival that stored no batches of its own for that time no longer counts as a
/// rival.
const QUIET_FACTOR: u32 = 8;
/// Lower bound of that time.
const QUIET_MIN: Duration = Duration::from_millis(20);
/// Upper bound of that time.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Assumed duration of a commit before one was measured.
const TAKES_GUESS: Duration = Duration::from_millis(10);
/// Maximum number of replicas that are remembered as refusing batches.
const AVOIDED_MAX: usize = 16;

/// State of the competition for a topic.
#[derive(Debug, Default)]
pub struct Contest {
    losses: u32,
    /// Another replica that stored batches of its own, with the last time at which it did.
    rival: Option<(Address, Instant)>,
    handing: bool,
    avoided: Vec<(Address, Instant)>,
    /// Average duration of a commit.
    takes: Option<Duration>,
}

impl Contest {
    /// Average duration of a commit.
    #[must_use]
    pub fn takes(&self) -> Duration {
        self.takes.unwrap_or(TAKES_GUESS)
    }

    fn quiet(&self) -> Duration {
        (self.takes() * QUIET_FACTOR).clamp(QUIET_MIN, QUIET_MAX)
    }

    /// Records the duration of a commit.
    pub fn answered(&mut self, after: Duration) {
        self.takes = Some(self.takes.map_or(after, |takes| (takes * 7 + after) / 8));
    }

    /// Records that another replica stored batches of its own. `by` is none for an older version, which accepts no
    /// batches.
    pub fn stored_by(&mut self, by: Option<Address>, now: Instant) {
        let Some(by) = by else { return };
        let quiet = self.quiet();
        match &mut self.rival {
            // The current rival is not replaced while it is busy.
            Some((rival, at)) if *rival != by && now - *at < quiet => {}
            rival => *rival = Some((by, now)),
        }
    }

    /// Records that a message of another replica took the place of a commit of this one.
    pub fn lost(&mut self) {
        self.losses = self.losses.saturating_add(1);
    }

    /// Records that a commit of this replica was stored.
    pub const fn won(&mut self) {
        self.losses = 0;
    }

    /// Switches back to appending the batches of this replica itself.
    pub const fn lead(&mut self) {
        (self.losses, self.handing) = (0, false);
    }

    /// Records that a replica accepts no batches during `pause`.
    pub fn refused(&mut self, by: Address, pause: Duration, now: Instant) {
        self.lead();
        self.avoided.retain(|(address, until)| *address != by && *until > now);
        if self.avoided.len() < AVOIDED_MAX {
            self.avoided.push((by, now + pause));
        }
    }

    /// Returns true while this replica hands its batches over.
    #[must_use]
    pub const fn is_handing(&self) -> bool {
        self.handing
    }

    /// Returns true if this replica hands its batches to `other`.
    #[must_use]
    pub fn hands_to(&self, other: Address) -> bool {
        self.handing && self.rival.is_some_and(|(rival, _)| rival == other)
    }

    /// Returns the replica to hand batches to, if any.
    pub fn peer(&mut self, now: Instant) -> Option<Address> {
        let peer = self.rival.filter(|(rival, at)| {
            let avoided = self.avoided.iter().any(|(address, until)| address == rival && *until > now);
            now - *at < self.quiet() && !avoided
        });
        if self.handing && peer.is_none() {
            self.lead();
        }
        self.handing |= self.losses >= LOSSES && peer.is_some();
        peer.filter(|_| self.handing).map(|(rival, _)| rival)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Contest, Duration, Instant};

    const MS: Duration = Duration::from_millis(1);

    /// Builds the state of a replica whose commits take 10 ms and that lost its place twice to a rival.
    fn beaten(rival: Address, now: Instant) -> Contest {
        let mut contest = Contest::default();
        contest.answered(10 * MS);
        for _ in 0..2 {
            assert_eq!(contest.peer(now), None);
            contest.stored_by(Some(rival), now);
            contest.lost();
        }
        contest
    }

    #[test]
    fn batches_are_handed_over_after_two_losses_for_as_long_as_the_rival_is_busy() {
        let (rival, mut now) = (Address::random(), Instant::now());
        let mut contest = beaten(rival, now);
        for _ in 0..100 {
            now += 20 * MS;
            contest.stored_by(Some(rival), now);
            assert_eq!(contest.peer(now), Some(rival));
        }
        now += 79 * MS;
        assert_eq!(contest.peer(now), Some(rival));
        now += MS;
        assert_eq!(contest.peer(now), None, "it is quiet");
        contest.stored_by(Some(rival), now);
        assert_eq!(contest.peer(now), None, "it has to be lost to again");
    }

    #[test]
    fn a_loss_now_and_then_is_borne() {
        let (rival, now) = (Address::random(), Instant::now());
        let mut contest = Contest::default();
        for _ in 0..100 {
            contest.stored_by(Some(rival), now);
            contest.lost();
            assert_eq!(contest.peer(now), None);
            contest.won();
        }
    }

    #[test]
    fn one_that_refuses_is_left_alone_for_a_while() {
        let (rival, mut now) = (Address::random(), Instant::now());
        let mut contest = beaten(rival, now);
        assert_eq!(contest.peer(now), Some(rival));
        contest.refused(rival, 50 * MS, now);
        for after in [0, 49, 50] {
            contest.stored_by(Some(rival), now + after * MS);
            contest.lost();
            contest.lost();
            assert_eq!(contest.peer(now + after * MS).is_some(), after == 50);
        }
        now += 60 * MS;
        contest.stored_by(None, now);
        assert!(contest.hands_to(rival));
    }
}
