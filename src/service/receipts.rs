//! The receipts of an Exchange, numbered, and merged if the client asked for it. Only receipts of batches that were stored
//! next to one another are merged, never across a duplicate or another publisher's batch.

use crate::record::Receipt;
use crate::wire::NumberedReceipt;

/// Takes the receipts, of which the first acknowledges publish `first`.
pub(super) fn numbered(first: u64, receipts: &mut Vec<Receipt>, merging: bool) -> Vec<NumberedReceipt> {
    let numbered = (first..).zip(receipts.drain(..));
    let numbered = numbered.map(|(number, receipt)| NumberedReceipt { number, receipt });
    if merging { merged(numbered) } else { numbered.collect() }
}

/// Merges the receipts of batches that were stored directly after one another at the same time.
fn merged(receipts: impl Iterator<Item = NumberedReceipt>) -> Vec<NumberedReceipt> {
    let mut merged: Vec<NumberedReceipt> = Vec::new();
    for NumberedReceipt { number, receipt } in receipts {
        match merged.last_mut() {
            Some(last) if last.receipt.is_followed_by(&receipt) => {
                (last.number, last.receipt.next) = (number, receipt.next);
            }
            _ => merged.push(NumberedReceipt { number, receipt }),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::numbered;
    use crate::record::{Epoch, Offset, Position, Receipt, UnixMicros};

    fn receipt(first: u64, end: u64, time: u64, duplicate: bool) -> Receipt {
        let next = Position { epoch: Epoch::new(1), offset: Offset::new(end) };
        Receipt { first: Offset::new(first), next, time: UnixMicros(time), duplicate }
    }

    #[test]
    fn only_what_was_stored_in_one_piece_is_merged() {
        let receipts = [
            receipt(0, 1, 7, false),
            receipt(1, 4, 7, false),
            receipt(4, 5, 7, false),
            // Another publisher's batch lies between.
            receipt(6, 7, 7, false),
            // Stored by a later group.
            receipt(7, 8, 9, false),
            // Stored long ago.
            receipt(0, 1, 7, true),
            receipt(1, 4, 7, true),
            receipt(8, 9, 9, false),
        ];
        let of = |merging| numbered(10, &mut receipts.to_vec(), merging);
        let all: Vec<_> = of(false).into_iter().map(|one| (one.number, one.receipt)).collect();
        assert_eq!(all, (10..).zip(receipts).collect::<Vec<_>>());
        let merged: Vec<_> = of(true).into_iter().map(|one| (one.number, one.receipt)).collect();
        let expected = [
            (12, receipt(0, 5, 7, false)),
            (13, receipts[3]),
            (14, receipts[4]),
            (15, receipts[5]),
            (16, receipts[6]),
            (17, receipts[7]),
        ];
        assert_eq!(merged, expected);
    }
}
