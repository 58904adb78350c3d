//! Encoded batches that the readers of a topic share, so that each batch is encoded once for all that follow it live.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::BytesMut;

use super::encoder::Encoder;
use crate::json::Place;
use crate::record::block::Block;
use crate::record::walk::Malformed;
use crate::record::{Epoch, Offset, RecordRef};

/// Most bytes kept for a topic and form: what readers that wait for the same records need within a few wakes.
const BYTES_MAX: usize = 512 << 10;
/// Most bytes kept for all topics. At this, the readers of a topic encode for themselves.
const TOTAL_BYTES_MAX: usize = 32 << 20;
/// Most batches kept for a topic and form.
const BATCHES_MAX: usize = 1024;
/// Bytes that a batch takes beside its text and the ends of its records.
const BATCH_BYTES: usize = 64;
/// Largest batch that is shared, in stored bytes. A larger one is encoded for each reader, in pieces.
pub const BLOCK_MAX: usize = 128 << 10;

/// Topics with readers, by incarnation and form.
type Topics = HashMap<(Epoch, Encoder), Weak<Mutex<Recent>>>;

/// Encoded batches of all topics that have readers.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    topics: Arc<Mutex<Topics>>,
    /// Bytes kept for all topics.
    total: Arc<AtomicUsize>,
}

/// A batch as text.
#[derive(Debug)]
struct Encoded {
    text: Box<[u8]>,
    /// End of each record in the text.
    ends: Box<[u32]>,
}

/// Encoded batches of one topic, in the order of their offsets.
#[derive(Debug)]
struct Recent {
    batches: VecDeque<(Offset, Arc<Encoded>)>,
    bytes: usize,
    total: Arc<AtomicUsize>,
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
        let mut topics = lock(&self.topics);
        let known = topics.get(&(epoch, encoder)).and_then(Weak::upgrade);
        let recent = known.unwrap_or_else(|| {
            topics.retain(|_, recent| recent.strong_count() > 0);
            let total = Arc::clone(&self.total);
            let recent = Arc::new(Mutex::new(Recent { batches: VecDeque::new(), bytes: 0, total }));
            topics.insert((epoch, encoder), Arc::downgrade(&recent));
            recent
        });
        SharedTopic { recent, epoch, encoder }
    }
}

impl SharedTopic {
    /// Writes the records of a batch from an offset on, each whole, that fit into `room` bytes of `out`. Returns the offset of
    /// the first record that was not written, which is `from` too where nobody shares.
    ///
    /// # Errors
    /// The batch is damaged.
    pub fn put(
        &self,
        block: &Block<'_>,
        from: Offset,
        room: usize,
        out: &mut BytesMut,
    ) -> Result<Offset, Malformed> {
        if Arc::strong_count(&self.recent) == 1 || block.bytes.len() > BLOCK_MAX {
            return Ok(from);
        }
        let Some(encoded) = self.encoded(block)? else { return Ok(from) };
        let index = usize::try_from(from.since(block.first)).unwrap_or(usize::MAX);
        Ok(from.plus(encoded.put(index, room, out)))
    }

    /// Forgets what was kept: nobody who follows the topic waits for it.
    pub fn clear(&self) {
        lock(&self.recent).clear();
    }

    /// Returns the text of a batch; none for one older than those that are kept.
    fn encoded(&self, block: &Block<'_>) -> Result<Option<Arc<Encoded>>, Malformed> {
        let mut recent = lock(&self.recent);
        if let Some(encoded) = recent.find(block.first) {
            return Ok(Some(encoded));
        }
        if recent.batches.back().is_some_and(|(last, _)| *last >= block.first) {
            return Ok(None);
        }
        // Under the lock: whoever waits for it wants the same batch.
        let encoded = Arc::new(self.encode(block)?);
        recent.push(block.first, Arc::clone(&encoded));
        Ok(Some(encoded))
    }

    fn encode(&self, block: &Block<'_>) -> Result<Encoded, Malformed> {
        let (mut out, mut ends) = (BytesMut::new(), Vec::new());
        for (offset, encoded) in (block.first.get()..).map(Offset::new).zip(block.records()) {
            let record = RecordRef::parse(offset, block.time(), encoded)?;
            let _ = self.encoder.record(self.epoch, &record, (Place::default(), usize::MAX), &mut out);
            ends.push(u32::try_from(out.len()).expect("a small multiple of the largest batch"));
        }
        Ok(Encoded { text: out[..].into(), ends: ends.into() })
    }
}

