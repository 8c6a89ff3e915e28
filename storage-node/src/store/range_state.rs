//! The applied state of ranges, as it lies in the data store.

use crate::raft_log::LogPosition;
use crate::replica::INITIAL_POSITION;
use crate::replica::apply::{Applier, Freeze, SplitOff};
use crate::replica::command::MergeName;
use rangedb_engine::{Durability, Engine, Family, Snapshot, WriteBatch};
use rangedb_mvcc::fence::fences_for_split;
use rangedb_mvcc::state::{
    AppliedState, FreezeState, GcState, RangeRecord, RangeState, ReplicaTombstone, range_bounds,
};
use rangedb_mvcc::tombstones_for_split;
use rangedb_types::{RangeDescriptor, RangeId, ReplicaId, Timestamp};
use std::sync::Arc;

/// Puts the applied position into a batch, and the descriptor if it changed.
pub fn put(batch: &mut WriteBatch, applier: &Applier, descriptor_changed: bool) {
    let range_id = applier.descriptor.range_id;
    if descriptor_changed {
        let descriptor = (*applier.descriptor).clone();
        RangeState { replica_id: applier.replica_id, descriptor }.put(batch, range_id);
        match applier.frozen {
            Some(Freeze { name, position }) => FreezeState {
                left_range_id: name.left_range_id,
                left_version: name.left_version,
                index: position.index,
                term: position.term,
            }
            .put(batch, range_id),
            None => FreezeState::remove(batch, range_id),
        }
    }
    let LogPosition { index, term } = applier.applied;
    AppliedState { index, term, max_version: applier.largest_commit }.put(batch, range_id);
}

/// Writes the state of a range that did not exist, durably.
///
/// # Errors
/// The engine's, in words.
pub fn create(engine: &dyn Engine, applier: &Applier) -> Result<(), String> {
    let mut batch = WriteBatch::new();
    put(&mut batch, applier, true);
    engine.write(&batch, Durability::Synced).map_err(|error| error.to_string())
}

/// The applied state of one range; `None` if there is none.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn load(snapshot: &dyn Snapshot, range_id: RangeId) -> Result<Option<Applier>, String> {
    let state = RangeState::load(snapshot, range_id).map_err(|error| error.to_string())?;
    let applied = AppliedState::load(snapshot, range_id).map_err(|error| error.to_string())?;
    match (state, applied) {
        (Some(state), Some(applied)) => {
            let frozen =
                FreezeState::load(snapshot, range_id).map_err(|error| error.to_string())?;
            Ok(Some(applier(state, applied, frozen)))
        }
        (None, None) => Ok(None),
        _ => Err(format!("the state of range {range_id} is incomplete")),
    }
}

fn applier(state: RangeState, applied: AppliedState, frozen: Option<FreezeState>) -> Applier {
    let frozen = frozen.map(|frozen| Freeze {
        name: MergeName { left_range_id: frozen.left_range_id, left_version: frozen.left_version },
        position: LogPosition { index: frozen.index, term: frozen.term },
    });
    Applier {
        frozen,
        freed_bytes: 0,
        intents_placed: 0,
        replica_id: state.replica_id,
        descriptor: Arc::new(state.descriptor),
        applied: LogPosition { index: applied.index, term: applied.term },
        largest_commit: applied.max_version,
    }
}

/// Every range that has state here.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn load_all(snapshot: &dyn Snapshot) -> Result<Vec<Applier>, String> {
    let states = RangeState::load_all(snapshot).map_err(|error| error.to_string())?;
    let load = |(range_id, _)| {
        load(snapshot, range_id)?.ok_or_else(|| format!("range {range_id} lost its state"))
    };
    states.into_iter().map(load).collect()
}

/// The newest replica of the range that was removed from this node.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn tombstone(engine: &dyn Engine, range_id: RangeId) -> Result<Option<ReplicaId>, String> {
    let record = engine
        .get(Family::Meta, &ReplicaTombstone::key(range_id))
        .map_err(|error| error.to_string())?;
    record
        .map(|record| ReplicaTombstone::decode(&record).map(|tombstone| tombstone.replica_id))
        .transpose()
        .map_err(|error| error.to_string())
}

