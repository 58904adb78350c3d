//! Bans of principals and addresses, in memory and for a time. A call reads them without a lock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

/// Maximum bans at a time.
pub const BANS_MAX: usize = 1024;

/// Principal or address, ordered for lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Banned {
    /// All calls of a principal.
    Principal(Arc<str>),
    /// All calls from an address.
    Address(IpAddr),
}

/// Ends of all bans, of which some may have passed.
type Ends = BTreeMap<Banned, SystemTime>;

/// All bans.
#[derive(Debug, Default)]
pub struct Bans {
    ends: ArcSwap<Ends>,
    /// Held while the bans change.
    changing: Mutex<()>,
}

/// There are [`BANS_MAX`] bans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyBans;

impl Bans {
    /// Bans until `end`, in place of an earlier ban.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&self, banned: Banned, end: SystemTime) -> Result<(), TooManyBans> {
        self.change(|ends| {
            ends.insert(banned, end);
            if ends.len() > BANS_MAX { Err(TooManyBans) } else { Ok(()) }
        })
    }

    /// Lifts a ban. Returns false if there was none.
    pub fn lift(&self, banned: &Banned) -> bool {
        self.change(|ends| ends.remove(banned).ok_or(())).is_ok()
    }

    /// Returns the end of the ban of a call; none if it is not banned.
    #[must_use]
    pub fn end(&self, principal: &Arc<str>, address: Option<IpAddr>) -> Option<SystemTime> {
        let ends = self.ends.load();
        if ends.is_empty() {
            return None;
        }
        let principal = ends.get(&Banned::Principal(Arc::clone(principal)));
        let address = address.and_then(|address| ends.get(&Banned::Address(address.to_canonical())));
        let end = principal.into_iter().chain(address).max()?;
        (*end > SystemTime::now()).then_some(*end)
    }

    /// Lists up to `limit` bans in force, in order after `after`.
    #[must_use]
    pub fn list(&self, after: Option<&Banned>, limit: usize) -> Vec<(Banned, SystemTime)> {
        let (ends, now) = (self.ends.load(), SystemTime::now());
        let rest =
            ends.iter().filter(|(banned, end)| **end > now && after.is_none_or(|after| *banned > after));
        rest.take(limit).map(|(banned, end)| (banned.clone(), *end)).collect()
    }

    /// Changes a copy without the bans that have passed, and puts it in force unless the change fails.
    fn change<T, E>(&self, change: impl FnOnce(&mut Ends) -> Result<T, E>) -> Result<T, E> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut ends, now) = (Ends::clone(&self.ends.load()), SystemTime::now());
        ends.retain(|_, end| *end > now);
        let done = change(&mut ends)?;
        self.ends.store(Arc::new(ends));
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::{BANS_MAX, Banned, Bans, TooManyBans};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn principal(name: &str) -> Banned {
        Banned::Principal(name.into())
    }

    #[test]
    fn bans_end_by_themselves_or_are_lifted_and_are_limited() {
        let (bans, now) = (Bans::default(), SystemTime::now());
        let later = now + Duration::from_secs(60);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let nobody: Arc<str> = "nobody".into();
        bans.add(Banned::Address(address), later).unwrap();
        bans.add(principal("a"), now - Duration::from_secs(1)).unwrap();
        assert_eq!(bans.end(&nobody, "::ffff:10.0.0.1".parse().ok()), Some(later));
        assert_eq!(bans.end(&"a".into(), None), None, "it has passed");
        for i in 1..BANS_MAX {
            bans.add(principal(&i.to_string()), later).unwrap();
        }
        assert_eq!(bans.add(principal("more"), later), Err(TooManyBans));
        assert_eq!(bans.end(&"more".into(), None), None);
        bans.add(principal("1"), later).expect("it replaces another");
        let (mut listed, mut after) = (0, None);
        loop {
            let page = bans.list(after.as_ref(), 100);
            let Some((last, _)) = page.last() else { break };
            (listed, after) = (listed + page.len(), Some(last.clone()));
        }
        assert_eq!(listed, BANS_MAX);
        assert!(bans.lift(&Banned::Address(address)) && !bans.lift(&Banned::Address(address)));
        assert_eq!(bans.end(&nobody, Some(address)), None);
    }
}