impl Encoded {
    /// Writes the records from one on that fit into `room` bytes of `out`. Returns their number.
    fn put(&self, first: usize, room: usize, out: &mut BytesMut) -> u64 {
        let Some(ends) = self.ends.get(first..) else { return 0 };
        let begin = if first == 0 { 0 } else { self.ends[first - 1] as usize };
        let reach = begin + room.saturating_sub(out.len());
        let count = ends.partition_point(|end| *end as usize <= reach);
        if let Some(last) = count.checked_sub(1) {
            out.extend_from_slice(&self.text[begin..ends[last] as usize]);
        }
        count as u64
    }

    fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends) + BATCH_BYTES
    }
}

impl Recent {
    fn find(&self, first: Offset) -> Option<Arc<Encoded>> {
        let at = self.batches.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        self.batches.get(at).map(|(_, encoded)| Arc::clone(encoded))
    }

    fn push(&mut self, first: Offset, encoded: Arc<Encoded>) {
        self.bytes += encoded.bytes();
        self.total.fetch_add(encoded.bytes(), Ordering::Relaxed);
        self.batches.push_back((first, encoded));
        let is_over = |this: &Self| {
            this.bytes > BYTES_MAX
                || this.batches.len() > BATCHES_MAX
                || this.total.load(Ordering::Relaxed) > TOTAL_BYTES_MAX
        };
        while is_over(self) && self.pop() {}
    }

    /// Forgets the oldest batch. Returns false if there was none.
    fn pop(&mut self) -> bool {
        let Some((_, old)) = self.batches.pop_front() else { return false };
        self.bytes -= old.bytes();
        self.total.fetch_sub(old.bytes(), Ordering::Relaxed);
        true
    }

    fn clear(&mut self) {
        while self.pop() {}
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Encoded, Offset, Ordering, Shared, TOTAL_BYTES_MAX, lock};
    use crate::http::encoder::{Encoder, Form};
    use crate::json::Values;
    use crate::record::Epoch;
    use bytes::BytesMut;
    use std::sync::Arc;

    fn encoded(records: &[&str]) -> Encoded {
        let text: String = records.concat();
        let ends = records.iter().scan(0, |end, record| {
            *end += u32::try_from(record.len()).unwrap();
            Some(*end)
        });
        Encoded { ends: ends.collect(), text: text.into_bytes().into() }
    }

    #[test]
    fn records_are_written_whole_and_while_they_fit() {
        let batch = encoded(&["one,", "three,", "four,"]);
        for (first, room, expected, count) in [
            (0, 100, "one,three,four,", 3),
            (0, 14, "one,three,", 2),
            (1, 6, "three,", 1),
            (1, 5, "", 0),
            (3, 100, "", 0),
            (9, 100, "", 0),
        ] {
            let mut out = BytesMut::new();
            assert_eq!((batch.put(first, room, &mut out), &out[..]), (count, expected.as_bytes()));
        }
        let mut out = BytesMut::from("12");
        assert_eq!((batch.put(0, 6, &mut out), &out[..]), (1, &b"12one,"[..]));
    }

    #[test]
    fn what_many_topics_keep_is_bounded_and_goes_with_their_readers() {
        let (shared, encoder) = (Shared::default(), Encoder { form: Form::Events, values: Values::Text });
        let text = "x".repeat(BYTES_MAX / 2);
        let topics: Vec<_> = (0..200).map(|epoch| shared.of(Epoch::new(epoch), encoder)).collect();
        for topic in &topics {
            for first in 0..3 {
                lock(&topic.recent).push(Offset::new(first), Arc::new(encoded(&[&text])));
            }
            assert!(lock(&topic.recent).bytes <= BYTES_MAX);
        }
        let total = shared.total.load(Ordering::Relaxed);
        assert!(total <= TOTAL_BYTES_MAX && total > TOTAL_BYTES_MAX - BYTES_MAX, "{total}");
        topics[0].clear();
        assert!(shared.total.load(Ordering::Relaxed) < total);
        drop(topics);
        assert_eq!(shared.total.load(Ordering::Relaxed), 0);
    }
}
