//! Content of the messages between a replica and the owner of a shard, as JSON: a newer replica may add fields.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::events::{Event, Held};
use super::super::info::Info;
use super::super::logic::{
    Act, Fence, GroupId, Outcome, Piece, SessionId, Settings, Span, decode_part, encode_part,
};
use super::super::mailbox::{Name, Reopen};
use super::super::requests::Settlement;
use super::super::token::Token;
use crate::record::{Epoch, TopicName};
use crate::storage::{self, Stored};
use crate::topic;

/// First message of a replica to the owner.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    /// Address of the replica.
    pub from: String,
}

/// The owner's answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Address of the owner for this replica alone.
    pub to: String,
}

/// A message of an open link.
#[derive(Serialize, Deserialize)]
pub(super) struct Letter<F> {
    /// Its number, from 1, rising by 1.
    pub number: u64,
    /// Milliseconds of the sender's clock.
    pub sent: u64,
    /// The newest such time that the sender got from the other side; 0 for none.
    pub heard: u64,
    /// True for the last letter.
    pub is_last: bool,
    /// Content in order.
    pub frames: Vec<F>,
    /// A piece of a frame that is larger than a letter, and whether it is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub piece: Option<(String, bool)>,
}

/// A group to create.
#[derive(Serialize, Deserialize)]
pub(super) struct NewGroup {
    pub epoch: Epoch,
    pub start: u64,
    pub settings: Settings,
}

/// A frame to the owner.
#[derive(Serialize, Deserialize)]
pub(super) enum ToOwner {
    /// A request whose answer has the same number.
    Call(u64, Call),
    /// A member's own request, by its stream.
    Credit {
        session: SessionId,
        stream: u64,
        records: u64,
        bytes: u64,
    },
    Settle {
        stream: u64,
        number: u64,
        token: Token,
        settlement: Settlement,
    },
    Extend {
        stream: u64,
        number: u64,
        token: Token,
        time: Option<Duration>,
    },
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
    Cut {
        session: SessionId,
        stream: u64,
    },
    StopWaiting {
        session: SessionId,
        stream: u64,
    },
    Cancel {
        session: SessionId,
        stream: u64,
    },
}

/// A request that is answered once.
#[derive(Serialize, Deserialize)]
pub(super) enum Call {
    Create(Name, NewGroup),
    Describe(Name, bool),
    List(Option<TopicName>, Option<Name>, usize),
    Update(Name, Option<GroupId>, Settings),
    Delete(Name, Option<GroupId>),
    Save(Name),
    /// With the incarnation of the topic, and the parts of the state.
    Restore(Name, GroupId, Epoch, Vec<Part>),
    Seek(Name, Epoch, u64),
    Redrive(Name, Reopen),
    Join(Join),
    LeaseOnce {
        name: Name,
        session: SessionId,
        stream: u64,
        records: u64,
        bytes: u64,
    },
    Settle(Token, Settlement),
    Extend(Token, Option<Duration>),
}

/// A part of a group's state, as a backup has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Part(String);

impl Part {
    pub(super) fn of(piece: &Piece) -> Self {
        Self(STANDARD.encode(encode_part(piece)))
    }

    pub(super) fn decode(&self) -> Option<Piece> {
        decode_part(&STANDARD.decode(&self.0).ok()?).ok()
    }
}

/// A member that joins.
#[derive(Serialize, Deserialize)]
pub(super) struct Join {
    pub name: Name,
    pub member: Box<str>,
    pub principal: Box<str>,
    pub session: SessionId,
    pub stream: u64,
    pub is_resumed: bool,
    pub create: Option<NewGroup>,
}

/// A frame of the owner.
#[derive(Serialize, Deserialize)]
pub(super) enum FromOwner {
    /// The answer to a call.
    Answer(u64, Result<Answer, Failure>),
    /// An event of a member, by its stream.
    Event(u64, Told),
    /// Lag of a group: records that are not settled, and the offset of the oldest.
    Lag(GroupId, u64, u64),
}

/// The answer to a call.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Info(Box<Info>),
    Infos(Vec<Info>),
    Saved(Box<Info>, Vec<Part>),
    Done,
    Count(u64),
    Joined { info: Box<Info>, held: Vec<HeldLease>, has_created: bool },
    Outcomes(Vec<(Span, Outcome)>),
    Left(Option<Duration>),
}

