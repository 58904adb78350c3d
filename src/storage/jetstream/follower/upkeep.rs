//! Periodic work of a follower: retention by count.

use super::Follower;
use crate::storage::jetstream::message::start_of;
use crate::storage::jetstream::search;

impl Follower {
    /// Starts to trim records beyond `max_records`. NATS can count only messages, so the follower counts records.
    pub(super) fn trim(&mut self) {
        let retention = self.topic.state.settings().retention;
        let (Some(records), Some(seen)) = (retention.max_records, self.seen) else { return };
        if !self.trimming.is_due || self.trimming.running.is_some() || seen.records <= records {
            return;
        }
        self.trimming.is_due = false;
        let topic = self.topic.clone();
        self.trimming.running = Some(Box::pin(async move {
            let first = search::first_keeping(&topic, seen.sequence, seen.records, records).await?;
            if start_of(first) > topic.state.earliest() {
                topic.nats.purge(&topic.stream, first - topic.base).await?;
                topic.state.trim(start_of(first));
            }
            Ok(())
        }));
    }
}
