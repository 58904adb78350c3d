//! The checkpointer: moves what the journals hold into segments, writes the catalog, and then removes the old
//! journals. It also evicts from the tail caches what is in segments. A file is removed only after the
//! catalog that no longer needs it is durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cached::Cached;
use super::catalog::{AncestorEntry, Catalog, IdsEntry, SegmentEntry, TopicEntry};
use super::checkpoint_queue::{CheckpointQueue, Snapshot, TopicMark, Work};
use super::disk::{Disk, File, Mode, is_full, is_too_many_files};
use super::health::Monitor;
use super::ids;
use super::journal;
use super::reader::Files;
use super::retention::RetentionTask;
use super::segment::{self, Fault, Segment};
use super::segment_writer::{Limit, SegmentWriter};
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::tail::Run;
use crate::telemetry::METRICS;

/// Interval at which retention runs, and at which a full disk is tried again.
const INTERVAL: Duration = Duration::from_secs(1);
/// Approximate minimum number of segments in which a topic with limits is kept.
const SEGMENTS_KEPT: u64 = 4;
/// Multiple of the window's capacity up to which request ids are kept in files, as long as the window
/// remembers an id that old: the ids of a principal that stores few are spread among those of one that stores
/// many.
const IDS_KEPT: u64 = 4;

/// The checkpointer's state.
#[derive(Debug)]
pub struct Checkpointer {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// Size at which a segment is full.
    pub segment_bytes: u64,
    /// Maximum number of request ids remembered.
    pub ids_max: usize,
    /// The catalog on disk.
    pub catalog: Catalog,
    /// Queue of snapshots from the committer.
    pub checkpoint_queue: Arc<CheckpointQueue>,
    /// Open segment files.
    pub files: Arc<Files>,
    /// Health monitor to which failures are reported.
    pub health: Monitor,
    /// Retention of all topics, which runs between checkpoints.
    pub retention_task: RetentionTask,
    /// Time of the last retention pass.
    pub retention_ran: Option<Instant>,
    /// Time at which a new journal was last requested while the disk lacked space for one.
    pub journal_requested: Option<Instant>,
    /// Chunks that are in segments and still in a tail cache.
    pub cached: Cached,
}

impl Checkpointer {
    /// Runs until the log closes or a checkpoint fails for good.
    pub fn run(mut self) {
        let _guard =
            PanicGuard { checkpoint_queue: self.checkpoint_queue.clone(), health: self.health.clone() };
        loop {
            match self.checkpoint_queue.take(INTERVAL) {
                Work::Snapshot(snapshot) => {
                    if !self.retry(&snapshot) {
                        return;
                    }
                }
                Work::Quiet if self.checkpoint_queue.is_short() => self.make_room(),
                Work::Quiet => {}
                Work::Closed(synced) => return self.record_clean_stop(synced),
            }
            self.run_retention();
        }
    }

    /// Writes the newest acknowledged commit to the catalog at a clean stop, so that the next start detects a
    /// journal that lost its end while no server was running. If it cannot be written, the next start cannot
    /// detect that.
    fn record_clean_stop(&mut self, synced: Option<u64>) {
        let Some(synced) = synced.filter(|synced| *synced > self.catalog.last_acked_commit) else { return };
        self.catalog.last_acked_commit = synced;
        if let Err(error) = self.catalog.write(&*self.disk, &self.dir) {
            tracing::warn!(%error, "end of the journal was not noted in the catalog");
        }
    }

