//! The quotas of a streaming call's caller. They are checked and charged for groups of publishes, as a check for each
//! would cost more than the publish. A client over its quota is not refused but read more slowly.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use crate::auth::{Allowance, Caller};
use crate::record::Batch;

pub(super) struct Quota {
    caller: Caller,
    /// Allowance before the next charge; `None` if the quotas must be checked first.
    allowed: Option<Allowance>,
    /// Taken and not charged yet.
    taken: Allowance,
    /// Set while a quota is exceeded.
    throttled: Option<Pin<Box<Sleep>>>,
}

const NOTHING: Allowance = Allowance { bytes: 0, records: 0 };

impl Quota {
    pub(super) const fn new(caller: Caller) -> Self {
        Self { caller, allowed: None, taken: NOTHING, throttled: None }
    }

    /// Becomes ready when a publish may be taken.
    pub(super) fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.allowed.is_none() {
            if let Some(throttled) = &mut self.throttled {
                ready!(throttled.as_mut().poll(cx));
                self.throttled = None;
            }
            match self.caller.allowance() {
                Ok(allowance) => self.allowed = Some(allowance),
                Err(exceeded) => {
                    self.throttled = Some(Box::pin(tokio::time::sleep(exceeded.retry.unwrap_or_default())));
                }
            }
        }
        Poll::Ready(())
    }

    /// Counts a publish, and charges it at once if it exceeds the allowance.
    pub(super) fn take(&mut self, batch: &Batch) {
        self.taken.bytes += batch.records().len() as u64;
        self.taken.records += u64::from(batch.count());
        let within =
            |allowed: Allowance| self.taken.bytes <= allowed.bytes && self.taken.records <= allowed.records;
        if !self.allowed.is_some_and(within) {
            self.consume();
        }
    }

    /// Charges what was taken. To be called before other tasks run.
    pub(super) fn consume(&mut self) {
        let taken = std::mem::replace(&mut self.taken, NOTHING);
        self.allowed = None;
        if taken != NOTHING {
            self.caller.consume(taken.bytes, taken.records);
        }
    }
}
