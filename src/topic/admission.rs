//! The budget of bytes in flight: those that were received from publishers and are not durable yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// Bytes acquired from the budget. They are released on drop.
#[derive(Debug)]
pub struct Permit {
    _total: OwnedSemaphorePermit,
    _connection: Option<OwnedSemaphorePermit>,
}

/// A handle to the server's budget, or to one connection's part of it.
#[derive(Clone, Debug)]
pub struct Admission {
    total: Budget,
    /// The part of one connection.
    connection: Option<Budget>,
}

#[derive(Clone, Debug)]
struct Budget {
    permits: Arc<Semaphore>,
    /// Bytes that wait for a permit, as they are in memory too.
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Bytes that are counted as waiting until this is dropped.
struct Waiting {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Admission {
    /// A budget of `bytes_max` bytes. The same number of bytes may wait for it.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { total: Budget::new(bytes_max), connection: None }
    }

    /// A new connection's part: `bytes_max` bytes of the same budget, so that one connection cannot use up all of it.
    #[must_use]
    pub fn for_connection(&self, bytes_max: usize) -> Self {
        Self { total: self.total.clone(), connection: Some(Budget::new(bytes_max)) }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.total.bytes_max.saturating_sub(self.total.permits.available_permits())
    }

    /// Acquires `bytes` if they are available and nothing waits.
    #[must_use]
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let own = match &self.connection {
            Some(connection) => Some(connection.try_acquire(bytes)?),
            None => None,
        };
        Some(Permit { _total: self.total.try_acquire(bytes)?, _connection: own })
    }

    /// Waits for `bytes` in the order of the calls.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if as many bytes as the budget, or the connection's part, has are waiting already.
    pub async fn acquire(self, bytes: usize) -> Result<Permit, Error> {
        // The bytes are in memory during both waits, so they count for the whole budget from here on.
        let _waiting = self.total.wait(bytes)?;
        let own = match &self.connection {
            Some(connection) => {
                let _waiting = connection.wait(bytes)?;
                Some(connection.acquire(bytes).await?)
            }
            None => None,
        };
        Ok(Permit { _total: self.total.acquire(bytes).await?, _connection: own })
    }
}

impl Budget {
    fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { permits: Arc::new(Semaphore::new(bytes_max)), waiting: Arc::default(), bytes_max }
    }

    /// Number of permits; a batch larger than the budget takes all of it.
    fn permits_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).expect("the budget is at most 32 bits")
    }

    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(self.permits_for(bytes)).ok()
    }

    /// Counts `bytes` as waiting.
    fn wait(&self, bytes: usize) -> Result<Waiting, Error> {
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let waiting = Waiting { total: Arc::clone(&self.waiting), bytes };
        if before >= self.bytes_max { Err(Error::Overloaded) } else { Ok(waiting) }
    }

    async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let permits = self.permits_for(bytes);
        let permits = Arc::clone(&self.permits).acquire_many_owned(permits);
        permits.await.map_err(|_| Error::Draining)
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Error};
    use std::task::Poll;

    #[tokio::test]
    async fn waiting_bytes_are_limited_too() {
        let admission = Admission::new(100);
        let held = admission.try_acquire(90).expect("free");
        assert!(admission.try_acquire(20).is_none());
        let mut first = Box::pin(admission.clone().acquire(100));
        assert!(matches!(futures_util::poll!(&mut first), Poll::Pending));
        assert_eq!(admission.clone().acquire(1).await.unwrap_err(), Error::Overloaded);
        drop(held);
        drop(first.await.expect("room again"));
        assert!(admission.try_acquire(1000).is_some(), "a batch larger than the budget takes all of it");
    }

    #[tokio::test]
    async fn bytes_that_wait_for_a_connections_part_count_as_waiting_for_all() {
        let admission = Admission::new(100);
        let connections: Vec<_> = (0..4).map(|_| admission.for_connection(50)).collect();
        let _held: Vec<_> = connections[..2].iter().map(|connection| connection.try_acquire(50)).collect();
        let mut waits: Vec<_> =
            connections[..2].iter().map(|connection| Box::pin(connection.clone().acquire(50))).collect();
        for wait in &mut waits {
            assert!(matches!(futures_util::poll!(wait), Poll::Pending));
        }
        // The part of this connection is free, but too many bytes wait in all.
        assert_eq!(connections[2].clone().acquire(1).await.unwrap_err(), Error::Overloaded);
        drop(waits);
        assert_eq!(admission.total.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_connection_that_uses_up_its_part_leaves_the_rest_to_others() {
        let admission = Admission::new(100);
        let (greedy, modest) = (admission.for_connection(60), admission.for_connection(60));
        let held = greedy.try_acquire(50).expect("free");
        assert!(greedy.try_acquire(20).is_none(), "70 of its 60");
        let mut waits = Box::pin(greedy.clone().acquire(20));
        assert!(matches!(futures_util::poll!(&mut waits), Poll::Pending));
        let other = modest.try_acquire(50).expect("half is left");
        assert!(modest.try_acquire(10).is_none(), "110 of 100");
        assert_eq!(admission.used(), 100);
        drop(held);
        drop((waits.await.expect("room again"), other));
        assert_eq!(admission.used(), 0);
    }
}
