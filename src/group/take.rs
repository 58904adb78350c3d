//! Messages to the task of a shard, and what it does with each.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::Error;
use super::events::Event;
use super::info::Info;
use super::logic::{self, About, Fence, GroupId, Input, Outcome, SessionId, Settings, Span, Ticket};
use super::mailbox::{
    Asker, Joined, Members, Message, Name, NewGroup, NewLease, NewMember, Outcomes, Reopen, Reply,
};
use super::requests::Settlement;
use super::shard::{Session, Stream, Task, Waiting};
use super::token::Token;
use crate::record::{TopicName, UnixMicros};
use crate::storage::TopicLog;
use crate::topic::Cause;
use tokio::time::Instant;

/// Most calls of a group that wait for one lease each.
const LEASES_WAITING_MAX: usize = 10_000;
/// Most reasons of failures that a shard remembers for dead letters.
const REASONS_MAX: usize = 10_000;

impl Task {
    /// Takes a message.
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Create(name, new, reply) => self.create(name, new, reply),
            Message::Describe(name, members, reply) => match self.find(&name) {
                Some(id) if self.creating.contains_key(&id) => {
                    self.defer(id, Message::Describe(name, members, reply));
                }
                found => drop(reply.send(self.described(found, members))),
            },
            Message::Save(name, reply) => self.save(&name, reply),
            Message::Restore(name, id, topic, state, reply) => self.restore(name, id, topic, state, reply),
            Message::List(topic, after, limit, reply) => {
                drop(reply.send(Ok(self.list(topic.as_ref(), after.as_ref(), limit))));
            }
            Message::Update(name, id, settings, reply) => self.update(name, id, settings, reply),
            Message::Delete(name, id, reply) => self.delete(name, id, reply),
            Message::Seek(name, topic, to, reply) => match self.find(&name) {
                Some(id) if self.creating.contains_key(&id) => {
                    self.defer(id, Message::Seek(name, topic, to, reply));
                }
                Some(id) if self.epoch_of(id) == Some(topic.epoch()) => {
                    let ticket = self.ticket(Waiting::Changed(id, reply));
                    self.inputs.push_back(Input::Seek { ticket, group: id, to });
                }
                _ => drop(reply.send(Err(Error::NotFound))),
            },
            Message::Redrive(name, what, reply) => self.redrive(&name, what, reply),
            Message::Join(new, reply) => self.join(new, reply),
            Message::Credit { session, stream, records, bytes } => {
                self.inputs.push_back(Input::Credit { session, stream, records, bytes });
            }
            Message::Settle(token, settlement, asker) => self.settle(token, settlement, asker),
            Message::Extend(token, time, asker) => self.extend(&token, time, asker),
            Message::GiveUp { group, fence, spans, act } => {
                let past = self.owner.shard().group(group).map(|state| state.about.past_terms);
                let Some(fence) = past.and_then(|past| fence.since(past)) else { return };
                let (ticket, acts) = (self.unheard(), spans.into_iter().map(|span| (span, act)).collect());
                self.inputs.push_back(Input::Settle(logic::Settlement {
                    ticket,
                    group,
                    fence,
                    held: Vec::new(),
                    acts,
                }));
            }
            Message::Leave { session, stream } => {
                if self.streams.contains_key(&stream) {
                    let ticket = self.ticket(Waiting::Left(stream));
                    self.inputs.push_back(Input::Leave { ticket, session });
                }
            }
            Message::Cut { session, stream } => {
                self.streams.remove(&stream);
                // The grace of a session that the drain cuts off begins with the next owner.
                if self.shared.topics.shutdown_signal().cause() != Some(Cause::Draining) {
                    self.inputs.push_back(Input::Cut { session, stream });
                }
            }
            Message::LeaseOnce(new, reply) => self.lease_once(new, reply),
            Message::StopWaiting { session, stream } => {
                self.inputs.push_back(Input::StopWaiting { session, stream });
            }
            Message::Cancel { session, stream } => {
                self.streams.remove(&stream);
                self.inputs.push_back(Input::Cut { session, stream });
            }
            Message::Close(closed) => self.close(closed),
        }
    }

    /// The group of this name, if its topic is still the one that it was created for. It may be in creation.
    pub(super) fn find(&mut self, name: &Name) -> Option<GroupId> {
        let id = *self.names.get(name)?;
        if self.creating.contains_key(&id) {
            return Some(id);
        }
        if self.topic_of(id).is_some() {
            return Some(id);
        }
        self.remove_gone(id);
        None
    }

    /// The topic of a group, if it is not deleted.
    pub(super) fn topic_of(&self, id: GroupId) -> Option<&Arc<dyn TopicLog>> {
        self.topics.get(&id).filter(|topic| !topic.is_deleted())
    }

    pub(super) fn epoch_of(&self, id: GroupId) -> Option<crate::record::Epoch> {
        self.owner.shard().group(id).map(|state| state.about.epoch)
    }

    /// Removes a group whose topic is gone. News of the topic that a restored group had before are ignored.
    pub(super) fn remove_gone(&mut self, id: GroupId) {
        let about = self.owner.shard().group(id).map(|state| &state.about);
        let topic = about.and_then(|about| {
            self.shared.topics.known(&about.topic).filter(|topic| topic.epoch() == about.epoch)
        });
        if self.creating.contains_key(&id) || topic.is_some_and(|topic| !topic.is_deleted()) {
            return;
        }
        self.forget(id);
        let ticket = self.unheard();
        self.inputs.push_back(Input::Remove { ticket, group: id });
    }

    /// Forgets the name of a group.
    pub(super) fn forget(&mut self, id: GroupId) {
        let before = self.names.len();
        self.names.retain(|_, known| *known != id);
        self.shared.groups.fetch_sub(before - self.names.len(), Ordering::Relaxed);
        self.sources.remove(&id);
        self.topics.remove(&id);
        self.problems.remove(&id);
        self.reasons.retain(|(group, _), _| *group != id);
        self.reasons_by_age.retain(|(group, _)| *group != id);
    }

    pub(super) fn defer(&mut self, id: GroupId, message: Message) {
        self.creating.entry(id).or_default().push(message);
    }

    fn create(&mut self, name: Name, new: NewGroup, reply: Reply<Info>) {
        match self.find(&name) {
            // The answer to an earlier request was lost.
            Some(id) if id == new.id => self.take(Message::Describe(name, Members::Without, reply)),
            Some(_) => drop(reply.send(Err(Error::Exists))),
            None => {
                let ticket = self.unheard();
                match self.begin_creation(ticket, name, new) {
                    Ok(id) => drop(self.waiting.insert(ticket, Waiting::Created(id, reply))),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
    }

    /// Starts to create a group.
    fn begin_creation(&mut self, ticket: Ticket, name: Name, new: NewGroup) -> Result<GroupId, Error> {
        self.check_room()?;
        let id = new.id;
        let about = About {
            topic: name.topic.clone(),
            epoch: new.topic.epoch(),
            name: name.group.clone(),
            created: UnixMicros::now(),
            past_terms: logic::Term::default(),
            settings: new.settings,
        };
        self.begin_creating(name, id, new.topic);
        self.inputs.push_back(Input::Create { ticket, group: id, about, start: new.start });
        Ok(id)
    }

    /// Checks that the server may have one more group.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        let limit = self.shared.groups_max;
        if self.shared.groups.load(Ordering::Relaxed) < limit {
            Ok(())
        } else {
            Err(Error::TooMany { limit })
        }
    }

    /// Notes the name of a group whose creation is not durable.
    pub(super) fn begin_creating(&mut self, name: Name, id: GroupId, topic: Arc<dyn TopicLog>) {
        self.shared.groups.fetch_add(1, Ordering::Relaxed);
        self.names.insert(name, id);
        self.topics.insert(id, topic);
        self.creating.insert(id, Vec::new());
    }

    fn update(&mut self, name: Name, id: Option<GroupId>, settings: Settings, reply: Reply<Info>) {
        match self.find(&name) {
            Some(found) if self.creating.contains_key(&found) => {
                self.defer(found, Message::Update(name, id, settings, reply));
            }
            Some(found) if id.is_none_or(|id| id == found) => {
                let ticket = self.ticket(Waiting::Changed(found, reply));
                self.inputs.push_back(Input::Update { ticket, group: found, settings });
            }
            _ => drop(reply.send(Err(Error::NotFound))),
        }
    }

    fn delete(&mut self, name: Name, id: Option<GroupId>, reply: Reply<()>) {
        match self.find(&name) {
            Some(found) if self.creating.contains_key(&found) => {
                self.defer(found, Message::Delete(name, id, reply));
            }
            Some(found) if id.is_none_or(|id| id == found) => {
                let ticket = self.ticket(Waiting::Deleted(found, reply));
                self.inputs.push_back(Input::Remove { ticket, group: found });
            }
            _ => drop(reply.send(Err(Error::NotFound))),
        }
    }

    /// Opens records again that are settled, and answers how many.
    fn redrive(&mut self, name: &Name, what: Reopen, reply: Reply<u64>) {
        let Some(group) = self.find(name) else { return drop(reply.send(Err(Error::NotFound))) };
        let Some(state) = self.owner.shard().group(group) else {
            return drop(reply.send(Err(Error::NotFound)));
        };
        match what {
            Reopen::Parked if state.parked_records == 0 => drop(reply.send(Ok(0))),
            Reopen::Parked => {
                let ticket = self.ticket(Waiting::Reopened(state.parked_records, reply));
                self.inputs.push_back(Input::Unpark { ticket, group });
            }
            Reopen::Dead(offsets, redriven_to) => {
                let settled = offsets.into_iter().filter(|offset| state.progress.is_settled(*offset));
                let spans: Vec<Span> = settled.filter_map(|offset| Span::new(offset, offset + 1)).collect();
                if spans.is_empty() && redriven_to <= state.redriven_to {
                    return drop(reply.send(Ok(0)));
                }
                let ticket = self.ticket(Waiting::Reopened(spans.len() as u64, reply));
                self.inputs.push_back(Input::Reopen { ticket, group, redriven_to, spans });
            }
        }
    }

    /// Makes a stream a member.
    pub(super) fn join(&mut self, mut new: NewMember, reply: Reply<Joined>) {
        if reply.is_closed() {
            // The call ended while its group was being created, and its cut came before this.
            return;
        }
        let id = match (self.find(&new.name), new.create.take()) {
            (Some(id), _) => id,
            (None, Some(create)) => {
                let ticket = self.unheard();
                match self.begin_creation(ticket, new.name.clone(), create) {
                    Ok(id) => {
                        self.waiting.insert(ticket, Waiting::CreatedByJoin(id));
                        new.has_created = true;
                        id
                    }
                    Err(error) => return drop(reply.send(Err(error))),
                }
            }
            (None, None) => return drop(reply.send(Err(Error::NotFound))),
        };
        if self.creating.contains_key(&id) {
            return self.defer(id, Message::Join(new, reply));
        }
        let (session, is_known) = (new.session, self.owner.knows_session(new.session, id));
        let limit = self.shared.members_max;
        if new.is_resumed && !is_known {
            return drop(reply.send(Err(Error::SessionEnded)));
        }
        if !is_known && self.member_count(id) >= limit {
            return drop(reply.send(Err(Error::TooManyMembers { limit })));
        }
        let stream = new.stream;
        let since = self.replace_stream(session, stream).unwrap_or_else(Instant::now);
        self.streams.insert(stream, Stream::new(new.events, session, id));
        let (member, principal) = (new.member, new.principal);
        self.sessions.insert(session, Session { member, principal, since, stream, group: id });
        let ticket = self.ticket(Waiting::Joined { stream, has_created: new.has_created, reply });
        self.inputs.push_back(Input::Join { ticket, group: id, session, stream });
    }

    /// Number of members of a group, with those that join in this round.
    fn member_count(&self, id: GroupId) -> usize {
        let joins = self.inputs.iter().filter(|input| {
            matches!(input, Input::Join { group, session, .. }
                if *group == id && !self.owner.knows_session(*session, id))
        });
        self.owner.member_count(id) + joins.count()
    }

    /// Number of calls of a group that wait for a lease, with those that begin in this round.
    fn waiting_count(&self, id: GroupId) -> usize {
        let calls = self.inputs.iter();
        let calls = calls.filter(|input| matches!(input, Input::LeaseOnce { group, .. } if *group == id));
        self.owner.waiting_count(id) + calls.count()
    }

    /// Ends the stream that a session had. Returns the time since which the session is a member.
    fn replace_stream(&mut self, session: SessionId, stream: u64) -> Option<Instant> {
        let known = self.sessions.get_mut(&session)?;
        let former = std::mem::replace(&mut known.stream, stream);
        let since = known.since;
        self.tell(former, Event::ended(Error::SessionTaken));
        self.streams.remove(&former);
        Some(since)
    }

    /// Lets a call wait for one lease.
    fn lease_once(&mut self, new: NewLease, reply: Reply<()>) {
        let Some(group) = self.find(&new.name) else { return drop(reply.send(Err(Error::NotFound))) };
        if self.creating.contains_key(&group) {
            return self.defer(group, Message::LeaseOnce(new, reply));
        }
        if self.waiting_count(group) >= LEASES_WAITING_MAX {
            return drop(reply.send(Err(Error::TooManyLeases { limit: LEASES_WAITING_MAX })));
        }
        if reply.send(Ok(())).is_err() {
            return;
        }
        let NewLease { session, stream, records, bytes, events, .. } = new;
        self.streams.insert(stream, Stream { is_once: true, ..Stream::new(events, session, group) });
        self.inputs.push_back(Input::LeaseOnce { group, session, stream, records, bytes });
    }

    /// The owner's fence of a token; none if the group that it names is not the one of its id.
    fn fence_of(&self, token: &Token) -> Option<Fence> {
        let about = &self.owner.shard().group(token.id)?.about;
        let is_genuine =
            (&about.topic, &about.name, about.epoch) == (&token.topic, &token.group, token.epoch);
        token.fence.since(about.past_terms).filter(|_| is_genuine)
    }

    fn settle(&mut self, token: Token, settlement: Settlement, asker: Asker<Outcomes>) {
        let Some(fence) = self.fence_of(&token) else {
            let lost = settlement.acts.iter().map(|(span, _)| (*span, Outcome::LeaseLost)).collect();
            return match asker {
                Asker::Member(stream, number) => self.tell(stream, Event::Settled { number, outcomes: lost }),
                Asker::Call(reply) => drop(reply.send(Err(Error::NotFound))),
            };
        };
        for (span, reason) in settlement.reasons {
            self.remember((token.id, span.start), (span.end, reason));
        }
        let ticket = self.ticket(Waiting::Settled(asker));
        self.inputs.push_back(Input::Settle(logic::Settlement {
            ticket,
            group: token.id,
            fence,
            held: token.held,
            acts: settlement.acts,
        }));
    }

    /// Remembers the reason of a failure, and forgets the oldest one if there are too many.
    fn remember(&mut self, at: (GroupId, u64), reason: (u64, Box<str>)) {
        if self.reasons.insert(at, reason).is_none() {
            self.reasons_by_age.push_back(at);
        }
        if self.reasons_by_age.len() > REASONS_MAX
            && let Some(oldest) = self.reasons_by_age.pop_front()
        {
            self.reasons.remove(&oldest);
        }
    }

    fn extend(&mut self, token: &Token, time: Option<Duration>, asker: Asker<Option<Duration>>) {
        let (state, fence) = (self.owner.shard().group(token.id), self.fence_of(token));
        let (Some(state), Some(fence)) = (state, fence) else {
            return match asker {
                Asker::Member(stream, number) => self.tell(stream, Event::Extended { number, left: None }),
                Asker::Call(reply) => drop(reply.send(Err(Error::NotFound))),
            };
        };
        let default = state.about.settings.ack_deadline_ms;
        let millis = time.map_or(default, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let ticket = self.ticket(Waiting::Extended(asker));
        self.inputs.push_back(Input::Extend { ticket, group: token.id, fence, millis });
    }

    fn list(&mut self, topic: Option<&TopicName>, after: Option<&Name>, limit: usize) -> Vec<Info> {
        let is_of = |name: &&Name| topic.is_none_or(|topic| name.topic == *topic);
        let (mut at, mut found) = (after.cloned(), Vec::new());
        while found.len() < limit {
            let from = at.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut later = self.names.range((from, Bound::Unbounded)).map(|(name, _)| name);
            let Some(name) = later.find(is_of).cloned() else { break };
            if let Some(id) = self.find(&name) {
                found.extend(self.described(Some(id), Members::Without));
            }
            at = Some(name);
        }
        found
    }
}
