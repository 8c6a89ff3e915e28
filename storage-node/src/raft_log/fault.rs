//! A test instrument: a file system for the Raft log that knows what was synced, so that tests can
//! cut the power, tear the last writes, let a disk lie about syncs, and let syncs fail.
//!
//! It works on real files. Whatever is not synced yet can be undone: every write keeps what it wrote
//! over, every creation and renaming the old name. [`FaultFileSystem::power_off`] stops everything
//! at once (operations fail from then on, as nobody must acknowledge what comes after),
//! [`FaultFileSystem::power_on`] leaves what a disk would show after that. A new name counts as
//! durable once the file itself is synced, and removals at once: raft-engine syncs folders behind
//! our back.

use parking_lot::Mutex;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a sync does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncBehaviour {
    #[default]
    Honest,
    /// It says that it is done and does nothing.
    Lies,
    /// It fails.
    Fails,
    /// It takes so long.
    Slow(Duration),
}

/// What a power cut leaves of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing.
    Lost,
    /// Of every file some of the first writes, and a part of the next.
    Torn { seed: u64 },
}

/// See the module. All clones are one file system.
#[derive(Clone, Default)]
pub struct FaultFileSystem {
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Disk {
    power: Mutex<Power>,
    files: Mutex<HashMap<PathBuf, Arc<Node>>>,
}

#[derive(Clone, Copy, Default)]
struct Power {
    off: bool,
    sync: SyncBehaviour,
    /// Handles of before a power cut are of no use after it.
    generation: u64,
    syncs: u64,
}

/// One file.
struct Node {
    file: File,
    /// Writes to it are acknowledged once it is synced. (The others are raft-engine's own copies.)
    acknowledges: bool,
    generation: u64,
    journal: Mutex<Journal>,
}

/// How to undo what is not synced.
#[derive(Default)]
struct Journal {
    writes: Vec<Undo>,
    created: bool,
    renamed_from: Option<PathBuf>,
}

struct Undo {
    offset: u64,
    /// Bytes written there.
    length: usize,
    old: Vec<u8>,
    old_length: u64,
}

impl FaultFileSystem {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set_sync(&self, behaviour: SyncBehaviour) {
        self.disk.power.lock().sync = behaviour;
    }

    /// How many syncs there were, honest or not.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.power.lock().syncs
    }

    /// From now on nothing reaches the disk, and everything that should fails.
    pub fn power_off(&self) {
        self.disk.power.lock().off = true;
    }

    /// Undoes what was not synced; the files can be opened again.
    ///
    /// # Errors
    /// The files under it cannot be changed.
    pub fn power_on(&self, unsynced: Unsynced) -> Result<()> {
        let mut files = self.disk.files.lock();
        let mut random = match unsynced {
            Unsynced::Lost => None,
            Unsynced::Torn { seed } => Some(StdRng::seed_from_u64(seed)),
        };
        let mut names: Vec<_> = files.drain().collect();
        // The same seed must do the same whatever the order of a hash map.
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, node) in names {
            node.journal.lock().undo(&node.file, &path, random.as_mut())?;
        }
        let mut power = self.disk.power.lock();
        power.off = false;
        power.generation += 1;
        Ok(())
    }

    fn node(&self, path: &Path, created: bool) -> Result<Arc<Node>> {
        let power = self.disk.on()?;
        let mut files = self.disk.files.lock();
        if let Some(node) = files.get(path) {
            return Ok(Arc::clone(node));
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let node = Arc::new(Node {
            file,
            acknowledges: path.to_string_lossy().contains(".raftlog"),
            generation: power.generation,
            journal: Mutex::new(Journal { created, ..Journal::default() }),
        });
        files.insert(path.to_owned(), Arc::clone(&node));
        Ok(node)
    }
}

impl Disk {
    fn on(&self) -> Result<Power> {
        let power = *self.power.lock();
        if power.off { Err(Error::other("the power is off")) } else { Ok(power) }
    }

    fn on_for(&self, node: &Node) -> Result<()> {
        if self.on()?.generation == node.generation {
            return Ok(());
        }
        Err(Error::other("the file was open when the power went off"))
    }
}

impl Node {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut journal = self.journal.lock();
        journal.note(&self.file, offset, bytes.len())?;
        self.file.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> Result<()> {
        let mut journal = self.journal.lock();
        let old_length = self.file.metadata()?.len();
        let cut = usize::try_from(old_length.saturating_sub(length)).expect("a small file");
        journal.note(&self.file, length.min(old_length), cut)?;
        self.file.set_len(length)
    }
}

impl Journal {
    /// `length` bytes from `offset` on are about to change.
    fn note(&mut self, file: &File, offset: u64, length: usize) -> Result<()> {
        let old_length = file.metadata()?.len();
        let overlap = old_length.saturating_sub(offset).min(length as u64);
        let mut old = vec![0; usize::try_from(overlap).expect("at most `length`")];
        file.read_exact_at(&mut old, offset)?;
        self.writes.push(Undo { offset, length, old, old_length });
        Ok(())
    }