/// Removes a replica's data and leaves a tombstone, in one durable step.
///
/// # Errors
/// The engine's, in words.
pub fn destroy(
    engine: &dyn Engine,
    range: &RangeDescriptor,
    replica_id: ReplicaId,
) -> Result<(), String> {
    let mut batch = WriteBatch::new();
    for span in rangedb_mvcc::replicated_spans(range) {
        batch.delete_span(span.family, &span.lower, &span.upper);
    }
    let own = range_bounds(range.range_id);
    batch.delete_span(Family::Meta, &own.lower, &own.upper);
    ReplicaTombstone { replica_id }.put(&mut batch, range.range_id);
    engine.write(&batch, Durability::Synced).map_err(|error| error.to_string())
}

/// Adds to `batch`, which already says what became of the left part, what a split does to the rest:
/// tombstones cut in two, fences copied, the right part's state. Returns the right part; `None` if it
/// must not be here any more, and its data goes.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn split_off(
    engine: &dyn Engine,
    batch: &mut WriteBatch,
    left: RangeId,
    split: SplitOff,
    largest_commit: Timestamp,
) -> Result<Option<Applier>, String> {
    let SplitOff { old_span, right, replica_id, .. } = split;
    let removed = tombstone(engine, right.range_id)?;
    if removed.is_some_and(|removed| removed >= replica_id) {
        for span in rangedb_mvcc::replicated_spans(&right) {
            batch.delete_span(span.family, &span.lower, &span.upper);
        }
        return Ok(None);
    }
    let snapshot = engine.snapshot();
    let words = |error: rangedb_mvcc::MvccError| error.to_string();
    let cut = tombstones_for_split(snapshot.as_ref(), &old_span, &right.span.start);
    let fences = fences_for_split(snapshot.as_ref(), left, right.range_id);
    for mutation in cut.map_err(words)?.into_iter().chain(fences.map_err(words)?) {
        match &mutation.value {
            Some(value) => batch.put(mutation.family, &mutation.key, value),
            None => batch.delete(mutation.family, &mutation.key),
        }
    }
    if let Some(gc) = GcState::load(snapshot.as_ref(), left).map_err(words)? {
        gc.put(batch, right.range_id);
    }
    let applier = Applier {
        replica_id,
        descriptor: Arc::new(right),
        applied: INITIAL_POSITION,
        largest_commit,
        frozen: None,
        freed_bytes: 0,
        intents_placed: 0,
    };
    put(batch, &applier, true);
    Ok(Some(applier))
}

/// Adds to `batch`, which already says that the left range ends where the right one ended, what a
/// merge does to the right one: its fences become the left one's, its state goes, a tombstone stays.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn absorb(
    engine: &dyn Engine,
    batch: &mut WriteBatch,
    left: RangeId,
    right: &Applier,
) -> Result<(), String> {
    let right_id = right.descriptor.range_id;
    let snapshot = engine.snapshot();
    let fences = fences_for_split(snapshot.as_ref(), right_id, left);
    for mutation in fences.map_err(|error| error.to_string())? {
        if let Some(value) = &mutation.value {
            batch.put(mutation.family, &mutation.key, value);
        }
    }
    let gc =
        |range_id| GcState::load(snapshot.as_ref(), range_id).map_err(|error| error.to_string());
    let (ours, theirs) = (gc(left)?.unwrap_or_default(), gc(right_id)?.unwrap_or_default());
    if theirs.safe_point > ours.safe_point {
        theirs.put(batch, left);
    }
    let own = range_bounds(right_id);
    batch.delete_span(Family::Meta, &own.lower, &own.upper);
    ReplicaTombstone { replica_id: right.replica_id }.put(batch, right_id);
    Ok(())
}

/// Checksum and number of entries of a range's contents.
///
/// # Errors
/// The engine's, or damage, in words.
pub fn checksum(snapshot: &dyn Snapshot, range: &RangeDescriptor) -> Result<(u64, u64), String> {
    let sum = rangedb_mvcc::checksum(snapshot, range).map_err(|error| error.to_string())?;
    Ok((sum.checksum, sum.entries))
}

/// The state of a replica that knows nothing yet.
#[must_use]
pub fn empty(replica_id: ReplicaId, descriptor: RangeDescriptor) -> Applier {
    Applier {
        replica_id,
        descriptor: Arc::new(descriptor),
        applied: LogPosition::default(),
        largest_commit: Timestamp::ZERO,
        frozen: None,
        freed_bytes: 0,
        intents_placed: 0,
    }
}
