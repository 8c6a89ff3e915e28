//! The log store on raft-engine.
//!
//! Guards around what raft-engine does badly: it panics when a sync fails (the process ends), it
//! panics on holes (refused here before), it forgets compactions (see `recover`), it removes files
//! because of writes that are not on disk yet (see `PurgeGate`), it cuts damaged ends with a mere
//! warning (`l` records tell, as far as they survive; otherwise the leader does, by what it knows
//! the replica acknowledged).

use super::ahead::WrittenAhead;
use super::metrics::Metrics;
use super::records::{
    HARD_STATE_KEY, LAST_KEY, TRUNCATED_KEY, decode_hard_state, encode_hard_state, encode_index,
    encode_position,
};
use super::recover::{self, Bounds};
use super::{LogChange, LogError, LogPosition, LogSettings, LogState, LogWrite, RaftLog};
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{Entry, HardState};
use raft_engine::env::{DefaultFileSystem, FileSystem};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use rangedb_types::ReplicaId;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Called when the log can no longer be trusted to be on disk. Must not return in production.
pub type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Threads that read the files at start.
const RECOVERY_THREADS: usize = 2;
/// One read never takes more, because raft-engine adds sizes up in 32 bits.
const READ_BYTES_MAX: u64 = 1 << 30;

/// No replica has this id.
const NO_GROUP: u64 = 0;

/// Keeps a purge from going by writes that are not on disk.
///
/// raft-engine removes files that its memory no longer refers to. An unsynced write (a truncation,
/// a newer commit index) already counts there; if the power went, the write would be lost, and what
/// it replaced would be gone with its file. So a purge first syncs what was written before it, and
/// while it runs every write is synced before it counts.
#[derive(Default)]
struct PurgeGate {
    one_at_a_time: Mutex<()>,
    /// Held for reading by every write.
    writing: RwLock<()>,
    purging: AtomicBool,
    /// Something was written without a sync since the last purge began.
    unsynced: AtomicBool,
}

/// Tells raft-engine what an entry is.
struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// See the module.
pub struct EngineLog<F: FileSystem = DefaultFileSystem> {
    /// `None` only while it is being dropped.
    engine: Option<Engine<WrittenAhead<F>>>,
    /// Of every replica that has anything stored. Raised after the write they tell of.
    bounds: Mutex<HashMap<ReplicaId, Bounds>>,
    gate: PurgeGate,
    /// A write failed: nothing more is written.
    broken: AtomicBool,
    fatal: FatalHook,
    /// Time of synced writes, and their number, since it was asked for.
    sync_time: Mutex<(Duration, u32)>,
    metrics: &'static Metrics,
}

impl EngineLog<DefaultFileSystem> {
    /// Opens the log in `path`, which is created if it is absent, and recovers what a crash left. A
    /// failed sync ends the process.
    ///
    /// # Errors
    /// `Open`: the files cannot be read, are in use, or damaged where a crash cannot have done it.
    pub fn open(path: &Path, settings: &LogSettings) -> Result<Self, LogError> {
        let fatal = Arc::new(|reason: &str| rangedb_service::process::fatal(reason));
        Self::open_with(path, settings, Arc::new(DefaultFileSystem), fatal)
    }
}

