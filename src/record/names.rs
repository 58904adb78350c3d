//! Newtypes of the whole crate: offsets, epochs, positions, times, names and idempotency keys.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The position of a record in its topic. Offsets increase strictly, and may have gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every topic.
    pub const ZERO: Self = Self(0);
    /// Larger than every offset a topic can reach.
    pub const MAX: Self = Self(u64::MAX);

    /// An offset of this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after `records` more records; saturates at [`Offset::MAX`].
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// Number of offsets between `earlier` and this one; 0 where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The incarnation of a topic: a random number, written with 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of this number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Parses an epoch; none where the text is not in the exact form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed =
            text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if well_formed { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The next offset to read in one incarnation of a topic: the resume token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Incarnation of the topic.
    pub epoch: Epoch,
    /// Next offset to read.
    pub offset: Offset,
}

/// The acknowledgement of one durable batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Position after the batch. Unused offsets may lie between the batch and this position.
    pub next: Position,
    /// Time when the batch was stored.
    pub time: UnixMicros,
    /// True if the `request_id` had been stored before, so that nothing new was stored.
    pub duplicate: bool,
}

impl Receipt {
    /// Returns true if `next` is the receipt of the batch stored directly after this one, in the same commit.
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let one_batch_more = self.next.epoch == next.next.epoch && self.next.offset == next.first;
        one_batch_more && self.time == next.time && !self.duplicate && !next.duplicate
    }
}

impl Default for Receipt {
    fn default() -> Self {
        let next = Position { epoch: Epoch::new(0), offset: Offset::ZERO };
        Self { first: Offset::ZERO, next, time: UnixMicros(0), duplicate: false }
    }
}

/// A wall-clock time in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixMicros(pub u64);

impl UnixMicros {
    /// The current time of the wall clock; 0 if that is before 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Whole seconds, and the rest in nanoseconds.
    #[must_use]
    pub const fn parts(self) -> (u64, u32) {
        (self.0 / 1_000_000, (self.0 % 1_000_000) as u32 * 1000)
    }
}

/// A checked topic name: `[a-z0-9][a-z0-9._-]{0,127}`, or the name of an internal topic: such a name after a `~`, which
/// no client can use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

impl TryFrom<String> for TopicName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::stored(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().to_owned()
    }
}

impl TopicName {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 128;
    /// First character of the names of internal topics. It sorts after those of all others.
    const INTERNAL: char = '~';

    /// Checks a name.
    ///
    /// # Errors
    /// The name breaks a rule; the error says which.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        let Some(first) = name.bytes().next() else { return Err("topic name is empty") };
        if name.len() > Self::MAX_LEN {
            return Err("topic name is longer than 128 bytes");
        }
        if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
            return Err("topic name must begin with a-z or 0-9");
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if !name.bytes().all(allowed) {
            return Err("topic name may hold only a-z, 0-9, '.', '_' and '-'");
        }
        Ok(Self(name.into()))
    }

    /// Name of an internal topic.
    ///
    /// # Errors
    /// The same as [`Self::parse`].
    pub fn internal(name: &str) -> Result<Self, &'static str> {
        Self::parse(name).map(|_| Self(format!("{}{name}", Self::INTERNAL).into()))
    }

    /// Checks a name that was stored, which may be that of an internal topic.
    ///
    /// # Errors
    /// The same as [`Self::parse`].
    pub fn stored(name: &str) -> Result<Self, &'static str> {
        name.strip_prefix(Self::INTERNAL).map_or_else(|| Self::parse(name), Self::internal)
    }

    /// Returns true if no client can use the name.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(Self::INTERNAL)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The owner of request ids: 128 bits of the SHA-256 of a principal's name, or zero for callers without an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope([u8; 16]);

impl Scope {
    /// The scope of callers without an identity.
    pub const NONE: Self = Self([0; 16]);

    /// A scope of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// A checked idempotency key: 1 to 128 bytes of UTF-8 in one scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    id: Box<[u8]>,
    scope: Scope,
    is_stored: bool,
}

impl RequestId {
    /// Longest key, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks a key.
    ///
    /// # Errors
    /// The key breaks a rule; the error says which.
    pub fn parse(id: &str) -> Result<Self, &'static str> {
        match id.len() {
            0 => Err("request_id is empty"),
            1..=Self::MAX_LEN => Ok(Self { id: id.as_bytes().into(), scope: Scope::NONE, is_stored: false }),
            _ => Err("request_id is longer than 128 bytes"),
        }
    }

    /// A key of a backup, in the form in which the engine stores it. None if it is empty or longer than 128 bytes.
    #[must_use]
    pub fn stored(id: &[u8], scope: Scope) -> Option<Self> {
        let is_valid = !id.is_empty() && id.len() <= Self::MAX_LEN;
        is_valid.then(|| Self { id: id.into(), scope, is_stored: true })
    }

    /// The same key in another scope.
    #[must_use]
    pub fn within(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// The key, as the client gave it, or as the engine stores it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.id
    }

    /// Returns true if the key is in the form in which the engine stores it.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// Scope of the key.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }
}

#[cfg(test)]
mod tests {
    use super::{Epoch, RequestId, TopicName};

    #[test]
    fn invalid_topic_names_are_refused() {
        for good in ["a", "0", "orders.eu-1_x", &"a".repeat(128)] {
            assert!(TopicName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "A", "a/b", "a b", "ä", "a\0", &"a".repeat(129)] {
            assert!(TopicName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn internal_names_are_refused_from_clients_and_known_to_engines() {
        let name = TopicName::internal("groups-00").unwrap();
        assert!(name.is_internal() && TopicName::parse(name.as_str()).is_err());
        assert_eq!(TopicName::stored(name.as_str()), Ok(name));
        assert!(!TopicName::stored("orders").unwrap().is_internal());
        for bad in ["", "~", "~~a", "~A", "a~"] {
            assert!(TopicName::stored(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_round_trip_and_reject_other_spellings() {
        let epoch = Epoch::new(0xabc);
        assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        for bad in ["", "abc", "0000000000000ABC", "+000000000000abc", "00000000000000000"] {
            assert_eq!(Epoch::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn request_ids_are_bounded() {
        assert!(RequestId::parse("").is_err());
        assert!(RequestId::parse(&"x".repeat(128)).is_ok());
        assert!(RequestId::parse(&"x".repeat(129)).is_err());
    }
}
