//! Messages to the task of a shard, and its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::events::{EventSender, Held};
use super::info::Info;
use super::logic::{Act, Fence, GroupId, GroupName, GroupState, Outcome, Piece, SessionId, Settings, Span};

use super::recent::Recent;
use super::requests::Settlement;
use super::token::Token;
use crate::record::TopicName;
use crate::storage::TopicLog;

/// Place for the answer of a call.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Outcomes of a settlement.
pub(super) type Outcomes = Vec<(Span, Outcome)>;

/// Name of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Name {
    pub topic: TopicName,
    pub group: GroupName,
}

/// A group to create.
#[derive(Clone)]
pub(super) struct NewGroup {
    /// Id of the group to be, by which a repeat of the request is known.
    pub id: GroupId,
    pub topic: Arc<dyn TopicLog>,
    pub start: u64,
    pub settings: Settings,
}

/// A member that joins.
pub(super) struct NewMember {
    pub name: Name,
    pub member: Box<str>,
    pub principal: Arc<str>,
    pub session: SessionId,
    pub stream: u64,
    /// True if the session is that of an earlier call.
    pub is_resumed: bool,
    /// The group to create if there is none.
    pub create: Option<NewGroup>,
    /// True once its group was created for it.
    pub has_created: bool,
    pub events: EventSender,
}

/// A call that gets one lease.
pub(super) struct NewLease {
    pub name: Name,
    pub session: SessionId,
    pub stream: u64,
    pub records: u64,
    pub bytes: u64,
    pub events: EventSender,
}

/// Answer to a join.
pub(super) struct Joined {
    pub info: Info,
    pub held: Vec<Held>,
    pub has_created: bool,
    pub topic: Arc<dyn TopicLog>,
    /// Records of all topics that were read lately at this replica.
    pub recent: Arc<Recent>,
    pub progress: Arc<Progress>,
}

/// Lag of a group, which its members read without asking.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Records that are not settled.
    pub records: AtomicU64,
    /// Offset of the oldest of them.
    pub oldest: AtomicU64,
}

impl Progress {
    /// Tells a new lag.
    pub(super) fn store(&self, records: u64, oldest: u64) {
        self.records.store(records, Ordering::Relaxed);
        self.oldest.store(oldest, Ordering::Relaxed);
    }
}

/// Receiver of the answer to a settlement or an extension.
pub(super) enum Asker<T> {
    /// A member, by its stream; with its number of the request.
    Member(u64, u64),
    /// A unary call, by the place of its answer.
    Call(Reply<T>),
}

/// A message to the task of a shard. Each sender bounds the messages of its own that are not answered.
pub(super) enum Message {
    Create(Name, NewGroup, Reply<Info>),
    Describe(Name, Members, Reply<Info>),
    /// The state of a group for a backup, in parts.
    Save(Name, Reply<(Info, Vec<Piece>)>),
    /// Creates a group as a backup of it was.
    Restore(Name, GroupId, Arc<dyn TopicLog>, Box<GroupState>, Reply<Info>),
    /// Groups after a name, of one topic or all, up to a number.
    List(Option<TopicName>, Option<Name>, usize, Reply<Vec<Info>>),
    Update(Name, Option<GroupId>, Settings, Reply<Info>),
    Delete(Name, Option<GroupId>, Reply<()>),
    /// The offset is one of the topic's incarnation that the log is of.
    Seek(Name, Arc<dyn TopicLog>, u64, Reply<Info>),
    /// Opens records again that were given up.
    Redrive(Name, Reopen, Reply<u64>),
    Join(NewMember, Reply<Joined>),
    /// Waits for one lease, which is the first event. [`Event::Left`] says that there is none.
    LeaseOnce(NewLease, Reply<()>),
    /// A call waits no longer than for what is being read.
    StopWaiting {
        session: SessionId,
        stream: u64,
    },
    /// A call has ended without its lease.
    Cancel {
        session: SessionId,
        stream: u64,
    },
    Credit {
        session: SessionId,
        stream: u64,
        records: u64,
        bytes: u64,
    },
    Settle(Token, Settlement, Asker<Outcomes>),
    Extend(Token, Option<Duration>, Asker<Option<Duration>>),
    /// The records of a lease that a member was not given. Nobody waits for the outcome.
    GiveUp {
        group: GroupId,
        fence: Fence,
        spans: Vec<Span>,
        act: Act,
    },
    Leave {
        session: SessionId,
        stream: u64,
    },
    /// The stream ended.
    Cut {
        session: SessionId,
        stream: u64,
    },
    /// Hands the shard over and ends the task.
    Close(oneshot::Sender<()>),
}

/// Records to open again.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Reopen {
    /// Those at these offsets, with the offset up to which the dead letter topic was searched for them.
    Dead(Vec<u64>, u64),
    /// All that are set aside.
    Parked,
}

/// Choice between descriptions with members and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    With,
    Without,
}

/// Sender of messages to the task of a shard.
pub(super) type Mailbox = mpsc::UnboundedSender<Message>;

/// The task to which messages of a shard go.
#[derive(Clone)]
pub(super) struct Found {
    pub mailbox: Mailbox,
    /// True for the owner, and false for the link to the owner at another replica.
    pub is_owner: bool,
}

impl Message {
    /// Answers with an error.
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Create(_, _, reply)
            | Self::Describe(_, _, reply)
            | Self::Restore(_, _, _, _, reply)
            | Self::Update(_, _, _, reply)
            | Self::Seek(_, _, _, reply) => drop(reply.send(Err(error))),
            Self::List(_, _, _, reply) => drop(reply.send(Err(error))),
            Self::Save(_, reply) => drop(reply.send(Err(error))),
            Self::Delete(_, _, reply) => drop(reply.send(Err(error))),
            Self::Redrive(_, _, reply) => drop(reply.send(Err(error))),
            Self::Join(_, reply) => drop(reply.send(Err(error))),
            Self::LeaseOnce(_, reply) => drop(reply.send(Err(error))),
            Self::Settle(_, _, Asker::Call(reply)) => drop(reply.send(Err(error))),
            Self::Extend(_, _, Asker::Call(reply)) => drop(reply.send(Err(error))),
            Self::Close(closed) => drop(closed.send(())),
            Self::Settle(..)
            | Self::Extend(..)
            | Self::GiveUp { .. }
            | Self::Credit { .. }
            | Self::Leave { .. }
            | Self::Cut { .. }
            | Self::StopWaiting { .. }
            | Self::Cancel { .. } => {}
        }
    }
}
