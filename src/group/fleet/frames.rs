//! Content of the messages between a replica and the owner of a shard, as JSON. A newer replica may add fields and frames.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

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
pub(super) struct Letter {
    /// Number of the letter, from 1, rising by 1.
    pub number: u64,
    /// Milliseconds of the sender's clock.
    pub sent: u64,
    /// The newest such time that the sender got from the other side; 0 for none.
    pub heard: u64,
    /// True for the last letter.
    pub is_last: bool,
    /// Content in order, each frame as it was written: a newer replica sends some that this one does not know.
    pub frames: Vec<Box<RawValue>>,
    /// A piece of a frame that is larger than a letter, and whether it is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub piece: Option<(String, bool)>,
}

/// A frame that arrived.
pub(super) enum Frame<F> {
    Known(F),
    Unknown(Unknown),
}

/// A frame of a newer replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Name of its variant.
    pub kind: String,
    /// Number of its call or its stream, if it has one.
    pub number: Option<u64>,
}

impl<F: DeserializeOwned> Frame<F> {
    /// Reads a frame.
    pub(super) fn read(raw: &RawValue) -> Self {
        serde_json::from_str(raw.get()).map_or_else(|_| Self::Unknown(Unknown::read(raw)), Self::Known)
    }
}

impl Unknown {
    /// Reads what all frames have in common: `{"Kind": [number, …]}`.
    fn read(raw: &RawValue) -> Self {
        let parts: Option<(String, Value)> =
            serde_json::from_str::<serde_json::Map<String, Value>>(raw.get())
                .ok()
                .and_then(|map| map.into_iter().next());
        let (kind, value) = parts.unwrap_or_default();
        Self { kind, number: value.get(0).and_then(Value::as_u64) }
    }
}

/// A group to create.
#[derive(Serialize, Deserialize)]
pub(super) struct NewGroup {
    /// Id of the group to be. Older replicas leave it to the owner.
    pub id: Option<GroupId>,
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
    Answer(u64, Result<Answer, Error>),
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
    Ended(Error),
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
            Event::Ended(error) => Self::Ended(*error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::{Answer, Error, Frame, FromOwner, NewGroup, ToOwner, Told, Unknown};
    use crate::record::{Epoch, Offset};
    use crate::storage::{self, Stored};
    use crate::topic;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn unknown(kind: &str, number: Option<u64>) -> Unknown {
        Unknown { kind: kind.into(), number }
    }

    #[test]
    fn frames_of_newer_replicas_are_told_apart() {
        let read = |text| match Frame::<ToOwner>::read(&raw(text)) {
            Frame::Known(_) => None,
            Frame::Unknown(unknown) => Some(unknown),
        };
        assert_eq!(read(r#"{"Call":[7,{"Describe":[{"topic":"t","group":"g"},true]}]}"#), None);
        assert_eq!(read(r#"{"Call":[7,{"Merge":[1,2]}]}"#), Some(unknown("Call", Some(7))));
        assert_eq!(read(r#"{"Merge":{"stream":3}}"#), Some(unknown("Merge", None)));
        assert_eq!(read(r#""Merge""#), Some(unknown("", None)));
        let answer = Frame::<FromOwner>::read(&raw(r#"{"Answer":[8,{"Err":{"TooLazy":5}}]}"#));
        assert!(matches!(answer, Frame::Unknown(known) if known == unknown("Answer", Some(8))));
        let older: NewGroup = serde_json::from_value(serde_json::json!({ "epoch": Epoch::new(1), "start": 0,
                "settings": crate::group::logic::Settings::default() }))
        .unwrap();
        assert!(older.id.is_none());
    }

    /// Each error with what its status tells: its text, and all that it carries.
    #[test]
    fn errors_come_through_whole() {
        use storage::Error as Storage;
        let at = (Epoch::new(3), Offset::new(4), Offset::new(5));
        let of_storage = [
            Storage::TopicNotFound,
            Storage::TopicExists,
            Storage::TopicLimit { limit: 9 },
            Storage::EpochChanged { current: at.0, resume: at.1 },
            Storage::Restoring { cut: at.1 },
            Storage::ExpectedOffset { epoch: at.0, tail: at.2 },
            Storage::RequestIdReused { first: at.1 },
            Storage::Trimmed { epoch: at.0, earliest: at.1, tail: at.2 },
            Storage::BeyondTail { epoch: at.0, earliest: at.1, tail: at.2 },
            Storage::DiskFull,
            Storage::NoRoom { bytes: 7, reason: "small".into() },
            Storage::EarlierFailed,
            Storage::Unavailable { reason: "away".into(), stored: Stored::Nothing },
            Storage::Unavailable { reason: "away".into(), stored: Stored::Unknown },
            Storage::Closing,
            Storage::Damaged("a page".into()),
        ];
        let of_topic = [
            topic::Error::Starting,
            topic::Error::Draining,
            topic::Error::MaxAge,
            topic::Error::IdentityExpired,
            topic::Error::PermissionWithdrawn,
            topic::Error::Disconnected { banned_until: 12 },
            topic::Error::Overloaded,
        ];
        let of_group = [
            Error::NotFound,
            Error::Exists,
            Error::TooMany { limit: 1 },
            Error::TooManyMembers { limit: 2 },
            Error::TooManyLeases { limit: 3 },
            Error::SessionEnded,
            Error::SessionTaken,
            Error::OrderFixed,
            Error::NotRestored,
            Error::NotDamaged,
            Error::Moved,
            Error::Lost,
            Error::Unsupported,
        ];
        let of_topic = of_topic.into_iter().chain(of_storage.into_iter().map(topic::Error::Storage));
        for error in of_group.into_iter().chain(of_topic.map(Error::Topic)) {
            let sent = FromOwner::Answer(1, Err::<Answer, _>(error.clone()));
            let read = Frame::read(&raw(&serde_json::to_string(&sent).unwrap()));
            assert!(
                matches!(read, Frame::Known(FromOwner::Answer(1, Err(told))) if told == error),
                "{error:?}"
            );
            let sent = FromOwner::Event(1, Told::Ended(error.clone()));
            let read = Frame::read(&raw(&serde_json::to_string(&sent).unwrap()));
            assert!(
                matches!(read, Frame::Known(FromOwner::Event(1, Told::Ended(told))) if told == error),
                "{error:?}"
            );
        }
    }
}
