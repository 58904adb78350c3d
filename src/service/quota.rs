//! What one streaming call publishes, against the quotas of its caller: looked at and paid for in
//! groups, as a look for each publish would cost more than the publish.
//! Never: refuses; a client over its quota is read more slowly.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use crate::auth::{Allowance, Caller};
use crate::record::Batch;

pub(super) struct Quota {
    caller: Caller,
    /// What may be taken unpaid; none where the quotas must be looked at first.
    allowed: Option<Allowance>,
    /// Taken and not paid for.
    taken: Allowance,
    /// Set while a quota is exceeded.
    in_debt: Option<Pin<Box<Sleep>>>,
}

const NOTHING: Allowance = Allowance { bytes: 0, records: 0 };

impl Quota {
    pub(super) const fn new(caller: Caller) -> Self {
        Self { caller, allowed: None, taken: NOTHING, in_debt: None }
    }

    /// Ready while a publish may be taken.
    pub(super) fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.allowed.is_none() {
            if let Some(in_debt) = &mut self.in_debt {
                ready!(in_debt.as_mut().poll(cx));
                self.in_debt = None;
            }
            match self.caller.allowance() {
                Ok(allowance) => self.allowed = Some(allowance),
                Err(exceeded) => {
                    self.in_debt = Some(Box::pin(tokio::time::sleep(exceeded.retry.unwrap_or_default())));
                }
            }
        }
        Poll::Ready(())
    }

    /// Takes a publish. What goes beyond the allowance is paid for at once.
    pub(super) fn take(&mut self, batch: &Batch) {
        self.taken.bytes += batch.records().len() as u64;
        self.taken.records += u64::from(batch.count());
        let within =
            |allowed: Allowance| self.taken.bytes <= allowed.bytes && self.taken.records <= allowed.records;
        if !self.allowed.is_some_and(within) {
            self.consume();
        }
    }

    /// Pays for what was taken. To be called before others are given their turn.
    pub(super) fn consume(&mut self) {
        let taken = std::mem::replace(&mut self.taken, NOTHING);
        self.allowed = None;
        if taken != NOTHING {
            self.caller.consume(taken.bytes, taken.records);
        }
    }
}
