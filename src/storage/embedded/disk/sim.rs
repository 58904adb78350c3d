//! A disk in memory that tears writes, fails and fills up. Data that was not synced may be lost sector by sector, and
//! directory entries that were not made durable by a directory sync may be lost too. It guarantees no more than a real
//! disk does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{ALIGN, Disk, File, Mode};

/// Size of a sector, which a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Node {
    fn touch(&mut self, at: usize, len: usize) {
        self.dirty.extend(at / SECTOR..(at + len).div_ceil(SECTOR));
    }

    fn put(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if end > self.data.len() {
            self.data.resize(end, 0);
        }
        self.data[at..end].copy_from_slice(bytes);
        self.touch(at, bytes.len());
    }

    /// Makes everything durable that was written since the last sync.
    fn sync(&mut self) {
        self.durable.resize(self.data.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let span = (sector * SECTOR).min(self.data.len())..((sector + 1) * SECTOR).min(self.data.len());
            self.durable[span.clone()].copy_from_slice(&self.data[span]);
        }
    }

    /// Returns what a power cut leaves: each sector that was written since the last sync is either present or lost.
    fn torn(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut image = self.durable.clone();
        let odds = rng.f64();
        for &sector in self.dirty.iter().filter(|sector| **sector * SECTOR < self.data.len()) {
            if rng.f64() > odds {
                continue;
            }
            let span = sector * SECTOR..((sector + 1) * SECTOR).min(self.data.len());
            if image.len() < span.end {
                image.resize(span.end, 0);
            }
            image[span.clone()].copy_from_slice(&self.data[span]);
        }
        image
    }
}

#[derive(Clone, Debug)]
enum EntryOp {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    /// Renames atomically: both entries change, or neither does.
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    entries: BTreeMap<PathBuf, usize>,
    durable_entries: BTreeMap<PathBuf, usize>,
    pending: Vec<EntryOp>,
    /// Number of changes left until the power fails.
    countdown: Option<u32>,
    image: Option<BTreeMap<PathBuf, Vec<u8>>>,
    seed: u64,
    /// Capacity of the disk in bytes, or `None` if it is unlimited.
    capacity: Option<usize>,
    /// Number of changes left until the disk is full.
    fills_after: Option<u32>,
    fail_sync: bool,
    /// True while syncs wait.
    syncs_held: bool,
    panic_after_sync: bool,
    reads: u64,
    /// File that cannot be opened for reading at present. `waiting` counts the calls that wait for it.
    held: Option<PathBuf>,
    waiting: u32,
}

/// A disk in memory. Clones share the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl SimDisk {
    /// Makes a disk with these files, all durable.
    pub fn with(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.lock();
            for (path, data) in files {
                let node = state.nodes.len();
                state.nodes.push(Node { data: data.clone(), durable: data.clone(), dirty: BTreeSet::new() });
                state.entries.insert(path.clone(), node);
                state.durable_entries.insert(path.clone(), node);
            }
        }
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes the power fail after `ops` more changes.
    pub fn crash_after(&self, ops: u32, seed: u64) {
        let mut state = self.lock();
        (state.countdown, state.seed) = (Some(ops), seed);
    }

    /// Returns the files that a power cut left. If there was none, the power fails now.
    pub fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut state = self.lock();
        match &state.image {
            Some(image) => image.clone(),
            None => {
                state.cut();
                state.image.clone().unwrap()
            }
        }
    }

    /// Returns the disk as a killed process leaves it: no write is lost, and no more writes are durable than before.
    pub fn survivor(&self) -> Self {
        let state = self.lock();
        Self(Arc::new(Mutex::new(State {
            nodes: state.nodes.clone(),
            entries: state.entries.clone(),
            durable_entries: state.durable_entries.clone(),
            pending: state.pending.clone(),
            ..State::default()
        })))
    }

    /// Returns every file as it is now.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock();
        state.entries.iter().map(|(path, node)| (path.clone(), state.nodes[*node].data.clone())).collect()
    }

    /// Fills the disk to its present contents, or removes the limit.
    pub fn set_full(&self, full: bool) {
        let mut state = self.lock();
        state.capacity = full.then(|| state.used());
    }

    /// Makes the disk full after `ops` more changes.
    pub fn full_after(&self, ops: u32) {
        self.lock().fills_after = Some(ops);
    }

    /// Returns the capacity in bytes, including the files, or `None` before the disk is full.
    pub fn capacity(&self) -> Option<usize> {
        self.lock().capacity
    }

    /// Sets the capacity, but to no less than what the files take.
    pub fn set_capacity(&self, capacity: Option<usize>) {
        let mut state = self.lock();
        let used = state.used();
        state.capacity = capacity.map(|capacity| capacity.max(used));
    }

    /// Returns the number of reads so far.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// Makes calls that open this file for reading wait, until another file or none is held.
    pub fn hold(&self, path: Option<&Path>) {
        self.lock().held = path.map(Into::into);
    }

    /// Returns the number of calls that wait.
    pub fn waiting(&self) -> u32 {
        self.lock().waiting
    }

    fn wait_while_held(&self, path: &Path) {
        if self.lock().held.as_deref() != Some(path) {
            return;
        }
        self.lock().waiting += 1;
        while self.lock().held.as_deref() == Some(path) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.lock().waiting -= 1;
    }

    /// Makes the next sync panic after it is done.
    pub fn panic_after_sync(&self) {
        self.lock().panic_after_sync = true;
    }

    /// Makes syncs wait from now on, or releases them.
    pub fn hold_syncs(&self, held: bool) {
        self.lock().syncs_held = held;
    }

    /// Makes every sync from now on fail.
    pub fn fail_syncs(&self) {
        self.lock().fail_sync = true;
    }
}