impl<F: FileSystem> EngineLog<F> {
    /// Opens the log on another file system, with another answer to a failed sync.
    ///
    /// # Errors
    /// As [`EngineLog::open`].
    pub fn open_with(
        path: &Path,
        settings: &LogSettings,
        file_system: Arc<F>,
        fatal: FatalHook,
    ) -> Result<Self, LogError> {
        let refuse = |detail: String| LogError::Open { path: path.display().to_string(), detail };
        settings.check().map_err(|error| refuse(error.to_string()))?;
        std::fs::create_dir_all(path).map_err(|error| refuse(error.to_string()))?;
        let dir = path.to_str().ok_or_else(|| refuse("the path is not UTF-8".to_owned()))?;
        let config = config(dir, settings);
        let file_system = Arc::new(WrittenAhead::new(file_system));
        let engine =
            catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, file_system)))
                .map_err(|panic| refuse(panic_text(panic.as_ref())))?
                .map_err(|error| refuse(error.to_string()))?;
        let mut bounds = HashMap::new();
        for group in engine.raft_groups() {
            let replica_id = ReplicaId(group);
            let found = recover::bounds(&engine, replica_id);
            if let Some(found) = found.map_err(|error| refuse(error.to_string()))? {
                bounds.insert(replica_id, found);
            }
        }
        Ok(Self {
            engine: Some(engine),
            bounds: Mutex::new(bounds),
            gate: PurgeGate::default(),
            broken: AtomicBool::new(false),
            sync_time: Mutex::default(),
            fatal,
            metrics: Metrics::get(),
        })
    }

    fn engine(&self) -> &Engine<WrittenAhead<F>> {
        self.engine.as_ref().expect("the engine is there until the log is dropped")
    }

    /// Turns changes into a batch, and tells the bounds that they lead to.
    fn plan(&self, changes: Vec<LogChange>) -> Result<Plan, LogError> {
        let bounds = self.bounds.lock();
        let mut plan =
            Plan { batch: LogBatch::with_capacity(changes.len() * 3), after: HashMap::new() };
        for change in changes {
            plan.add(change, &bounds)?;
        }
        Ok(plan)
    }

    fn write_batch(&self, batch: &mut LogBatch, sync: bool) -> Result<(), LogError> {
        let written = catch_unwind(AssertUnwindSafe(|| self.engine().write(batch, sync)));
        let error = match written {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => {
                self.broken.store(true, Ordering::Release);
                error.to_string()
            }
            Err(panic) => self.fail(panic_text(panic.as_ref())),
        };
        Err(LogError::Io(error))
    }

    /// Removes files that nothing refers to.
    fn purge_files(&self) -> raft_engine::Result<Vec<u64>> {
        let _purge = self.gate.one_at_a_time.lock();
        self.gate.purging.store(true, Ordering::SeqCst);
        // Waits for the unsynced writes that have not seen the flag.
        drop(self.gate.writing.write());
        let purged = self.sync_earlier_writes().and_then(|()| self.engine().purge_expired_files());
        self.gate.purging.store(false, Ordering::SeqCst);
        purged
    }

    fn sync_earlier_writes(&self) -> raft_engine::Result<()> {
        if !self.gate.unsynced.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        // raft-engine does not sync an empty batch: this one cuts a log that does not exist.
        let mut batch = LogBatch::with_capacity(1);
        batch.add_command(NO_GROUP, Command::Compact { index: 0 });
        self.engine().write(&mut batch, true).map(|_| ())
    }

    /// raft-engine panicked: the disk may hold anything.
    fn fail(&self, reason: String) -> String {
        self.broken.store(true, Ordering::Release);
        (self.fatal)(&format!("the raft log failed: {reason}"));
        reason
    }

    fn usable_bounds(&self, replica_id: ReplicaId) -> Result<Option<Bounds>, LogError> {
        match self.bounds.lock().get(&replica_id) {
            Some(Bounds { damaged: Some(detail), .. }) => {
                Err(LogError::Damaged { replica_id, detail: detail.clone() })
            }
            found => Ok(found.cloned()),
        }
    }
}