    /// Runs a retention pass if one is due, even while checkpoints follow each other without a pause.
    fn run_retention(&mut self) {
        if self.retention_ran.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.retention_task.pass(&self.files, &self.catalog);
            self.retention_ran = Some(Instant::now());
        }
    }

    /// Tries a checkpoint until it succeeds. Returns false if it fails for good, or if the log closes.
    fn retry(&mut self, snapshot: &Snapshot) -> bool {
        loop {
            let begun = Instant::now();
            match self.checkpoint(snapshot) {
                Ok(()) => {
                    METRICS.storage.checkpoint.record_time(begun.elapsed());
                    return true;
                }
                Err(Fault::Io(error)) if is_full(&error) || is_too_many_files(&error) => {
                    tracing::warn!(%error, "checkpoint waits for disk space or files");
                    self.reclaim();
                    if self.checkpoint_queue.wait_full(INTERVAL) {
                        return false;
                    }
                    self.run_retention();
                }
                Err(fault) => {
                    let reason = format!("checkpoint: {fault}");
                    self.health.fail(&reason);
                    self.checkpoint_queue.fail(&reason);
                    return false;
                }
            }
        }
    }

    /// Frees what can be freed, and requests a new journal at most once per [`INTERVAL`].
    fn make_room(&mut self) {
        self.reclaim();
        if self.journal_requested.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.journal_requested = Some(Instant::now());
            self.retention_task.rotate();
        }
    }

    /// Frees what a full disk holds needlessly: spare journals, and segments that were trimmed or whose topic
    /// was deleted. The trims and deletions are in the journal and are replayed from there.
    fn reclaim(&mut self) {
        while let Some(spare) = self.checkpoint_queue.take_spare() {
            self.remove(spare);
        }
        let (mut catalog, mut kept) = (self.catalog.clone(), Vec::new());
        for entry in &mut catalog.topics {
            let Some(topic) = self.retention_task.topic(entry.id) else {
                // Its batches in the journal still need the entry.
                entry.segments.clear();
                continue;
            };
            let earliest = topic.state.earliest().get();
            entry.earliest = entry.earliest.max(earliest);
            entry.segments.retain(|segment| segment.end > earliest);
            let left = topic
                .segments
                .load()
                .iter()
                .filter(|segment| segment.end.get() > earliest)
                .copied()
                .collect();
            kept.push((topic, left));
        }
        if catalog != self.catalog && catalog.write(&*self.disk, &self.dir).is_ok() {
            for (topic, left) in kept {
                topic.segments.store(Arc::new(left));
            }
            let old = std::mem::replace(&mut self.catalog, catalog);
            self.remove_unnamed(&old);
        }
    }

    fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<(), Fault> {
        let mut runs: BTreeMap<u64, Vec<Run>> = BTreeMap::new();
        for item in snapshot.pending.iter().filter(|item| !item.topic.state.is_deleted()) {
            runs.entry(item.topic.id).or_default().push(item.run.clone());
        }
        let mut topics = Vec::with_capacity(snapshot.topics.len());
        for mark in &snapshot.topics {
            let fresh = runs.remove(&mark.topic.id).unwrap_or_default();
            // Runs trimmed since the snapshot are not written either: the trim is durable, and it may be what
            // frees a full disk.
            let earliest = mark.earliest.max(mark.topic.state.earliest().min(mark.tail));
            // A deleted topic keeps its entry, which its batches in the journal still need. Its segments may
            // be reclaimed.
            let segments = match mark.topic.state.is_deleted() {
                true => Vec::new(),
                false => self.flush(mark, earliest, &fresh, snapshot.clock)?,
            };
            topics.push((mark, earliest, segments));
        }
        let (ids, fresh_ids) = self.write_ids(snapshot)?;
        self.disk.sync_dir(&self.dir.join("segments"))?;
        if fresh_ids.is_some() {
            // The file's directory entry must be durable before that of the catalog that names it: after a
            // crash, a file system may have either one alone.
            self.disk.sync_dir(&self.dir)?;
        }
        // Segments reclaimed while this checkpoint waited for space were trimmed after its snapshot.
        let earliest_offsets: HashMap<u64, u64> =
            self.catalog.topics.iter().map(|topic| (topic.id, topic.earliest)).collect();
        let reclaimed = |mark: &TopicMark| earliest_offsets.get(&mark.topic.id).copied().unwrap_or(0);
        let entries = topics
            .iter()
            .map(|(mark, earliest, segments)| entry(mark, earliest.get().max(reclaimed(mark)), segments));
        let catalog = Catalog {
            commit: snapshot.commit,
            journal: snapshot.journal,
            next_topic: snapshot.next_topic,
            clock: snapshot.clock.0,
            topics: entries.collect(),
            ids: ids.into_iter().chain(fresh_ids).collect(),
            last_acked_commit: self.catalog.last_acked_commit,
        };
        catalog.write(&*self.disk, &self.dir)?;
        for (mark, _, segments) in topics {
            mark.topic.segments.store(Arc::new(segments));
        }
        let old = std::mem::replace(&mut self.catalog, catalog);
        self.release(snapshot);
        self.remove_unnamed(&old);
        Ok(())
    }

    /// Appends runs to the topic's segments and syncs them. Returns the resulting segments from `earliest`
    /// on.
    fn flush(
        &self,
        mark: &TopicMark,
        earliest: Offset,
        runs: &[Run],
        now: UnixMicros,
    ) -> Result<Vec<Segment>, Fault> {
        let topic = &mark.topic;
        let mut segments = topic.segments.load_full().to_vec();
        // Runs that were trimmed before this checkpoint are not written at all.
        let runs = &runs[runs.partition_point(|run| run.end <= earliest)..];
        if let Some(next) = runs.first() {
            let limit = self.segment_limit(mark, now);
            let mut writer =
                SegmentWriter::new(&*self.disk, &self.dir, (topic.id, topic.state.epoch.get()), limit);
            // Nothing is appended to a trimmed segment: its file is about to be removed, and may be damaged.
            let takes =
                |last: &&Segment| !limit.is_reached_by(last) && last.end == next.first && last.end > earliest;
            if let Some(last) = segments.last().filter(takes).copied()
                && let Some(file) = self.reopen(topic, &last)?
            {
                segments.pop();
                writer = writer.resume(last, file);
            }
            for run in runs {
                writer.push(run.clone())?;
            }
            segments.extend(writer.finish()?);
        }
        segments.retain(|segment| segment.end > earliest);
        Ok(segments)
    }

    /// Computes the limit at which a segment of this topic is full. Topics with tight limits get small
    /// segments, because retention frees whole segments.
    fn segment_limit(&self, mark: &TopicMark, now: UnixMicros) -> Limit {
        const MIN_BYTES: u64 = 256 << 10;
        let retention = &mark.settings.retention;
        let bytes = retention.max_bytes.map_or(self.segment_bytes, |max| {
            (max / SEGMENTS_KEPT).clamp(MIN_BYTES.min(self.segment_bytes), self.segment_bytes)
        });
        let oldest = retention.max_age.map_or(0, |age| {
            let span = u64::try_from(age.as_micros()).unwrap_or(u64::MAX) / SEGMENTS_KEPT;
            now.0.saturating_sub(span)
        });
        Limit { bytes, oldest: UnixMicros(oldest) }
    }

    /// Opens the active segment, and cuts off what a failed checkpoint left at its end. If its header is
    /// damaged, it reports that and returns none, because nothing appended to the file could be read.
    fn reopen(&self, topic: &Topic, active: &Segment) -> Result<Option<Arc<dyn File>>, Fault> {
        let path = segment::path(&self.dir, topic.id, active.base);
        let file = self.disk.open(&path, Mode::Write)?;
        match file.size()? {
            size if size < active.len => {
                let what = format!("{} is shorter than it was", path.display());
                return Err(Fault::Damaged { at: size, what });
            }
            size if size > active.len => file.set_len(active.len)?,
            _ => {}
        }
        match segment::OpenSegment::new(file.clone(), topic.id, topic.state.epoch.get(), active.base) {
            Ok(_) => Ok(Some(file)),
            Err(Fault::Io(error)) => Err(error.into()),
            Err(fault) => {
                self.health.fail(&format!("{}: {fault}", path.display()));
                Ok(None)
            }
        }
    }

    /// Writes the request ids of the snapshot. Returns the older files that are still needed, and the new
    /// one.
    fn write_ids(&self, snapshot: &Snapshot) -> Result<(Vec<IdsEntry>, Option<IdsEntry>), Fault> {
        let fresh = ids::write(&*self.disk, &self.dir, snapshot)?;
        let mut count = fresh.map_or(0, |fresh| fresh.count);
        let mut kept: Vec<IdsEntry> = Vec::new();
        let oldest_kept = snapshot.oldest_kept_id.map_or(u64::MAX, |oldest| oldest.0);
        for entry in self.catalog.ids.iter().rev() {
            // A file beyond the window's capacity is kept only if the window may still remember one of its
            // ids.
            let most = if entry.last_time < oldest_kept { 1 } else { IDS_KEPT };
            if count >= most.saturating_mul(self.ids_max as u64) || entry.last_time < snapshot.oldest_id.0 {
                break;
            }
            count = count.saturating_add(entry.count);
            kept.push(*entry);
        }
        kept.reverse();
        Ok((kept, fresh))
    }

    /// Releases the memory of runs that are now in segments, down to the size of the cache.
    fn release(&mut self, snapshot: &Snapshot) {
        let mut bytes = 0;
        for item in &snapshot.pending {
            bytes += item.bytes();
            item.topic.unflushed.fetch_sub(item.run.blocks.len(), Ordering::Relaxed);
        }
        self.cached.add(&snapshot.pending);
        self.checkpoint_queue.finish(bytes);
    }

    /// Removes the files that the previous catalog named and the current one does not. A file that cannot be
    /// removed is found again at the next start.
    fn remove_unnamed(&self, old: &Catalog) {
        let named: HashSet<_> = segments_of(&self.catalog).collect();
        for (topic, base) in segments_of(old).filter(|key| !named.contains(key)) {
            self.files.close(topic, base);
            self.remove(segment::path(&self.dir, topic, base));
        }
        let kept: HashSet<_> = self.catalog.ids.iter().map(|entry| entry.seq).collect();
        for entry in old.ids.iter().filter(|entry| !kept.contains(&entry.seq)) {
            self.remove(self.dir.join(ids::file_name(entry.seq)));
        }
        for seq in old.journal..self.catalog.journal {
            self.retire(seq);
        }
    }

    fn retire(&self, seq: u64) {
        let path = self.dir.join(journal::file_name(seq));
        if self.checkpoint_queue.wants_spare() {
            let spare = self.dir.join(format!("spare-{seq:016x}.log"));
            if self.disk.rename(&path, &spare).is_ok() {
                return self.checkpoint_queue.add_spare(spare);
            }
        }
        self.remove(path);
    }

    fn remove(&self, path: PathBuf) {
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "old file was not removed");
            }
            _ => {}
        }
    }
}

