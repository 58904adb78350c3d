//! Descriptions of the groups of a shard and their members.

use std::time::Duration;

use super::error::Error;
use super::info::{Info, Lag, MemberInfo, Status};
use super::lag::{Behind, behind};
use super::logic::GroupId;
use super::mailbox::Members;
use super::shard::{Done, Task};
use crate::record::Offset;

/// Most members that are described.
const MEMBERS_MAX: usize = 1000;

impl Task {
    /// Describes a group.
    pub(super) fn described(&mut self, id: Option<GroupId>, members: Members) -> Result<Info, Error> {
        let id = id.ok_or(Error::NotFound)?;
        let state = self.owner.shard().group(id).ok_or(Error::NotFound)?;
        let about = &state.about;
        let topic = self.topic_of(id).ok_or(Error::NotFound)?;
        let load = self.owner.load(id);
        let Behind { records, uncounted, oldest } = behind(state, &load, &**topic);
        let status = Status {
            oldest_unsettled: Offset::new(oldest),
            tail: topic.tail(),
            lag: Lag { records, age: None },
            uncounted,
            leased_records: load.leased,
            delayed_records: load.delayed,
            blocked_keys: load.blocked_keys,
            parked_records: state.parked_records,
            dead_lettered_records: state.dead_lettered,
            skipped_records: state.skipped,
            is_at_lookahead_max: load.is_full,
            dead_letter_problem: self.problems.get(&id).cloned(),
            redriven_to: state.redriven_to,
            member_count: self.owner.member_count(id) as u64,
            members: if members == Members::With { self.members(id) } else { Vec::new() },
        };
        Ok(Info {
            topic: about.topic.clone(),
            name: about.name.clone(),
            id,
            created: about.created,
            topic_epoch: about.epoch,
            settings: about.settings.clone(),
            status,
        })
    }

    fn members(&self, id: GroupId) -> Vec<MemberInfo> {
        let members = self.owner.members(id).take(MEMBERS_MAX).map(|load| {
            // A session that was handed over has no name until it comes back.
            let session = self.sessions.get(&load.session);
            MemberInfo {
                name: session.map_or_else(Box::default, |session| session.member.clone()),
                principal: session.map_or_else(Box::default, |session| session.principal.as_ref().into()),
                age: session.map_or(Duration::ZERO, |session| session.since.elapsed()),
                is_connected: session.is_some_and(|session| self.streams.contains_key(&session.stream)),
                credit_records: load.credit.0,
                credit_bytes: load.credit.1,
                leased_records: load.leased,
                oldest_lease_age: load.oldest_lease_ms.map(Duration::from_millis),
            }
        });
        members.collect()
    }

    /// Tells members how far their group is behind.
    pub(super) fn progressed(&self, id: GroupId) {
        let (Some(source), Some(state)) = (self.sources.get(&id), self.owner.shard().group(id)) else {
            return;
        };
        let topic = &source.topic;
        let Behind { records, uncounted, oldest } = behind(state, &self.owner.load(id), &**topic);
        if uncounted.is_empty_in(&**topic) {
            return source.progress.store(records, oldest);
        }
        let (topic, progress) = (topic.clone(), source.progress.clone());
        self.work.push(Box::pin(async move {
            if let Ok(more) = uncounted.count(&*topic).await {
                progress.store(records + more, oldest);
            }
            Done::Nothing
        }));
    }

    /// Looks after sessions and the lag of groups, once in a while.
    pub(super) fn sweep(&mut self) {
        let (owner, sources) = (&self.owner, &self.sources);
        self.sessions.retain(|session, known| owner.knows_session(*session, known.group));
        let groups: std::collections::BTreeSet<GroupId> =
            self.streams.values().map(|stream| stream.group).filter(|id| sources.contains_key(id)).collect();
        groups.into_iter().for_each(|id| self.progressed(id));
    }
}
