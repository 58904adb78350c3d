//! Encoded batches that the readers of a topic share, so that each batch is encoded once for all that follow it live.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};

use super::encoder::Encoder;
use crate::record::block::Block;
use crate::record::walk::Malformed;
use crate::record::{Epoch, Offset};

/// Most bytes kept for a topic and form: what readers that wait for the same records need within a few wakes.
const BYTES_MAX: usize = 512 << 10;
/// Most batches kept for a topic and form.
const BATCHES_MAX: usize = 1024;
/// Largest batch that is shared, in stored bytes. A larger one is encoded record by record, as it may not fit a frame.
pub const BLOCK_MAX: usize = 128 << 10;

/// Topics with readers, by incarnation and form.
type Topics = HashMap<(Epoch, Encoder), Weak<Mutex<Recent>>>;

/// Encoded batches of all topics that have readers.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Topics>>);

/// Encoded batches of one topic, in the order of their offsets.
#[derive(Debug, Default)]
struct Recent {
    batches: VecDeque<(Offset, Bytes)>,
    bytes: usize,
}

/// The encoded batches of one topic in one form. Kept by its readers alone.
#[derive(Clone, Debug)]
pub struct SharedTopic {
    recent: Arc<Mutex<Recent>>,
    epoch: Epoch,
    encoder: Encoder,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns what the readers of a topic share.
    #[must_use]
    pub fn of(&self, epoch: Epoch, encoder: Encoder) -> SharedTopic {
        let mut topics = lock(&self.0);
        let known = topics.get(&(epoch, encoder)).and_then(Weak::upgrade);
        let recent = known.unwrap_or_else(|| {
            topics.retain(|_, recent| recent.strong_count() > 0);
            let recent = Arc::default();
            topics.insert((epoch, encoder), Arc::downgrade(&recent));
            recent
        });
        SharedTopic { recent, epoch, encoder }
    }
}

impl SharedTopic {
    /// Writes a whole batch.
    ///
    /// # Errors
    /// The batch is damaged.
    pub fn put(&self, block: &Block<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        let mut recent = lock(&self.recent);
        if let Some(encoded) = recent.find(block.first) {
            drop(recent);
            out.extend_from_slice(&encoded);
            return Ok(());
        }
        let is_new = recent.batches.back().is_none_or(|(last, _)| *last < block.first);
        if !is_new {
            drop(recent);
            return self.encode(block, out);
        }
        // Under the lock: whoever waits for it wants the same batch.
        let mut encoded = BytesMut::new();
        self.encode(block, &mut encoded)?;
        out.extend_from_slice(&encoded);
        recent.push(block.first, Bytes::copy_from_slice(&encoded));
        Ok(())
    }

    fn encode(&self, block: &Block<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        self.encoder.block(self.epoch, (block, block.first), usize::MAX, out).map(|_| ())
    }
}

impl Recent {
    fn find(&self, first: Offset) -> Option<Bytes> {
        let at = self.batches.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        self.batches.get(at).map(|(_, encoded)| encoded.clone())
    }

    fn push(&mut self, first: Offset, encoded: Bytes) {
        self.bytes += encoded.len();
        self.batches.push_back((first, encoded));
        while self.bytes > BYTES_MAX || self.batches.len() > BATCHES_MAX {
            let Some((_, old)) = self.batches.pop_front() else { return };
            self.bytes -= old.len();
        }
    }
}
