//! The handling of receipts.

use tonic::Code;

use super::queue::{Queue, Settled};
use super::shared::Shared;
use crate::client::error::Error;
use crate::proto::v1;
use crate::record::{Position, Receipt};
use crate::wire::{ExchangeResponse, NumberedReceipt};

/// Removes acknowledged batches from the queue, reports them, and heeds the notice.
pub(super) fn receive(
    shared: &Shared,
    response: &ExchangeResponse,
    settled: &mut Vec<(Settled, Receipt)>,
) -> Result<(), Error> {
    let received = shared.update(|queue| {
        // A refused receipt removes nothing from the queue, so that a flush fails.
        let received =
            response.receipts.iter().try_for_each(|numbered| acknowledge(queue, numbered, settled));
        if !settled.is_empty() {
            queue.note_progress();
        }
        if matches!(response.notice, v1::Notice::Draining | v1::Notice::MaxAge) {
            queue.half_close = true;
        }
        received
    });
    if !settled.is_empty() {
        settled.drain(..).for_each(|(batch, receipt)| shared.settle(&batch, receipt));
        shared.notify_progress();
    }
    received
}

/// Removes what a receipt acknowledges from the queue: its own batch, and earlier ones whose receipts were merged
/// with it.
fn acknowledge(
    queue: &mut Queue,
    numbered: &NumberedReceipt,
    settled: &mut Vec<(Settled, Receipt)>,
) -> Result<(), Error> {
    let NumberedReceipt { number, receipt } = *numbered;
    let mut first = receipt.first;
    loop {
        let due = queue.due();
        let batch = (due <= number).then(|| queue.acknowledge(due)).flatten();
        let batch = batch.ok_or_else(|| out_of_turn(number))?;
        let offset = first.plus(u64::from(batch.count));
        let next = if due == number { receipt.next } else { Position { offset, ..receipt.next } };
        settled.push((batch, Receipt { first, next, ..receipt }));
        if due == number {
            return Ok(());
        }
        first = offset;
    }
}

fn out_of_turn(number: u64) -> Error {
    let message = format!("the server acknowledged publish {number} out of turn");
    Error::local(Code::Internal, message)
}
