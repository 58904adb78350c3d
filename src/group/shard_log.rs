//! Commands of a shard as they are stored: one record each, in the shard's internal topic.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::logic::{Command, Effect, Shard, decode, encode};
use crate::record::block::{Blocks, records_fields};
use crate::record::protobuf::{bytes_len, put_bytes};
use crate::record::walk::{Fields, Value};
use crate::record::{Batch, BatchLimits, Offset, TopicName};
use crate::storage::{Error, Numbering, Start, TopicLog};

/// Most commands of one batch.
const COMMANDS_MAX: usize = 1000;
/// Size in bytes from which on a batch takes no further command. A command is smaller than 1 MiB.
const BATCH_FULL: usize = 256 << 10;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Tag of a record's value: field 2, length-delimited.
const VALUE_TAG: u8 = 0x12;

/// Name of the topic of a shard.
pub(super) fn name(shard: u64) -> TopicName {
    TopicName::internal(&format!("groups-{shard:02}")).expect("the name is well-formed")
}

/// A command with the size of its encoding in bytes.
pub(super) type Sized = (Command, usize);

/// Takes the next commands that are stored at once.
pub(super) fn next_batch(commands: &mut VecDeque<Command>) -> Option<(Batch, Vec<Sized>)> {
    let (mut taken, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < BATCH_FULL
        && taken.len() < COMMANDS_MAX
        && let Some(command) = commands.pop_front()
    {
        let record = record_of(&encode(&command));
        bytes += record.len();
        taken.push((command, record.len()));
        records.push(record);
    }
    if taken.is_empty() {
        return None;
    }
    let limits = BatchLimits { records_max: u32::MAX, bytes_max: u32::MAX };
    let fields = records_fields(records.iter().map(Vec::as_slice));
    let batch = Batch::check(fields, limits).expect("records are well-formed and below the limits");
    Some((batch, taken))
}

fn record_of(value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes_len(value));
    put_bytes(VALUE_TAG, value, &mut record);
    record
}

/// A command as it is stored: its place, its size in bytes, and itself.
pub(super) type Stored = (Offset, usize, Command);

/// Reader of the commands of a shard, in order.
pub(super) struct Reader {
    topic: Arc<dyn TopicLog>,
    at: Offset,
}

impl Reader {
    /// Begins with the oldest command that is kept. Returns the shard to fold the commands into.
    pub(super) fn begin(topic: Arc<dyn TopicLog>) -> (Self, Shard) {
        let at = topic.earliest();
        let shard = if at == Offset::ZERO { Shard::new() } else { Shard::trimmed() };
        (Self { topic, at }, shard)
    }

    /// Reads the next commands, and waits until there are some. Cancel-safe.
    ///
    /// # Errors
    /// The storage failed, or it holds what this server does not know.
    pub(super) async fn next(&mut self) -> Result<Vec<Stored>, Error> {
        self.topic.wait_beyond(self.at).await;
        let chunk = match self.topic.read_cached(self.at, READ_BYTES) {
            Some(chunk) => chunk,
            None => self.topic.read(self.at, READ_BYTES).await?,
        };
        let mut commands = Vec::new();
        for run in &chunk.runs {
            decode_run(run, self.at, &mut commands)?;
        }
        self.at = chunk.next;
        Ok(commands)
    }
}

/// Folds all that is stored. Returns the reader of what comes after it.
///
/// # Errors
/// The storage failed, or it holds what this server does not know.
pub(super) async fn fold(topic: Arc<dyn TopicLog>) -> Result<(Reader, Shard), Error> {
    let tail = topic.resolve(Start::Latest).await?;
    let may_be_purged = topic.state().numbering() == Numbering::Sparse;
    let (mut reader, mut shard) = Reader::begin(topic);
    let mut is_checked = reader.at == Offset::ZERO || !may_be_purged;
    while reader.at < tail {
        let commands = reader.next().await?;
        if !is_checked && !begins_with_state(&commands) {
            return Err(Error::Damaged("groups: the oldest commands of a shard were purged".to_owned()));
        }
        is_checked = true;
        for (at, size, command) in commands {
            shard.apply(at, size, &command);
        }
    }
    if shard.is_empty() {
        // An owner never trims its last command.
        return Err(Error::Damaged("groups: all commands of a shard were purged".to_owned()));
    }
    Ok((reader, shard))
}

/// Returns true if the first message of a shard holds the begin of a group's state. An owner trims only what comes before the
/// message of one.
fn begins_with_state(commands: &[Stored]) -> bool {
    /// Offsets of a message of JetStream.
    const MESSAGE_OFFSETS: u64 = 1024;
    let message = |stored: &Stored| stored.0.get() / MESSAGE_OFFSETS;
    let first = commands.first().map(message);
    let mut of_first = commands.iter().take_while(|stored| Some(message(stored)) == first);
    of_first.any(|(_, _, command)| matches!(command.effect, Effect::State { part: 0, .. }))
}

/// The error of a shard whose storage failed: what was deleted without its server is lost.
pub(super) fn error_of(topic: &dyn TopicLog, error: Error) -> Error {
    match error {
        Error::TopicNotFound => Error::Damaged(format!("groups: {} was deleted", topic.name())),
        error => error,
    }
}

fn decode_run(run: &Bytes, from: Offset, commands: &mut Vec<Stored>) -> Result<(), Error> {
    let damaged = |reason: &dyn std::fmt::Display| Error::Damaged(format!("groups: {reason}"));
    for block in Blocks::new(run) {
        let block = block.map_err(|error| damaged(&error))?;
        for (index, record) in block.records().enumerate() {
            let at = block.first.plus(index as u64);
            if at < from {
                continue;
            }
            let value = value_of(record).ok_or_else(|| damaged(&"a record is not a command"))?;
            commands.push((at, record.len(), decode(value).map_err(|error| damaged(&error))?));
        }
    }
    Ok(())
}

fn value_of(record: &[u8]) -> Option<&[u8]> {
    let field = Fields::new(record).next()?.ok()?;
    match (field.number, field.value) {
        (2, Value::Len(range)) => record.get(range),
        _ => None,
    }
}
