//! Reading of commands, with all checks.

use prost::encoding::decode_varint;

use crate::group::logic::command::{About, Command, Done, Effect, HandedLease, Piece};
use crate::group::logic::ids::{CommandId, Fence, GroupId, GroupName, KeyHash, SessionId, Span, Term};
use crate::group::logic::marks::Mark;
use crate::group::logic::settings::{BACKOFF_LEN_MAX, Order, Poison, Settings};
use crate::record::{Epoch, TopicName, UnixMicros};

type Result<T> = std::result::Result<T, &'static str>;

/// Decodes a command whose version has been read.
pub(super) fn command(bytes: &[u8], version: u8) -> Result<Command> {
    let (&kind, rest) = bytes.split_first().ok_or("truncated")?;
    let mut reader = Reader(rest, version);
    let id = reader.command_id()?;
    if id.term > Term::MAX || id.number == 0 {
        return Err("a term or a number out of range");
    }
    let effect = reader.effect(kind)?;
    if reader.0.is_empty() { Ok(Command { id, effect }) } else { Err("more bytes than fields") }
}

/// Decodes a part of a group's state whose version has been read.
pub(super) fn part(bytes: &[u8], version: u8) -> Result<Piece> {
    let mut reader = Reader(bytes, version);
    let piece = reader.piece()?;
    if reader.0.is_empty() { Ok(piece) } else { Err("more bytes than fields") }
}

/// Bytes that are left to read, and their version.
struct Reader<'a>(&'a [u8], u8);