/// A lease that a session holds already. The member's replica makes its token.
#[derive(Serialize, Deserialize)]
pub(super) struct HeldLease {
    pub fence: Fence,
    pub left: Duration,
    pub spans: Vec<Span>,
}

impl From<Held> for HeldLease {
    fn from(held: Held) -> Self {
        let Held { fence, left, spans, .. } = held;
        Self { fence, left, spans }
    }
}

/// A lease without its records, which the member's replica reads, and without its token, which it makes.
#[derive(Serialize, Deserialize)]
pub(super) struct GivenLease {
    pub group: GroupId,
    /// Incarnation of the topic.
    pub epoch: Epoch,
    pub fence: Fence,
    pub records: u64,
    pub left: Duration,
    pub spans: Vec<Span>,
    pub redeliveries: Vec<(Span, u32)>,
}

/// An event of a member.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    Lease(Box<GivenLease>),
    Settled(u64, Vec<(Span, Outcome)>),
    Extended(u64, Option<Duration>),
    Revoked(Fence, Vec<Span>),
    Left,
    Ended(Failure),
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        match event {
            Event::Lease(leased) => Self::Lease(Box::new(GivenLease {
                group: leased.group,
                epoch: leased.epoch,
                fence: leased.fence,
                records: leased.records,
                left: leased.left,
                spans: leased.spans,
                redeliveries: leased.redeliveries,
            })),
            Event::Settled { number, outcomes } => Self::Settled(number, outcomes),
            Event::Extended { number, left } => Self::Extended(number, left),
            Event::Revoked { fence, spans } => Self::Revoked(fence, spans),
            Event::Left => Self::Left,
            Event::Ended(error) => Self::Ended((&*error).into()),
        }
    }
}

/// The error of a call on a group.
#[derive(Serialize, Deserialize)]
pub(super) enum Failure {
    NotFound,
    Exists,
    TooMany(usize),
    TooManyMembers(usize),
    TooManyLeases(usize),
    SessionEnded,
    SessionTaken,
    OrderFixed,
    NotRestored,
    Moved,
    TopicNotFound,
    Damaged(String),
    /// Try again.
    Unavailable(String),
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error {
            Error::NotFound => Self::NotFound,
            Error::Exists => Self::Exists,
            Error::TooMany { limit } => Self::TooMany(*limit),
            Error::TooManyMembers { limit } => Self::TooManyMembers(*limit),
            Error::TooManyLeases { limit } => Self::TooManyLeases(*limit),
            Error::SessionEnded => Self::SessionEnded,
            Error::SessionTaken => Self::SessionTaken,
            Error::OrderFixed => Self::OrderFixed,
            Error::NotRestored => Self::NotRestored,
            Error::Moved => Self::Moved,
            Error::Topic(topic::Error::Storage(storage::Error::TopicNotFound)) => Self::TopicNotFound,
            Error::Topic(topic::Error::Storage(storage::Error::Damaged(what))) => Self::Damaged(what.clone()),
            Error::Topic(topic::Error::Storage(storage::Error::Unavailable { reason, .. })) => {
                Self::Unavailable(reason.clone())
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let storage = |error: storage::Error| Self::Topic(error.into());
        match failure {
            Failure::NotFound => Self::NotFound,
            Failure::Exists => Self::Exists,
            Failure::TooMany(limit) => Self::TooMany { limit },
            Failure::TooManyMembers(limit) => Self::TooManyMembers { limit },
            Failure::TooManyLeases(limit) => Self::TooManyLeases { limit },
            Failure::SessionEnded => Self::SessionEnded,
            Failure::SessionTaken => Self::SessionTaken,
            Failure::OrderFixed => Self::OrderFixed,
            Failure::NotRestored => Self::NotRestored,
            Failure::Moved => Self::Moved,
            Failure::TopicNotFound => storage(storage::Error::TopicNotFound),
            Failure::Damaged(what) => storage(storage::Error::Damaged(what)),
            Failure::Unavailable(reason) => {
                storage(storage::Error::Unavailable { reason, stored: Stored::Unknown })
            }
        }
    }
}