impl<F: FileSystem> RaftLog for EngineLog<F> {
    fn write(&self, batch: LogWrite, sync: bool) -> Result<(), LogError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(LogError::Io("an earlier write failed".to_owned()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let timer = sync.then(|| self.metrics.write_seconds.start_timer());
        let begun = sync.then(Instant::now);
        let mut plan = self.plan(batch.changes)?;
        let writing = self.gate.writing.read();
        let sync = sync || self.gate.purging.load(Ordering::SeqCst);
        if !sync {
            self.gate.unsynced.store(true, Ordering::SeqCst);
        }
        self.write_batch(&mut plan.batch, sync)?;
        drop(writing);
        let mut bounds = self.bounds.lock();
        for (replica_id, after) in plan.after {
            match after {
                Some(after) => bounds.insert(replica_id, after),
                None => bounds.remove(&replica_id),
            };
        }
        drop(timer);
        if let Some(begun) = begun {
            let mut times = self.sync_time.lock();
            *times = (times.0 + begun.elapsed(), times.1.saturating_add(1));
        }
        Ok(())
    }

    fn load(&self, replica_id: ReplicaId) -> Result<Option<LogState>, LogError> {
        let Some(bounds) = self.usable_bounds(replica_id)? else { return Ok(None) };
        let hard_state = self
            .engine()
            .get(replica_id.0, HARD_STATE_KEY)
            .map_or_else(|| Ok(HardState::default()), |record| decode_hard_state(&record))
            .map_err(|detail| LogError::Damaged { replica_id, detail })?;
        Ok(Some(LogState { hard_state, truncated: bounds.truncated, last_index: bounds.last }))
    }

    fn entries(
        &self,
        replica_id: ReplicaId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let damaged = |detail| LogError::Damaged { replica_id, detail };
        let bounds = self.usable_bounds(replica_id)?.unwrap_or_default();
        if low <= bounds.truncated.index {
            return Err(LogError::Truncated { replica_id, index: low });
        }
        if high > bounds.last + 1 {
            return Err(damaged(format!("entry {} is missing", high - 1)));
        }
        let bytes_max = usize::try_from(bytes_max.min(READ_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        if low >= high {
            return Ok(entries);
        }
        let read = catch_unwind(AssertUnwindSafe(|| {
            self.engine().fetch_entries_to::<RaftEntry>(
                replica_id.0,
                low,
                high,
                Some(bytes_max),
                &mut entries,
            )
        }));
        match read {
            Ok(Ok(_)) if !entries.is_empty() => Ok(entries),
            Ok(Ok(_)) => Err(damaged(format!("entry {low} is missing"))),
            // Truncated by another thread since the bounds were read.
            Ok(Err(raft_engine::Error::EntryCompacted)) => {
                Err(LogError::Truncated { replica_id, index: low })
            }
            Ok(Err(raft_engine::Error::Io(error))) => Err(LogError::Io(error.to_string())),
            Ok(Err(error)) => Err(damaged(format!("entries from {low} on: {error}"))),
            Err(panic) => Err(damaged(panic_text(panic.as_ref()))),
        }
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        self.bounds.lock().keys().copied().collect()
    }

    fn purge(&self) -> Result<Vec<ReplicaId>, LogError> {
        let purged = catch_unwind(AssertUnwindSafe(|| self.purge_files()));
        self.metrics.size_bytes.set(i64::try_from(self.size_bytes()).unwrap_or(i64::MAX));
        match purged {
            Ok(Ok(groups)) => Ok(groups.into_iter().map(ReplicaId).collect()),
            Ok(Err(raft_engine::Error::Io(error))) => {
                self.broken.store(true, Ordering::Release);
                Err(LogError::Io(error.to_string()))
            }
            // An old entry cannot be read, so it cannot be written again. Once its replica
            // truncates its log, it is needed no more; which replica it is, is not said.
            Ok(Err(error)) => {
                self.metrics.purge_failures.inc();
                tracing::error!(%error, "old entries of the raft log cannot be read");
                Ok(self.replicas())
            }
            Err(panic) => Err(LogError::Io(self.fail(panic_text(panic.as_ref())))),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.engine().get_used_size() as u64
    }

    fn take_sync_time(&self) -> Option<Duration> {
        let (time, count) = std::mem::take(&mut *self.sync_time.lock());
        (count > 0).then(|| time / count)
    }
}

impl<F: FileSystem> Drop for EngineLog<F> {
    fn drop(&mut self) {
        // Closing syncs the active files, and raft-engine panics if that fails.
        let engine = self.engine.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(engine))) {
            let reason = panic_text(panic.as_ref());
            tracing::error!(reason, "the raft log could not be closed");
        }
    }
}

/// A write on its way.
struct Plan {
    batch: LogBatch,
    /// `None`: the replica is removed.
    after: HashMap<ReplicaId, Option<Bounds>>,
}

impl Plan {
    fn add(
        &mut self,
        change: LogChange,
        current: &HashMap<ReplicaId, Bounds>,
    ) -> Result<(), LogError> {
        match change {
            LogChange::Append { replica_id, entries } => self.append(replica_id, &entries, current),
            LogChange::SetHardState { replica_id, hard_state } => {
                let bounds = self.bounds(replica_id, current)?;
                self.put(replica_id, HARD_STATE_KEY, encode_hard_state(&hard_state))?;
                self.after.insert(replica_id, Some(bounds));
                Ok(())
            }
            LogChange::ResetTo { replica_id, position, hard_state } => {
                self.batch.add_command(replica_id.0, Command::Clean);
                self.put(replica_id, HARD_STATE_KEY, encode_hard_state(&hard_state))?;
                self.put(replica_id, TRUNCATED_KEY, encode_position(position))?;
                self.put(replica_id, LAST_KEY, encode_index(position.index))?;
                let bounds = Bounds { truncated: position, last: position.index, damaged: None };
                self.after.insert(replica_id, Some(bounds));
                Ok(())
            }
            LogChange::Truncate { replica_id, position } => {
                self.truncate(replica_id, position, current)
            }
            LogChange::Remove { replica_id } => {
                self.batch.add_command(replica_id.0, Command::Clean);
                self.after.insert(replica_id, None);
                Ok(())
            }
        }
    }

    fn append(
        &mut self,
        replica_id: ReplicaId,
        entries: &[Entry],
        current: &HashMap<ReplicaId, Bounds>,
    ) -> Result<(), LogError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let mut bounds = self.bounds(replica_id, current)?;
        let refuse = |detail: String| Err(LogError::Damaged { replica_id, detail });
        if first.index <= bounds.truncated.index || first.index > bounds.last + 1 {
            return refuse(format!(
                "entry {} was to be appended to entries {} to {}",
                first.index,
                bounds.truncated.index + 1,
                bounds.last
            ));
        }
        if entries.windows(2).any(|pair| pair[0].index + 1 != pair[1].index) {
            return refuse(format!("entries {} to {} have holes", first.index, last.index));
        }
        self.batch
            .add_entries::<RaftEntry>(replica_id.0, entries)
            .map_err(|error| LogError::Io(error.to_string()))?;
        self.put(replica_id, LAST_KEY, encode_index(last.index))?;
        bounds.last = last.index;
        self.after.insert(replica_id, Some(bounds));
        Ok(())
    }

    fn truncate(
        &mut self,
        replica_id: ReplicaId,
        position: LogPosition,
        current: &HashMap<ReplicaId, Bounds>,
    ) -> Result<(), LogError> {
        let mut bounds = self.bounds(replica_id, current)?;
        if position.index <= bounds.truncated.index {
            return Ok(());
        }
        if position.index > bounds.last {
            let detail =
                format!("it ends at {} and was to be cut at {}", bounds.last, position.index);
            return Err(LogError::Damaged { replica_id, detail });
        }
        self.put(replica_id, TRUNCATED_KEY, encode_position(position))?;
        self.batch.add_command(replica_id.0, Command::Compact { index: position.index + 1 });
        bounds.truncated = position;
        self.after.insert(replica_id, Some(bounds));
        Ok(())
    }

    /// As they will be after the changes added so far.
    fn bounds(
        &self,
        replica_id: ReplicaId,
        current: &HashMap<ReplicaId, Bounds>,
    ) -> Result<Bounds, LogError> {
        let bounds = match self.after.get(&replica_id) {
            Some(after) => after.clone().unwrap_or_default(),
            None => current.get(&replica_id).cloned().unwrap_or_default(),
        };
        match bounds.damaged {
            Some(detail) => Err(LogError::Damaged { replica_id, detail }),
            None => Ok(bounds),
        }
    }

    fn put(&mut self, replica_id: ReplicaId, key: &[u8], record: Vec<u8>) -> Result<(), LogError> {
        self.batch
            .put(replica_id.0, key.to_vec(), record)
            .map_err(|error| LogError::Io(error.to_string()))
    }
}

fn config(dir: &str, settings: &LogSettings) -> Config {
    Config {
        dir: dir.to_owned(),
        // Refusing every torn tail would mean to refuse every start after a crash.
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: RECOVERY_THREADS,
        // Compression costs more processor time than it saves disk.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(settings.file_bytes.0),
        purge_threshold: ReadableSize(settings.purge_threshold.0),
        prefill_for_recycle: settings.prefill,
        ..Config::default()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}