    fn is_clean(&self) -> bool {
        self.writes.is_empty() && !self.created && self.renamed_from.is_none()
    }

    fn undo(&mut self, file: &File, path: &Path, random: Option<&mut StdRng>) -> Result<()> {
        let keep = random.map(|random| {
            (random.random_range(0..=self.writes.len()), random.random_range(0.0..1.0))
        });
        let (whole, part) = keep.unwrap_or((0, 0.0));
        let torn = self.writes.len() > whole && part > 0.0;
        while self.writes.len() > whole {
            let Some(undo) = self.writes.pop() else { break };
            let last = self.writes.len() == whole;
            undo.run(file, if last { part } else { 0.0 })?;
        }
        if whole > 0 || torn {
            return Ok(());
        }
        if self.created {
            return std::fs::remove_file(path);
        }
        match self.renamed_from.take() {
            Some(old) => std::fs::rename(path, old),
            None => Ok(()),
        }
    }
}

impl Undo {
    /// Leaves the first `part` of what was written.
    fn run(&self, file: &File, part: f64) -> Result<()> {
        let kept = ((self.length as f64) * part) as usize;
        let mut bytes = vec![0; kept];
        let kept = file.read_at(&mut bytes, self.offset)?;
        file.set_len(self.old_length)?;
        file.write_all_at(&self.old, self.offset)?;
        file.write_all_at(&bytes[..kept], self.offset)
    }
}

impl FileSystem for FaultFileSystem {
    type Handle = FaultHandle;
    type Reader = FaultFile;
    type Writer = FaultFile;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<FaultHandle> {
        self.disk.on()?;
        let path = path.as_ref();
        let created = !path.exists();
        if created {
            File::create(path)?;
        }
        Ok(FaultHandle { disk: Arc::clone(&self.disk), node: self.node(path, created)? })
    }

    fn open<P: AsRef<Path>>(&self, path: P, _perm: Permission) -> Result<FaultHandle> {
        let node = self.node(path.as_ref(), false)?;
        Ok(FaultHandle { disk: Arc::clone(&self.disk), node })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.disk.on()?;
        self.disk.files.lock().remove(path.as_ref());
        std::fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let node = self.node(from, false)?;
        std::fs::rename(from, to)?;
        node.journal.lock().renamed_from.get_or_insert_with(|| from.to_owned());
        let mut files = self.disk.files.lock();
        files.remove(from);
        files.insert(to.to_owned(), node);
        Ok(())
    }

    fn new_reader(&self, handle: Arc<FaultHandle>) -> Result<FaultFile> {
        Ok(FaultFile { handle, offset: 0 })
    }

    fn new_writer(&self, handle: Arc<FaultHandle>) -> Result<FaultFile> {
        Ok(FaultFile { handle, offset: 0 })
    }
}

/// An open file.
pub struct FaultHandle {
    disk: Arc<Disk>,
    node: Arc<Node>,
}

impl Handle for FaultHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.disk.on_for(&self.node)?;
        self.node.set_length(offset as u64)
    }

    fn file_size(&self) -> Result<usize> {
        let length = self.node.file.metadata()?.len();
        Ok(usize::try_from(length).expect("a small file"))
    }

    fn sync(&self) -> Result<()> {
        let mut journal = self.node.journal.lock();
        let on = self.disk.on_for(&self.node);
        // Closing syncs whatever there is, and raft-engine panics if it cannot: for two files at
        // once that would be one panic too many. So only what matters fails.
        if on.is_err() && (journal.is_clean() || !self.node.acknowledges) {
            return Ok(());
        }
        on?;
        let behaviour = {
            let mut power = self.disk.power.lock();
            power.syncs += 1;
            power.sync
        };
        match behaviour {
            SyncBehaviour::Honest => *journal = Journal::default(),
            SyncBehaviour::Slow(time) => {
                // tidy: a disk that takes its time is what it plays.
                std::thread::sleep(time);
                *journal = Journal::default();
            }
            SyncBehaviour::Lies => {}
            SyncBehaviour::Fails => return Err(Error::other("the sync failed")),
        }
        Ok(())
    }
}

/// A place in an open file.
pub struct FaultFile {
    handle: Arc<FaultHandle>,
    offset: u64,
}

impl Read for FaultFile {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let read = self.handle.node.file.read_at(bytes, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Write for FaultFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.handle.disk.on_for(&self.handle.node)?;
        self.handle.node.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for FaultFile {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let length = self.handle.node.file.metadata()?.len();
        let to = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => length.checked_add_signed(by),
        };
        self.offset = to.ok_or_else(|| Error::other("a seek before the beginning"))?;
        Ok(self.offset)
    }
}

impl WriteExt for FaultFile {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.handle.truncate(offset)?;
        self.offset = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        let end = offset + size;
        if end > self.handle.file_size()? {
            self.handle.truncate(end)?;
        }
        Ok(())
    }
}
