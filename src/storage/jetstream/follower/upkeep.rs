//! Periodic work of a follower: retention by count, and writing the end of the newest message.

use super::Follower;
use crate::storage::jetstream::message::start_of;
use crate::storage::jetstream::{last_end, search};

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
                if first > seen.sequence
                    && let Some(end) = last_end::before(&topic, first).await
                {
                    last_end::write(&topic.nats, &topic.state.name, topic.state.epoch, end).await;
                }
                topic.nats.purge(&topic.stream, first - topic.base).await?;
                topic.state.trim(start_of(first));
            }
            Ok(())
        }));
    }

    /// Writes the end of the newest message once no other message has followed it for a while.
    pub(super) fn write_end(&mut self) {
        let quiet = self.topic.nats.idle_times.quiet;
        if let Some((end, _)) = self.unwritten_end.take_if(|(_, since)| since.elapsed() >= quiet) {
            let topic = self.topic.clone();
            let writing = async move { last_end::write_of_expiring(&topic, end).await };
            self.topic.nats.tasks.spawn(writing);
        }
    }
}