impl Reader<'_> {
    fn effect(&mut self, kind: u8) -> Result<Effect> {
        Ok(match kind {
            1 => Effect::Own { after: self.command_id()?, owner: 0 },
            2 => Effect::Renew,
            3 => Effect::State {
                group: self.group()?,
                part: self.small()?,
                is_last: self.flag()?,
                piece: Box::new(self.piece()?),
            },
            4 => Effect::Removed { group: self.group()? },
            5 => self.settled(Done::Acked)?,
            6 => self.settled(Done::DeadLettered)?,
            7 => self.settled(Done::Skipped)?,
            8 => Effect::Failed { group: self.group()?, marks: self.marks()? },
            9 => Effect::Returned { group: self.group()?, void_to: self.fence()?, spans: self.spans()? },
            10 => Effect::Sought { group: self.group()?, to: self.number()?, void_to: self.fence()? },
            11 => self.parked()?,
            12 => Effect::Handover { leases: self.list(Self::lease)? },
            13 => Effect::Reopened {
                group: self.group()?,
                void_to: self.fence()?,
                redriven_to: self.number()?,
                spans: self.spans()?,
            },
            15 => match (self.command_id()?, self.number()?) {
                (_, 0) => return Err("an owner without a number"),
                (after, owner) => Effect::Own { after, owner },
            },
            14 => Effect::Unparked { group: self.group()?, void_to: self.fence()? },
            _ => return Err("unknown kind"),
        })
    }

    fn settled(&mut self, how: Done) -> Result<Effect> {
        let (group, records) = (self.group()?, self.number()?);
        Ok(Effect::Settled { group, how, records, spans: self.spans()? })
    }

    fn parked(&mut self) -> Result<Effect> {
        let (group, is_keyed, key) = (self.group()?, self.flag()?, KeyHash(self.number()?));
        if !is_keyed && key != KeyHash(0) {
            return Err("a key that is none");
        }
        let records = self.number()?;
        Ok(Effect::Parked { group, key: is_keyed.then_some(key), records, spans: self.spans()? })
    }

    fn lease(&mut self) -> Result<HandedLease> {
        let (group, high, low) = (self.group()?, self.number()?, self.number()?);
        let session = SessionId(u128::from(high) << 64 | u128::from(low));
        let (fence, left_ms) = (self.fence()?, self.number()?);
        Ok(HandedLease { group, session, fence, left_ms, spans: self.spans()? })
    }

    fn piece(&mut self) -> Result<Piece> {
        Ok(Piece {
            about: self.about()?,
            head: self.number()?,
            void_to: self.fence()?,
            dead_lettered: self.number()?,
            skipped: self.number()?,
            parked_records: self.number()?,
            redriven_to: self.number()?,
            open: self.spans()?,
            parked: self.spans()?,
            marks: self.marks()?,
            parked_keys: self.list(|reader| reader.number().map(KeyHash))?,
        })
    }

    fn about(&mut self) -> Result<About> {
        let topic = TopicName::parse(&self.text()?)?;
        let epoch = Epoch::new(self.number()?);
        let name = GroupName::parse(&self.text()?)?;
        let created = UnixMicros(self.number()?);
        // Groups of version 1 were never restored.
        let past_terms = Term(if self.1 == 1 { 0 } else { self.number()? });
        if past_terms.0 > Term::MAX.0 / 2 {
            return Err("terms out of range");
        }
        Ok(About { topic, epoch, name, created, past_terms, settings: self.settings()? })
    }

    fn settings(&mut self) -> Result<Settings> {
        let order = match self.number()? {
            0 => Order::None,
            1 => Order::Key,
            2 => Order::Total,
            _ => return Err("unknown order"),
        };
        let (ack_deadline_ms, lease_max_ms, session_grace_ms) =
            (self.number()?, self.number()?, self.number()?);
        let deliveries_max = self.small()?;
        let backoff_ms = self.list(Self::number)?;
        if backoff_ms.len() > BACKOFF_LEN_MAX {
            return Err("too many delays");
        }
        let topic = self.text()?;
        let dead_letter_topic = if topic.is_empty() { None } else { Some(TopicName::parse(&topic)?) };
        let poison = match self.number()? {
            0 => Poison::DeadLetter,
            1 => Poison::ParkKey,
            2 => Poison::Hold,
            _ => return Err("unknown treatment of poison"),
        };
        let lookahead_max = self.number()?;
        Ok(Settings {
            order,
            ack_deadline_ms,
            lease_max_ms,
            session_grace_ms,
            deliveries_max,
            backoff_ms,
            dead_letter_topic,
            poison,
            lookahead_max,
        })
    }

    fn marks(&mut self) -> Result<Vec<(Span, Mark)>> {
        let spans = self.spans()?;
        spans.into_iter().map(|span| Ok((span, self.mark()?))).collect()
    }

    fn mark(&mut self) -> Result<Mark> {
        let (deliveries, due) = (self.small()?, UnixMicros(self.number()?));
        Ok(Mark { deliveries, due, delay_ms: self.number()?, void_to: self.fence()? })
    }

    fn spans(&mut self) -> Result<Vec<Span>> {
        let mut at = 0_u64;
        self.list(|reader| {
            let start = at.checked_add(reader.number()?).ok_or("an offset over 64 bits")?;
            at = start.checked_add(reader.number()?).ok_or("an offset over 64 bits")?;
            Span::new(start, at).ok_or("an empty span")
        })
    }

    /// Reads a list. An entry takes at least a byte, so that a damaged length reserves no memory.
    fn list<T>(&mut self, mut entry: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let len = self.number()?;
        if len > self.0.len() as u64 {
            return Err("truncated");
        }
        (0..len).map(|_| entry(self)).collect()
    }

    fn text(&mut self) -> Result<String> {
        let len = usize::try_from(self.number()?).map_err(|_| "truncated")?;
        let (text, rest) = self.0.split_at_checked(len).ok_or("truncated")?;
        self.0 = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| "a name is not UTF-8")
    }

    fn command_id(&mut self) -> Result<CommandId> {
        Ok(CommandId { term: Term(self.number()?), number: self.number()? })
    }

    fn group(&mut self) -> Result<GroupId> {
        self.number().map(GroupId)
    }

    fn fence(&mut self) -> Result<Fence> {
        self.number().map(Fence)
    }

    fn small(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| "a number over 32 bits")
    }

    fn flag(&mut self) -> Result<bool> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag that is neither 0 nor 1"),
        }
    }

    fn number(&mut self) -> Result<u64> {
        decode_varint(&mut self.0).map_err(|_| "a number is truncated or over 64 bits")
    }
}
