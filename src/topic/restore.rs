//! Storing of the batches of a backup, each at the offset that it had.

use std::sync::Arc;

use super::{Error, Permit};
use crate::record::{Batch, Offset};
use crate::storage::{Hold, TopicLog};

/// Stores batches of a backup in this order, and waits until they are durable. Each names its offset
/// ([`Batch::restored`]). Batches with consecutive offsets are appended at once, because an engine may have assigned their
/// offsets in one step. `permit` is for the bytes of all batches, and is held until the outcome of each is known.
///
/// # Errors
/// The storage fails or refuses. The batches before the one that was refused are stored.
pub async fn store_restored(
    topic: &dyn TopicLog,
    permit: &Arc<Permit>,
    batches: Vec<Batch>,
) -> Result<(), Error> {
    let mut appender = topic.appender();
    let mut rest = batches.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut end = end_of(&first);
        let mut run = vec![first];
        while let Some(batch) = rest.next_if(|batch| batch.expected_offset() == Some(end)) {
            end = end_of(&batch);
            run.push(batch);
        }
        if let Some(failure) = appender.append(run, Hold::of(Arc::clone(permit))).await.failure {
            return Err(failure.into());
        }
    }
    Ok(())
}

fn end_of(batch: &Batch) -> Offset {
    batch.expected_offset().unwrap_or_default().plus(u64::from(batch.count()))
}
