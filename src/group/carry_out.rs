//! The owner's decisions, carried out by the task of a shard.

use std::time::Duration;

use super::dead_letter::{self, Copy};
use super::error::Error;
use super::events::{Event, Held, Leased};
use super::logic::{
    Copied, Fence, Grant, GroupId, HandedLease, Input, Order, Output, Refusal, Span, Term, Ticket, push_span,
};
use super::mailbox::{Asker, Joined, Members};
use super::shard::{Done, Source, Task, Waiting};
use super::source;
use super::token::Token;
use crate::record::Offset;
use crate::storage::{self, Chunk};
use crate::telemetry::METRICS;

/// Reads from memory before the task looks at its other work.
const READS_AT_ONCE: u32 = 4;
/// Time after which a read that failed is tried again.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl Task {
    /// Carries out a decision. `reads` counts those from memory in this round.
    pub(super) fn carry_out(&mut self, output: Output, reads: &mut u32) {
        match output {
            Output::Append(command) => self.commands.push_back(command),
            Output::Trim(before) => self.trim(before),
            Output::Watch { group } => self.watch(group),
            Output::Read { group, from } => self.read(group, from, reads),
            Output::DeadLetter { group, offset, deliveries } => self.dead_letter(group, offset, deliveries),
            Output::Joined { ticket, leases, .. } => self.joined(ticket, leases),
            Output::Lease(grant) => self.lease(&grant),
            Output::Empty { stream } => self.tell(stream, Event::Left),
            Output::Revoked { stream, group, fence, spans, .. } => {
                let fence = fence.after(self.past_terms(group));
                self.tell(stream, Event::Revoked { fence, spans });
            }
            Output::Gone { stream, .. } => {
                self.tell(stream, Event::ended(Error::NotFound));
                self.streams.remove(&stream);
            }
            Output::Settled { ticket, outcomes } => {
                if let Some(Waiting::Settled(asker)) = self.waiting.remove(&ticket) {
                    match asker {
                        Asker::Member(stream, number) => {
                            self.tell(stream, Event::Settled { number, outcomes })
                        }
                        Asker::Call(reply) => drop(reply.send(Ok(outcomes))),
                    }
                }
            }
            Output::Extended { ticket, left_ms } => {
                let left = left_ms.map(Duration::from_millis);
                if let Some(Waiting::Extended(asker)) = self.waiting.remove(&ticket) {
                    match asker {
                        Asker::Member(stream, number) => self.tell(stream, Event::Extended { number, left }),
                        Asker::Call(reply) => drop(reply.send(Ok(left))),
                    }
                }
            }
            Output::Done { ticket } => self.changed(ticket),
            Output::Refused { ticket, reason } => self.refused(ticket, reason),
        }
    }

    fn trim(&mut self, before: Offset) {
        let (log, topic) = (self.shared.log.clone(), self.topic.clone());
        self.work.push(Box::pin(async move {
            if let Err(error) = log.trim(topic.name(), Some(topic.epoch()), before).await {
                // It is tried again when the state of another group is written.
                tracing::warn!(shard = %topic.name(), %error, "the groups' storage could not be trimmed");
            }
            Done::Nothing
        }));
    }

    fn watch(&mut self, group: GroupId) {
        let Some(topic) = self.topic_of(group).cloned() else { return self.remove_gone(group) };
        let source = Source { topic, progress: std::sync::Arc::default() };
        self.sources.insert(group, source);
        self.progressed(group);
        self.moved(group);
    }

    /// Tells the owner the tail of a group's topic, and waits for it to move.
    pub(super) fn moved(&mut self, group: GroupId) {
        let Some(source) = self.sources.get(&group) else { return };
        if source.topic.is_deleted() {
            return self.remove_gone(group);
        }
        let (topic, tail) = (source.topic.clone(), source.topic.tail());
        self.inputs.push_back(Input::Tail { group, tail: tail.get() });
        self.work.push(Box::pin(async move {
            // Everything before the tail is told, so that it moves once the topic holds a record at it.
            topic.wait_beyond(tail).await;
            Done::Moved(group)
        }));
    }

    fn read(&mut self, group: GroupId, from: u64, reads: &mut u32) {
        let Some(source) = self.sources.get(&group) else { return };
        let topic = source.topic.clone();
        if *reads < READS_AT_ONCE
            && let Some(chunk) = topic.read_cached(Offset::new(from), source::READ_BYTES)
        {
            *reads += 1;
            return self.records(group, from, Ok(chunk));
        }
        let recent = self.shared.recent.clone();
        self.work.push(Box::pin(async move {
            let read = match topic.read_cached(Offset::new(from), source::READ_BYTES) {
                Some(chunk) => Ok(chunk),
                None => source::read_chunk(&*topic, &recent, Offset::new(from)).await,
            };
            Done::Read(group, from, read)
        }));
    }

    /// Gives the owner records that were read, or what became of them.
    pub(super) fn records(&mut self, group: GroupId, from: u64, read: Result<Chunk, storage::Error>) {
        let (Some(source), Some(state)) = (self.sources.get(&group), self.owner.shard().group(group)) else {
            return;
        };
        let keyed = (state.about.settings.order == Order::Key).then_some(group);
        let tail = source.topic.tail().get();
        let parsed = read.and_then(|chunk| Ok((source::items(&chunk, from, keyed)?, chunk.next.get())));
        match parsed {
            Ok((items, next)) => {
                let next = next.max(from);
                self.inputs.push_back(Input::Records { group, from, next, tail: tail.max(next), items });
            }
            Err(storage::Error::Trimmed { earliest, .. }) => {
                let (earliest, records) = (earliest.get(), earliest.get().saturating_sub(from));
                self.inputs.push_back(Input::Trimmed { group, earliest, records });
            }
            Err(storage::Error::TopicNotFound) => self.remove_gone(group),
            Err(error) => self.read_failed(group, from, error),
        }
    }

    fn read_failed(&mut self, group: GroupId, from: u64, error: storage::Error) {
        let error = Error::Topic(error.into());
        for stream in self.streams.values().filter(|stream| stream.group == group) {
            let _ = stream.events.send(Box::new(Event::ended(error.clone())));
        }
        self.work.push(Box::pin(async move {
            tokio::time::sleep(READ_AGAIN).await;
            Done::ReadAgain(group, from)
        }));
    }

    fn dead_letter(&mut self, group: GroupId, offset: u64, deliveries: u32) {
        let (Some(source), Some(state)) = (self.sources.get(&group), self.owner.shard().group(group)) else {
            return;
        };
        let Some(to) = state.about.settings.dead_letter_topic.clone() else { return };
        let reason = self.reasons.range(..=(group, offset)).next_back();
        let reason = reason.filter(|((of, _), (end, _))| *of == group && offset < *end);
        let copy = Copy {
            group,
            name: state.about.name.clone(),
            offset,
            deliveries,
            void_to: state.void_to.after(state.about.past_terms),
            reason: reason.map(|(_, (_, reason))| reason.clone()),
        };
        let (topics, topic, limits) =
            (self.shared.topics.clone(), source.topic.clone(), self.shared.batch_limits);
        let (recent, permits) = (self.shared.recent.clone(), self.dead_letters.clone());
        self.work.push(Box::pin(async move {
            let _permit = permits.acquire_owned().await;
            let published = dead_letter::publish(&topics, (&*topic, &recent), &to, copy, limits).await;
            Done::DeadLetter(group, offset, published)
        }));
    }

    fn joined(&mut self, ticket: Ticket, leases: Vec<HandedLease>) {
        let Some(Waiting::Joined { stream, has_created, reply }) = self.waiting.remove(&ticket) else {
            return;
        };
        let Some(group) = self.streams.get(&stream).map(|stream| stream.group) else { return };
        let held = leases.into_iter().filter_map(|lease| {
            Some(Held {
                token: self.token(group, lease.fence, lease.spans.clone())?,
                fence: lease.fence.after(self.past_terms(group)),
                left: Duration::from_millis(lease.left_ms),
                spans: lease.spans,
            })
        });
        let held = held.collect();
        let source = self.sources.get(&group).map(|source| (source.topic.clone(), source.progress.clone()));
        let answer = match (self.described(Some(group), Members::Without), source) {
            (Ok(info), Some((topic, progress))) => {
                let recent = self.shared.recent.clone();
                Ok(Joined { info, held, has_created, topic, recent, progress })
            }
            _ => Err(Error::NotFound),
        };
        // A caller that does not wait any more has no member to drop.
        if reply.send(answer).is_err()
            && let Some(stream_of) = self.streams.remove(&stream)
        {
            self.inputs.push_back(Input::Cut { session: stream_of.session, stream });
        }
    }

    /// Terms of a group before it was restored.
    fn past_terms(&self, group: GroupId) -> Term {
        self.owner.shard().group(group).map_or(Term::default(), |state| state.about.past_terms)
    }

    fn token(&self, group: GroupId, fence: Fence, held: Vec<Span>) -> Option<bytes::Bytes> {
        let about = &self.owner.shard().group(group)?.about;
        let (topic, name) = (about.topic.clone(), about.name.clone());
        let fence = fence.after(about.past_terms);
        Some(Token { topic, group: name, id: group, epoch: about.epoch, fence, held }.encode())
    }

    fn lease(&mut self, grant: &Grant) {
        let Some(epoch) = self.epoch_of(grant.group) else { return };
        let mut spans: Vec<Span> = Vec::with_capacity(grant.spans.len());
        grant.spans.iter().for_each(|&(span, _)| push_span(&mut spans, span));
        let Some(token) = self.token(grant.group, grant.fence, spans.clone()) else { return };
        let leased = Leased {
            batches: Vec::new(),
            token,
            records: grant.records,
            fence: grant.fence.after(self.past_terms(grant.group)),
            left: Duration::from_millis(grant.left_ms),
            redeliveries: grant.spans.iter().copied().filter(|(_, delivery)| *delivery > 1).collect(),
            spans,
            group: grant.group,
            epoch,
            right: self.right.clone(),
        };
        self.tell(grant.stream, Event::Lease(Box::new(leased)));
    }

    /// Answers a change that is durable.
    fn changed(&mut self, ticket: Ticket) {
        match self.waiting.remove(&ticket) {
            Some(Waiting::Created(id, reply)) => {
                drop(reply.send(self.described(Some(id), Members::Without)));
                self.created(id);
            }
            Some(Waiting::CreatedByJoin(id)) => self.created(id),
            Some(Waiting::Changed(id, reply)) => {
                self.progressed(id);
                drop(reply.send(self.described(Some(id), Members::Without)));
            }
            Some(Waiting::Deleted(id, reply)) => {
                self.forget(id);
                drop(reply.send(Ok(())));
            }
            Some(Waiting::Reopened(records, reply)) => drop(reply.send(Ok(records))),
            Some(Waiting::Left(stream)) => {
                self.tell(stream, Event::Left);
                if let Some(left) = self.streams.remove(&stream) {
                    self.sessions.remove(&left.session);
                }
            }
            Some(other) => drop(self.waiting.insert(ticket, other)),
            None => {}
        }
    }

    fn created(&mut self, id: GroupId) {
        for message in self.creating.remove(&id).unwrap_or_default() {
            self.take(message);
        }
    }

    fn refused(&mut self, ticket: Ticket, reason: Refusal) {
        let error = match reason {
            Refusal::NoSuchGroup => Error::NotFound,
            Refusal::GroupExists => Error::Exists,
            Refusal::OtherGroup | Refusal::NoSuchSession => Error::SessionEnded,
            Refusal::TooManyMembers => Error::TooManyMembers { limit: self.shared.members_max },
            Refusal::OrderFixed => Error::OrderFixed,
        };
        match self.waiting.remove(&ticket) {
            Some(Waiting::Joined { stream, reply, .. }) => {
                self.streams.remove(&stream);
                drop(reply.send(Err(error)));
            }
            // The session was over already.
            Some(Waiting::Left(stream)) => {
                self.tell(stream, Event::Left);
                self.streams.remove(&stream);
            }
            Some(Waiting::Created(id, reply)) => {
                self.forget(id);
                drop(reply.send(Err(error)));
            }
            Some(waiting) => waiting.fail(error),
            None => {}
        }
    }

    /// Takes the result of work that the task waited for.
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Moved(group) => self.moved(group),
            Done::Read(group, from, read) => self.records(group, from, read),
            Done::ReadAgain(group, from) => self.read(group, from, &mut 0),
            Done::DeadLetter(group, offset, copied) => {
                METRICS.groups.dead_lettered.add(u64::from(copied == Ok(Copied::Stored)));
                let copied = match copied {
                    Ok(copied) => {
                        self.problems.remove(&group);
                        copied
                    }
                    Err(problem) => {
                        self.problems.insert(group, problem);
                        Copied::Refused
                    }
                };
                self.inputs.push_back(Input::DeadLetter { group, offset, copied });
            }
            Done::Nothing => {}
        }
    }
}
