//! Installing a staged snapshot, and finishing after a crash what was begun: see docs/snapshots.md.

use super::{chunk, stage};
use crate::raft_log::LogPosition;
use rangedb_engine::{Durability, Engine, Family, WriteBatch};
use rangedb_mvcc::key::split_version;
use rangedb_mvcc::replicated_spans;
use rangedb_mvcc::state::{AppliedState, InstallIntent, RangeRecord, RangeState, ReplicaTombstone};
use rangedb_types::{RangeDescriptor, RangeId, Timestamp};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Where files are built for the engine, inside the staged folder.
const LOAD: &str = "load";

/// What has been done of an installation. Tests stop at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Intended,
    Cleared,
    Loaded,
    StateWritten,
}

/// Installs the snapshot in `staged`. `check` is asked after every step whether to go on.
///
/// # Errors
/// In words. Unless it failed before the intent was written, the next start finishes it.
pub(super) fn install(
    engine: &dyn Engine,
    staged: &Path,
    intent: &InstallIntent,
    check: &mut dyn FnMut(Step) -> Result<(), String>,
) -> Result<(), String> {
    let range_id = intent.descriptor.range_id;
    let mut batch = WriteBatch::new();
    intent.put(&mut batch, range_id);
    engine.write(&batch, Durability::Synced).map_err(|error| error.to_string())?;
    check(Step::Intended)?;
    complete(engine, staged, intent, check)
}

/// Everything after the intent.
fn complete(
    engine: &dyn Engine,
    staged: &Path,
    intent: &InstallIntent,
    check: &mut dyn FnMut(Step) -> Result<(), String>,
) -> Result<(), String> {
    clear(engine, &intent.descriptor)?;
    check(Step::Cleared)?;
    let max_version = load(engine, staged, &intent.descriptor)?;
    check(Step::Loaded)?;
    write_state(engine, intent, max_version)?;
    check(Step::StateWritten)
}

/// The replica's old state goes in the same batch as its data: state without data never shows.
fn clear(engine: &dyn Engine, range: &RangeDescriptor) -> Result<(), String> {
    let old = RangeState::load(engine.snapshot().as_ref(), range.range_id)
        .map_err(|error| error.to_string())?;
    let mut batch = WriteBatch::new();
    // The bounds may have changed since the old state: the store made sure that no other range
    // overlaps either of them.
    for descriptor in old.iter().map(|state| &state.descriptor).chain([range]) {
        if chunk::is_empty(engine, descriptor)? {
            continue;
        }
        for span in replicated_spans(descriptor) {
            batch.delete_span(span.family, &span.lower, &span.upper);
        }
    }
    RangeState::remove(&mut batch, range.range_id);
    AppliedState::remove(&mut batch, range.range_id);
    engine.write(&batch, Durability::Synced).map_err(|error| error.to_string())
}

/// Loads the chunks and returns the largest version among them.
fn load(engine: &dyn Engine, staged: &Path, range: &RangeDescriptor) -> Result<Timestamp, String> {
    let dir = staged.join(LOAD);
    stage::remove(&dir);
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut loader = engine.bulk_loader(&dir).map_err(|error| error.to_string())?;
    let mut max_version = Timestamp::ZERO;
    stage::read(staged, range, |family, key, value| {
        if matches!(family, Family::Write | Family::RangeTombstone) {
            let (_, version) = split_version(family, key).map_err(|error| error.to_string())?;
            max_version = max_version.max(version);
        }
        loader.add(family, key, value).map_err(|error| error.to_string())
    })?;
    loader.ingest().map_err(|error| error.to_string())?;
    Ok(max_version)
}

fn write_state(
    engine: &dyn Engine,
    intent: &InstallIntent,
    max_version: Timestamp,
) -> Result<(), String> {
    let range_id = intent.descriptor.range_id;
    let mut batch = WriteBatch::new();
    let descriptor = intent.descriptor.clone();
    RangeState { replica_id: intent.replica_id, descriptor }.put(&mut batch, range_id);
    AppliedState { index: intent.index, term: intent.term, max_version }.put(&mut batch, range_id);
    engine.write(&batch, Durability::Synced).map_err(|error| error.to_string())
}

