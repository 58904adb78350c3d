//! Commits that one replica hands to another: the letters that contain them, and the commits that are held until they
//! are stored inside a commit of this replica. A handed-over commit is not passed on to a third replica; a replica that
//! cannot store it returns it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::bus::{Address, Letter};
use super::message::{HANDED_MAX, Head, IdEntry};

/// Header with the sequence up to which none of the commit's batches is stored.
const BASE: &str = "Streamway-Base";
/// Header with the reason why a commit is returned.
const BACK: &str = "Streamway-Back";

/// Memory that a commit of another replica takes in addition to its payload and its ids, in bytes.
const PARCEL_BYTES: usize = 512;
/// Maximum time for which a commit is held. The replica that handed it over gives up earlier.
const HELD_MAX: Duration = Duration::from_secs(10);

/// Reason why a commit is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The commit cannot be stored unchanged: one of its batches was stored in the meantime, or may have been.
    Stale,
    /// The replica hands over its own batches.
    Elsewhere,
    /// The budget for batches of other replicas has no room for it.
    Full,
    /// The replica is shutting down.
    Stopping,
}

impl Why {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Stale, "stale"),
        (Self::Elsewhere, "elsewhere"),
        (Self::Full, "full"),
        (Self::Stopping, "stopping"),
    ];

    /// Returns the time during which no further commit is handed to the replica that gave this reason.
    #[must_use]
    pub const fn pause(self) -> Duration {
        match self {
            Self::Stale | Self::Elsewhere => Duration::from_millis(20),
            Self::Full => Duration::from_millis(100),
            Self::Stopping => Duration::from_secs(5),
        }
    }
}

/// Builds the letter that hands over a commit.
#[must_use]
pub fn letter(to: Address, head: &Head, base: u64, payload: Bytes) -> Letter {
    let mut headers = head.described();
    headers.insert(BASE, base.to_string().as_str());
    Letter { who: to, tag: head.nonce, headers, payload }
}

/// Builds the letter that returns a commit.
#[must_use]
pub fn back(to: Address, nonce: u64, why: Why) -> Letter {
    let mut headers = HeaderMap::new();
    let text = Why::ALL.iter().find(|(reason, _)| *reason == why).map_or("stale", |(_, text)| text);
    headers.insert(BACK, text);
    Letter { who: to, tag: nonce, headers, payload: Bytes::new() }
}

/// Content of a letter.
#[derive(Debug)]
pub enum Content {
    /// A commit that is handed over.
    Handed(Parcel),
    /// The return of the commit whose nonce is the tag of the letter.
    Back(Why),
}

/// Commit that another replica built.
#[derive(Debug)]
pub struct Parcel {
    /// Address of the follower that built it.
    pub from: Address,
    /// Sequence up to which none of its batches is stored.
    pub base: u64,
    /// Headers that its message would have had.
    pub head: Head,
    /// Batches without offsets.
    pub payload: Bytes,
    came: Instant,
    /// Share of the budget for batches of other replicas.
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a letter. None if this version does not know its content.
#[must_use]
pub fn read(letter: Letter) -> Option<Content> {
    if let Some(back) = letter.headers.get(BACK) {
        let why = Why::ALL.iter().find(|(_, text)| *text == back.as_str());
        return Some(Content::Back(why.map_or(Why::Stale, |(why, _)| *why)));
    }
    let base = letter.headers.get(BASE)?.as_str().parse().ok()?;
    let head = Head::parse(&letter.headers).filter(|head| head.nonce == letter.tag && head.records > 0)?;
    // The payload is copied, because a slice would keep the whole receive buffer in memory.
    let (from, payload, came) = (letter.who, Bytes::copy_from_slice(&letter.payload), Instant::now());
    Some(Content::Handed(Parcel { from, base, head, payload, came, _share: None }))
}

/// Commits of other replicas that are to be stored, at most one per replica.
#[derive(Debug, Default)]
pub struct Held(Vec<Parcel>);

impl Held {
    /// Returns the held commits in the order of their arrival.
    #[must_use]
    pub fn all(&self) -> &[Parcel] {
        &self.0
    }

    /// Holds a commit, and drops an earlier one of the same replica. Returns false if there is no room for it.
    #[must_use]
    pub fn push(&mut self, parcel: Parcel, budget: &Arc<Semaphore>) -> bool {
        self.0.retain(|held| held.from != parcel.from);
        let ids = parcel.head.ids.len() * size_of::<IdEntry>();
        let bytes = u32::try_from(parcel.payload.len() + ids + PARCEL_BYTES).unwrap_or(u32::MAX);
        let share = budget.clone().try_acquire_many_owned(bytes).ok();
        let has_room = share.is_some() && self.0.len() < HANDED_MAX;
        if has_room {
            self.0.push(Parcel { _share: share, ..parcel });
        }
        has_room
    }

    /// Drops the commits for which `keep` returns false, and those that were held for too long.
    pub fn retain(&mut self, mut keep: impl FnMut(&Parcel) -> bool) {
        self.0.retain(|parcel| parcel.came.elapsed() < HELD_MAX && keep(parcel));
    }

    /// Drops all commits. Returns the address and the nonce of each.
    pub fn drain(&mut self) -> impl Iterator<Item = (Address, u64)> + '_ {
        self.0.drain(..).map(|parcel| (parcel.from, parcel.head.nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Bytes, Content, Head, Held, Parcel, letter, read};
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[test]
    fn what_is_held_for_others_keeps_no_buffer_that_it_was_read_into() {
        let buffer = Bytes::from(vec![7; 64 << 10]);
        let head = Head { nonce: 1, records: 1, ..Head::default() };
        let letter = letter(Address::random(), &head, 5, buffer.slice(100..200));
        assert!(!letter.payload.is_unique());
        let Some(Content::Handed(parcel)) = read(letter) else { panic!("it hands over a commit") };
        assert!(parcel.payload.is_unique() && *parcel.payload == [7; 100]);
    }

    fn parcel(from: Address, bytes: usize) -> Parcel {
        let head = Head { nonce: 1, records: 1, ..Head::default() };
        let letter = letter(from, &head, 0, vec![0; bytes].into());
        let Some(Content::Handed(parcel)) = read(letter) else { panic!("not a commit") };
        parcel
    }

    #[test]
    fn what_is_held_is_charged_to_the_budget_until_it_is_forgotten() {
        let budget = Arc::new(Semaphore::new(100_000));
        let ([one, other], mut held) = ([(); 2].map(|()| Address::random()), Held::default());
        assert!(held.push(parcel(one, 60_000), &budget));
        assert!(!held.push(parcel(other, 60_000), &budget), "20,000 too many");
        assert!(held.push(parcel(other, 20_000), &budget));
        assert!(budget.available_permits() < 20_000);
        // A larger commit replaces an earlier one of the same replica.
        assert!(held.push(parcel(one, 70_000), &budget));
        let sizes: Vec<_> = held.all().iter().map(|parcel| parcel.payload.len()).collect();
        assert_eq!(sizes, [20_000, 70_000]);
        held.retain(|_| false);
        assert_eq!(budget.available_permits(), 100_000);
    }
}
