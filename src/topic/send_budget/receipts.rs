//! The memory of one call's publishes until its peer has taken their receipts.

use super::budget::SendBudget;

/// Bytes counted for a publish that is not acknowledged, or whose receipt is not taken.
const PUBLISH_BYTES: usize = 64;
/// Largest window of publishes of one call while too many receipts are not taken.
const TIGHT_WINDOW_MAX: usize = 256;

/// A counter of one call's outstanding publishes.
#[derive(Debug)]
pub struct ReceiptBudget {
    budget: SendBudget,
    counted: usize,
}

impl ReceiptBudget {
    /// A counter for a new call on a connection with this budget.
    #[must_use]
    pub fn new(budget: &SendBudget) -> Self {
        Self { budget: budget.clone(), counted: 0 }
    }

    /// Sets the number of publishes that are not acknowledged or whose receipts are not taken.
    pub fn set(&mut self, publishes: usize) {
        let bytes = publishes * PUBLISH_BYTES;
        match bytes.checked_sub(self.counted) {
            Some(0) => {}
            Some(more) => self.budget.receipts.add(more),
            None => self.budget.receipts.release(self.counted - bytes),
        }
        self.counted = bytes;
    }

    /// Limits the requested window of unacknowledged publishes to what the budget allows now.
    #[must_use]
    pub fn window(&self, requested: usize) -> usize {
        if self.budget.receipts.is_full() { requested.min(TIGHT_WINDOW_MAX) } else { requested }
    }

    /// Returns true while messages must be small.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.budget.is_tight()
    }
}

impl Drop for ReceiptBudget {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::{PUBLISH_BYTES, ReceiptBudget, SendBudget, TIGHT_WINDOW_MAX};

    #[test]
    fn windows_shrink_while_many_receipts_are_not_taken() {
        let budget = SendBudget::new(8 * PUBLISH_BYTES * 1000);
        let (mut first, second) = (ReceiptBudget::new(&budget), ReceiptBudget::new(&budget));
        first.set(999);
        assert_eq!(second.window(16_384), 16_384);
        first.set(1000);
        assert_eq!((second.window(16_384), second.window(10)), (TIGHT_WINDOW_MAX, 10));
        first.set(3);
        assert_eq!((budget.used(), second.window(16_384)), (3 * PUBLISH_BYTES, 16_384));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