/// Removes the intent, once the log is cut. Losing this costs nothing: the next start finds the
/// installation complete.
pub(super) fn remove_intent(engine: &dyn Engine, range_id: RangeId) -> Result<(), String> {
    let mut batch = WriteBatch::new();
    InstallIntent::remove(&mut batch, range_id);
    engine.write(&batch, Durability::Buffered).map_err(|error| error.to_string())
}

/// Why snapshots could not be brought to an end at start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("the data store cannot be read: {0}")]
    Engine(String),
    #[error("the folder {path} cannot be used: {detail}")]
    Folder { path: PathBuf, detail: String },
    #[error(
        "range {range_id} was being replaced by a snapshot that is damaged ({detail}); remove the \
         node and add it again with an empty data folder"
    )]
    Damaged { range_id: RangeId, detail: String },
}

/// Finishes interrupted installations, before any replica is loaded. Returns the ranges whose log
/// may end before their applied index, and that index: cut these logs, then call
/// [`finish_recovery`]. `dir` is the folder of staged snapshots.
///
/// # Errors
/// The node must not start.
pub fn recover(
    engine: &dyn Engine,
    dir: &Path,
) -> Result<HashMap<RangeId, LogPosition>, RecoverError> {
    let folder = |error: std::io::Error| RecoverError::Folder {
        path: dir.to_owned(),
        detail: error.to_string(),
    };
    std::fs::create_dir_all(dir).map_err(folder)?;
    let intents = InstallIntent::load_all(engine.snapshot().as_ref())
        .map_err(|error| RecoverError::Engine(error.to_string()))?;
    let mut installed = HashMap::new();
    for (range_id, intent) in intents {
        if let Some(position) = recover_one(engine, dir, range_id, &intent)? {
            installed.insert(range_id, position);
        }
    }
    for entry in std::fs::read_dir(dir).map_err(folder)? {
        stage::remove(&entry.map_err(folder)?.path());
    }
    Ok(installed)
}

fn recover_one(
    engine: &dyn Engine,
    dir: &Path,
    range_id: RangeId,
    intent: &InstallIntent,
) -> Result<Option<LogPosition>, RecoverError> {
    let words = |error: rangedb_mvcc::MvccError| RecoverError::Engine(error.to_string());
    let data = engine.snapshot();
    let state = RangeState::load(data.as_ref(), range_id).map_err(words)?;
    let applied = AppliedState::load(data.as_ref(), range_id).map_err(words)?;
    let removed = ReplicaTombstone::load(data.as_ref(), range_id).map_err(words)?;
    if removed.is_some_and(|removed| removed.replica_id >= intent.replica_id) {
        remove_intent(engine, range_id).map_err(RecoverError::Engine)?;
        return Ok(None);
    }
    let position = LogPosition { index: intent.index, term: intent.term };
    let ours = state.as_ref().is_some_and(|state| state.replica_id == intent.replica_id);
    if ours && applied.is_some_and(|applied| applied.index >= intent.index) {
        return Ok(Some(position));
    }
    let staged = dir.join(&intent.staged);
    tracing::warn!(%range_id, index = intent.index, "finishing an interrupted snapshot");
    let Err(detail) = stage::read(&staged, &intent.descriptor, |_, _, _| Ok(())) else {
        complete(engine, &staged, intent, &mut |_| Ok(())).map_err(RecoverError::Engine)?;
        return Ok(Some(position));
    };
    if state.is_none() {
        return Err(RecoverError::Damaged { range_id, detail });
    }
    tracing::warn!(%range_id, detail, "dropping a snapshot that changed nothing yet");
    remove_intent(engine, range_id).map_err(RecoverError::Engine)?;
    Ok(None)
}

/// The logs of all recovered ranges are cut: their intents can go.
///
/// # Errors
/// The node must not start.
pub fn finish_recovery(
    engine: &dyn Engine,
    ranges: impl IntoIterator<Item = RangeId>,
) -> Result<(), RecoverError> {
    let distinct: HashSet<RangeId> = ranges.into_iter().collect();
    for range_id in distinct {
        remove_intent(engine, range_id).map_err(RecoverError::Engine)?;
    }
    Ok(())
}
