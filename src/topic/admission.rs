//! The budget of bytes in flight: what was taken from publishers and is not durable yet.
//! Never: looks into a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// Bytes taken from the budget; given back when dropped.
pub type Permit = OwnedSemaphorePermit;

/// A handle to the budget.
#[derive(Clone, Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    /// Bytes of those that wait for a permit: they are in memory too.
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Bytes counted as waiting, until dropped.
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
    /// A budget of so many bytes. As many again may wait for it.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { permits: Arc::new(Semaphore::new(bytes_max)), waiting: Arc::default(), bytes_max }
    }

    /// Bytes taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.bytes_max.saturating_sub(self.permits.available_permits())
    }

    /// What is larger than the whole budget takes all of it.
    fn permits_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).expect("the budget is at most 32 bits")
    }

    /// Takes `bytes` if they are free, and nobody waits.
    #[must_use]
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        Arc::clone(&self.permits).try_acquire_many_owned(self.permits_for(bytes)).ok()
    }

    /// Waits for `bytes`, first come first served.
    ///
    /// # Errors
    /// [`Error::Overloaded`] where as much as the whole budget waits already.
    pub async fn acquire(self, bytes: usize) -> Result<Permit, Error> {
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let _waiting = Waiting { total: Arc::clone(&self.waiting), bytes };
        if before >= self.bytes_max {
            return Err(Error::Overloaded);
        }
        let permits = self.permits_for(bytes);
        self.permits.acquire_many_owned(permits).await.map_err(|_| Error::Draining)
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Error};
    use std::task::Poll;

    #[tokio::test]
    async fn what_waits_is_bounded_too() {
        let admission = Admission::new(100);
        let held = admission.try_acquire(90).expect("free");
        assert!(admission.try_acquire(20).is_none());
        let mut first = Box::pin(admission.clone().acquire(100));
        assert!(matches!(futures_util::poll!(&mut first), Poll::Pending));
        assert_eq!(admission.clone().acquire(1).await.unwrap_err(), Error::Overloaded);
        drop(held);
        drop(first.await.expect("room again"));
        assert!(admission.try_acquire(1000).is_some(), "a giant takes the whole budget");
    }
}