/// Reports a panic of the checkpointer when dropped, so that nobody waits for it.
struct PanicGuard {
    checkpoint_queue: Arc<CheckpointQueue>,
    health: Monitor,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail("the checkpointer panicked");
            self.checkpoint_queue.fail("the checkpointer panicked");
        }
    }
}

fn segments_of(catalog: &Catalog) -> impl Iterator<Item = (u64, Offset)> {
    let of = |topic: &TopicEntry| {
        let id = topic.id;
        topic.segments.iter().map(move |segment| (id, Offset::new(segment.base))).collect::<Vec<_>>()
    };
    catalog.topics.iter().flat_map(of)
}

fn entry(mark: &TopicMark, earliest: u64, segments: &[Segment]) -> TopicEntry {
    TopicEntry {
        id: mark.topic.id,
        name: mark.topic.state.name.to_string(),
        epoch: mark.topic.state.epoch.get(),
        created: mark.topic.state.created.0,
        updated: mark.settings.updated.0,
        retention: Some(mark.settings.retention.into()),
        earliest,
        tail: mark.tail.get(),
        last_publish: mark.last_publish.0,
        segments: segments.iter().map(SegmentEntry::from).collect(),
        restored_from: mark.topic.state.lineage.ancestors().iter().map(AncestorEntry::from).collect(),
    }
}