impl State {
    fn cut(&mut self) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut entries = self.durable_entries.clone();
        // Directory entries reach the disk in order, as in a journaling file system, or independently of each other.
        // The number that does is random.
        let in_order = rng.bool();
        for op in &self.pending {
            let kept = rng.u8(..4) != 0;
            if !kept && in_order {
                break;
            }
            if kept {
                apply(&mut entries, op);
            }
        }
        let nodes = &self.nodes;
        self.image =
            Some(entries.into_iter().map(|(path, node)| (path, nodes[node].torn(&mut rng))).collect());
    }

    /// Returns the number of bytes of the files that have a name.
    fn used(&self) -> usize {
        self.entries.values().map(|node| self.nodes[*node].data.len()).sum()
    }

    /// Returns the number of bytes that are free.
    fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Counts a change, before which the power may fail.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.fills_after {
            Some(0) => (self.capacity, self.fills_after) = (Some(self.used()), None),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.image.is_some() {
            return Err(gone());
        }
        if let Some(left) = &mut self.countdown {
            if *left == 0 {
                self.cut();
                return Err(gone());
            }
            *left -= 1;
        }
        Ok(())
    }
}

fn apply(entries: &mut BTreeMap<PathBuf, usize>, op: &EntryOp) {
    match op {
        EntryOp::Link(path, node) => entries.insert(path.clone(), *node),
        EntryOp::Unlink(path) => entries.remove(path),
        EntryOp::Rename(from, to, node) => {
            entries.remove(from);
            entries.insert(to.clone(), *node)
        }
    };
}

impl Disk for SimDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.lock();
        let inside = state.entries.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside
            .map(|(path, node)| {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), state.nodes[*node].data.len() as u64)
            })
            .collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        let node = match (state.entries.get(path).copied(), mode) {
            (Some(node), Mode::Read | Mode::Write) => node,
            (None, Mode::Read | Mode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (_, Mode::Create) => {
                state.change()?;
                if state.room() == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let node = state.nodes.len();
                state.nodes.push(Node::default());
                let op = EntryOp::Link(path.into(), node);
                apply(&mut state.entries, &op);
                state.pending.push(op);
                node
            }
        };
        drop(state);
        if mode == Mode::Read {
            self.wait_while_held(path);
        }
        Ok(Arc::new(SimFile { disk: self.clone(), node, aligned: AtomicBool::new(false) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let node = *state.entries.get(from).ok_or(io::ErrorKind::NotFound)?;
        let op = EntryOp::Rename(from.into(), to.into(), node);
        apply(&mut state.entries, &op);
        state.pending.push(op);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let op = EntryOp::Unlink(path.into());
        apply(&mut state.entries, &op);
        state.pending.push(op);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let inside = |op: &EntryOp| match op {
            EntryOp::Link(path, _) | EntryOp::Unlink(path) | EntryOp::Rename(path, ..) => {
                path.parent() == Some(dir)
            }
        };
        let (synced, pending) = std::mem::take(&mut state.pending).into_iter().partition(inside);
        state.pending = pending;
        let synced: Vec<EntryOp> = synced;
        synced.iter().for_each(|op| apply(&mut state.durable_entries, op));
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: usize,
    /// True if writes must be aligned.
    aligned: AtomicBool,
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.reads += 1;
        let data = &state.nodes[self.node].data;
        let from = data.len().min(at as usize);
        let len = buf.len().min(data.len() - from);
        buf[..len].copy_from_slice(&data[from..from + len]);
        Ok(len)
    }

    fn bypass_cache(&self) {
        self.aligned.store(true, Ordering::Relaxed);
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.aligned.load(Ordering::Relaxed) {
            let all = [bytes.as_ptr().addr(), bytes.len(), at as usize];
            assert!(all.iter().all(|part| part % ALIGN == 0), "not aligned: {all:x?}");
        }
        let mut state = self.disk.lock();
        state.change()?;
        let room = state.room();
        let node = &mut state.nodes[self.node];
        let end = at as usize + bytes.len();
        if end.saturating_sub(node.data.len()) > room {
            // The write is short: it stores what fits in the existing file, and half of the rest if there is space.
            let fits = node.data.len().saturating_sub(at as usize);
            let some = fits + ((bytes.len() - fits) / 2).min(room);
            node.put(&bytes[..some], at as usize);
            return Err(io::ErrorKind::StorageFull.into());
        }
        node.put(bytes, at as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        while self.disk.lock().syncs_held {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut state = self.disk.lock();
        state.change()?;
        if state.fail_sync {
            return Err(io::Error::other("sync failed"));
        }
        state.nodes[self.node].sync();
        let panics = std::mem::take(&mut state.panic_after_sync);
        drop(state);
        assert!(!panics, "as asked, after the sync");
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.change()?;
        let room = state.room();
        let node = &mut state.nodes[self.node];
        if node.data.len() < len as usize {
            if len as usize - node.data.len() > room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            node.data.resize(len as usize, 0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.change()?;
        let node = &mut state.nodes[self.node];
        let old = node.data.len();
        node.data.resize(len as usize, 0);
        node.touch(old.min(len as usize), old.abs_diff(len as usize));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().nodes[self.node].data.len() as u64)
    }
}
