//! Groups in backups: their state as it is saved, and as it is restored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::Error;
use super::info::Info;
use super::logic::{GroupId, GroupName, GroupState, Input, Piece, Undecodable, decode_part, encode_part};
use super::mailbox::{Members, Message, Name, Reply};
use super::shard::{Task, Waiting};
use crate::record::{Epoch, Offset, Position, TopicName};
use crate::storage::TopicLog;
use crate::topic;

/// A group as a backup holds it.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The group.
    pub info: Info,
    /// State of the group, in parts of less than 1 MiB.
    pub parts: Vec<Bytes>,
}

/// The state of a group from a backup.
#[derive(Clone, Debug)]
pub struct SavedState {
    parts: Vec<Piece>,
    /// Time since it was saved.
    age: Duration,
}

impl SavedState {
    /// Reads the parts of a state that was saved this long ago, in their order.
    ///
    /// # Errors
    /// A part is damaged, or a newer server wrote it.
    pub fn decode(parts: &[Bytes], age: Duration) -> Result<Self, Undecodable> {
        let parts: Vec<Piece> = parts.iter().map(|part| decode_part(part)).collect::<Result<_, _>>()?;
        if parts.is_empty() {
            return Err(Undecodable::Malformed("no parts"));
        }
        Ok(Self { parts, age })
    }

    /// Returns true if the fences of the group can rise above those that may have been given since it was saved.
    #[must_use]
    pub fn leaves_fences(&self) -> bool {
        self.parts.iter().all(|part| part.about.past_terms_restored(self.age).is_some())
    }

    /// Returns true if the state is of this group.
    #[must_use]
    pub fn is_of(&self, topic: &TopicName, group: &GroupName) -> bool {
        self.parts.iter().all(|part| (&part.about.topic, &part.about.name) == (topic, group))
    }

    /// The topic to which the group may have records published.
    #[must_use]
    pub fn dead_letter_topic(&self) -> Option<&TopicName> {
        self.parts.first()?.about.settings.dead_letter_topic.as_ref()
    }

    /// The state of the group in a topic that was restored from the same backup.
    pub(super) fn restored(&self, topic: &dyn TopicLog) -> Result<GroupState, Error> {
        let epoch = self.parts.first().map_or(Epoch::new(0), |part| part.about.epoch);
        let state = topic.state();
        let position = Position { epoch, offset: Offset::ZERO };
        state.lineage.offset(state.epoch, position).map_err(topic::Error::from)?;
        let ancestor = state.lineage.ancestors().iter().find(|ancestor| ancestor.epoch == epoch);
        let cut = ancestor.map(|ancestor| ancestor.cut.get());
        cut.and_then(|cut| GroupState::restored(&self.parts, state.epoch, cut, self.age))
            .ok_or(Error::NotRestored)
    }
}

/// Encodes the parts of a state.
pub(super) fn encoded((info, parts): (Info, Vec<Piece>)) -> Saved {
    Saved { info, parts: parts.iter().map(|part| encode_part(part).into()).collect() }
}

impl Task {
    /// Reads the durable state of a group.
    pub(super) fn save(&mut self, name: &Name, reply: Reply<(Info, Vec<Piece>)>) {
        let id = self.find(name).filter(|id| !self.creating.contains_key(id));
        let parts = id.and_then(|id| self.owner.saved(id)).ok_or(Error::NotFound);
        let saved = self.described(id, Members::Without).and_then(|info| Ok((info, parts?)));
        drop(reply.send(saved));
    }

    /// Creates a group as a backup of it was. A group that was restored already is answered as it is.
    pub(super) fn restore(
        &mut self,
        name: Name,
        id: GroupId,
        topic: Arc<dyn TopicLog>,
        state: Box<GroupState>,
        reply: Reply<Info>,
    ) {
        match self.find(&name) {
            Some(found) if self.creating.contains_key(&found) => {
                self.defer(found, Message::Restore(name, id, topic, state, reply));
            }
            Some(found) if found == id => drop(reply.send(self.described(Some(id), Members::Without))),
            Some(_) => drop(reply.send(Err(Error::Exists))),
            None => match self.check_room() {
                Ok(()) => {
                    let ticket = self.unheard();
                    self.waiting.insert(ticket, Waiting::Created(id, reply));
                    self.begin_creating(name, id, topic);
                    self.inputs.push_back(Input::Restore { ticket, group: id, state });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }
}
