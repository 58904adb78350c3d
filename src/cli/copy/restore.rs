//! Restoring of a backup with its offsets, so that the positions of subscribers stay valid up to its end.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Code;

use super::progress::Progress;
use super::source::{Batches, whole};
use super::target::Target;
use crate::cli::backup::{RequestIds, Saved};
use crate::cli::{Failure, output};
use crate::client::{Error, RetryPolicy};
use crate::proto::v1;

/// Size of one request in bytes, which the last batches may exceed. A server accepts 4 MiB or its largest batch.
const REQUEST_BYTES: usize = 1 << 20;

/// Largest number of earlier incarnations that a topic remembers.
const LINEAGE_MAX: usize = 16;

/// Restores one topic, then sets its retention to the backup's. Returns false, after a warning, if its offsets cannot be
/// kept; nothing is stored then.
pub(super) async fn restore(
    target: &Target,
    saved: &Saved,
    (batches, mut ids, groups): (&mut Batches, RequestIds, Vec<Vec<v1::SavedGroup>>),
    progress: &Arc<Progress>,
) -> Result<bool, Failure> {
    let name = &saved.topic.name;
    let Some(mut request) = beginning(saved) else {
        warn(name, "the backup is of an earlier version, and does not say where the topic ended");
        return Ok(false);
    };
    let mut here = match target.client.topics().restore(&request, target.retry).await {
        Ok(topic) => topic,
        Err(error) if error.reason() == Some("OFFSET_NUMBERING_DIFFERS") => {
            warn(name, "the destination has another engine, which assigns offsets in another way");
            return Ok(false);
        }
        Err(error) => return Err(refused(name, error)),
    };
    if let Some(offsets) = &target.offsets {
        offsets.topic(&saved.topic, &here.epoch);
    }
    // The server was reached: from now on it may be away for as long as the user allows.
    let retry = RetryPolicy { connect_give_up_after: target.retry.give_up_after, ..target.retry };
    // While the topic is not complete, nobody can create other groups by joining them.
    for parts in &groups {
        restore_group(target, retry, name, parts).await?;
    }
    let is_dense = request.numbering() == v1::OffsetNumbering::Dense;
    let mut bytes = 0;
    while let Some(block) = batches.next().await? {
        let batch = whole(&block)?;
        progress.pass(block.len() as u64);
        let (first, count) = (batch.first.get(), batch.count());
        if let Some(offsets) = &target.offsets {
            offsets.note(first, first, count)?;
        }
        if batch.first.plus(count).get() <= here.tail {
            progress.there(count);
            continue;
        }
        progress.copied(count, block.len() as u64);
        // What was stored at once, from one multiple of 1024 to the next, must be restored at once.
        if bytes >= REQUEST_BYTES && (is_dense || first.is_multiple_of(1024)) {
            here = store(target, retry, &mut request).await?;
            bytes = 0;
        }
        bytes += block.len();
        let (batch, request_id) = (Bytes::copy_from_slice(&block), ids.remove(&first));
        request.batches.push(v1::RestoredBatch { batch, request_id });
    }
    if !request.batches.is_empty() {
        here = store(target, retry, &mut request).await?;
    }
    if here.tail < saved.end() {
        return Err(Failure::failed(format!(
            "topic {name} of the destination ends at offset {} after the restore, and the backup at {}",
            here.tail,
            saved.end()
        )));
    }
    target.finish(&saved.topic, &here).await?;
    Ok(true)
}

/// Makes the request that creates the topic. None if the backup does not contain what is needed.
fn beginning(saved: &Saved) -> Option<v1::RestoreTopicRequest> {
    let topic = &saved.topic;
    let cut = saved.tail?;
    if topic.numbering() == v1::OffsetNumbering::Unspecified {
        return None;
    }
    let newest = v1::RestoredFrom { epoch: topic.epoch.clone(), cut };
    let mut restored_from = vec![newest];
    restored_from.extend(topic.restored_from.iter().cloned());
    for lost in restored_from.drain(LINEAGE_MAX.min(restored_from.len())..) {
        let (name, epoch) = (&topic.name, &lost.epoch);
        output::complain(&format!(
            "warning: topic {name}: positions of epoch {epoch} are not kept, because it is {LINEAGE_MAX} restores ago"
        ));
    }
    Some(v1::RestoreTopicRequest {
        name: topic.name.clone(),
        first_offset: saved.first(),
        restored_from,
        numbering: topic.numbering,
        batches: Vec::new(),
    })
}

async fn restore_group(
    target: &Target,
    retry: RetryPolicy,
    topic: &str,
    parts: &[v1::SavedGroup],
) -> Result<(), Failure> {
    let group = parts.first().and_then(|part| part.group.as_ref()).map_or("", |group| group.name.as_str());
    match target.client.groups().restore(parts, retry).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Code::AlreadyExists => Err(Failure::failed(format!(
            "topic {topic} of the destination has another group {group}. Delete it there, and run the copy again"
        ))),
        Err(error) => Err(incomplete(topic, error)),
    }
}

async fn store(
    target: &Target,
    retry: RetryPolicy,
    request: &mut v1::RestoreTopicRequest,
) -> Result<v1::Topic, Failure> {
    let stored = target.client.topics().restore(request, retry).await;
    request.batches.clear();
    stored.map_err(|error| incomplete(&request.name, error))
}

fn warn(topic: &str, why: &str) {
    output::complain(&format!("warning: topic {topic}: positions and groups are not kept: {why}"));
}

fn refused(topic: &str, error: Error) -> Failure {
    match error.code() {
        Code::AlreadyExists => Failure::failed(format!(
            "topic {topic} exists at the destination, and is not a restore of this backup. Nothing was stored \
             in it; delete it there, or restore to another server"
        )),
        Code::Unimplemented => Failure::failed(format!(
            "the destination is an earlier version, which cannot keep the positions of topic {topic}. Nothing \
             was stored; upgrade it first"
        )),
        _ => error.into(),
    }
}

/// The failure of a restore that has begun.
fn incomplete(topic: &str, error: Error) -> Failure {
    if matches!(error.code(), Code::AlreadyExists | Code::Unimplemented) {
        return refused(topic, error);
    }
    let hint = format!(
        "topic {topic} is not complete there, and cannot be used: run the copy again, or delete the topic"
    );
    Failure::from(error).adding(&format!("; {hint}"))
}
