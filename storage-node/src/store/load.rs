//! Bringing replicas back at start.
//!
//! The data store says which replicas there are and how far they are applied; the log store holds
//! their entries. What was applied was on disk in the log first, so a log that ends before the
//! applied index is damaged, with two exceptions that the order of writes explains: a range whose
//! making was cut short (its log is not there, or knows a term and no entries), and a snapshot whose
//! installation was cut short.

use super::range_state;
use super::shared::Shared;
use crate::raft_log::{LogChange, LogPosition, LogState, LogWrite, RaftLog};
use crate::replica::INITIAL_POSITION;
use crate::replica::apply::Applier;
use raft::eraftpb::HardState;
use rangedb_types::{RangeId, ReplicaId};
use std::collections::{HashMap, HashSet};

/// A replica as it was found.
pub struct Loaded {
    pub applier: Applier,
    pub state: LogState,
}

/// Loads every replica. Logs that belong to none are removed, but for the votes of replicas that knew
/// nothing yet. `installed` names the ranges whose snapshot was (again) installed just now.
///
/// # Errors
/// In words; the node must not start then.
pub fn load_all(
    shared: &Shared,
    installed: &HashMap<RangeId, LogPosition>,
) -> Result<Vec<Loaded>, String> {
    let appliers = range_state::load_all(shared.engine.snapshot().as_ref())?;
    let known: HashSet<ReplicaId> = appliers.iter().map(|applier| applier.replica_id).collect();
    remove_unknown_logs(shared.log.as_ref(), &known)?;
    let mut loaded = Vec::with_capacity(appliers.len());
    for applier in appliers {
        let range_id = applier.descriptor.range_id;
        let stored = shared.log.load(applier.replica_id).map_err(|error| error.to_string())?;
        let state = if installed.contains_key(&range_id) {
            reset(shared.log.as_ref(), &applier, stored)?
        } else {
            match stored {
                None if applier.applied == INITIAL_POSITION => {
                    reset(shared.log.as_ref(), &applier, None)?
                }
                None => return Err(ends_early(&applier, 0)),
                // A message overtook the split that made the replica: its log knew a term, and no more.
                Some(state) if applier.applied == INITIAL_POSITION && state.last_index == 0 => {
                    reset(shared.log.as_ref(), &applier, Some(state))?
                }
                Some(state) => repaired(&applier, state)?,
            }
        };
        loaded.push(Loaded { applier, state });
    }
    Ok(loaded)
}

fn remove_unknown_logs(log: &dyn RaftLog, known: &HashSet<ReplicaId>) -> Result<(), String> {
    let unknown = log.replicas().into_iter().filter(|replica_id| !known.contains(replica_id));
    // One that knew nothing may have voted, and must not vote again in that term; or have answered a
    // leader, and so made a promise.
    let leftover = unknown.filter(|replica_id| match log.load(*replica_id) {
        Ok(state) => !state.is_some_and(|state| state.last_index == 0 && has_spoken(&state)),
        Err(error) => {
            tracing::warn!(%replica_id, %error, "removing a damaged log that belongs to no replica");
            true
        }
    });
    let changes: Vec<_> = leftover.map(|replica_id| LogChange::Remove { replica_id }).collect();
    if changes.is_empty() {
        return Ok(());
    }
    log.write(LogWrite { changes }, true).map_err(|error| error.to_string())
}

fn has_spoken(state: &LogState) -> bool {
    state.hard_state.vote != raft::INVALID_ID || state.hard_state.term > 0
}

/// The log begins anew where the applied state ends. Term and vote stay.
fn reset(
    log: &dyn RaftLog,
    applier: &Applier,
    stored: Option<LogState>,
) -> Result<LogState, String> {
    let position = applier.applied;
    let stored = stored.unwrap_or_default();
    if stored.last_index > position.index {
        // The log was cut before the crash and has grown since.
        return repaired(applier, stored);
    }
    let mut hard_state = stored.hard_state;
    hard_state.term = hard_state.term.max(position.term);
    hard_state.commit = position.index;
    let replica_id = applier.replica_id;
    let change = LogChange::ResetTo { replica_id, position, hard_state: hard_state.clone() };
    log.write(LogWrite { changes: vec![change] }, true).map_err(|error| error.to_string())?;
    Ok(LogState { hard_state, truncated: position, last_index: position.index })
}

/// The commit index is written without a sync: it may lag behind what is applied.
fn repaired(applier: &Applier, mut state: LogState) -> Result<LogState, String> {
    let applied = applier.applied.index;
    if state.last_index < applied {
        return Err(ends_early(applier, state.last_index));
    }
    let HardState { commit, .. } = state.hard_state;
    if commit > state.last_index {
        return Err(format!(
            "the raft log of replica {} ends at {} and says that {commit} is committed; remove the \
             node and add it again with an empty data folder",
            applier.replica_id, state.last_index
        ));
    }
    state.hard_state.commit = commit.max(applied);
    Ok(state)
}

fn ends_early(applier: &Applier, last: u64) -> String {
    format!(
        "the raft log of replica {} ends at {last}, before its applied index {}: it is damaged; \
         remove the node and add it again with an empty data folder",
        applier.replica_id, applier.applied.index
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{Epoch, RangeDescriptor, Span, Timestamp};
    use std::sync::Arc;

    fn applier(index: u64) -> Applier {
        Applier {
            replica_id: ReplicaId(4),
            descriptor: Arc::new(RangeDescriptor {
                range_id: RangeId(1),
                span: Span::all(),
                epoch: Epoch::default(),
                replicas: Vec::new(),
            }),
            applied: LogPosition { index, term: 2 },
            largest_commit: Timestamp::ZERO,
            frozen: None,
            freed_bytes: 0,
            intents_placed: 0,
        }
    }

    fn state(last_index: u64, commit: u64) -> LogState {
        let mut state = LogState { last_index, ..LogState::default() };
        state.hard_state.commit = commit;
        state
    }

    #[test]
    fn the_commit_index_is_repaired_from_the_applied_state() {
        let repaired = repaired(&applier(20), state(25, 11)).unwrap();
        assert_eq!(repaired.hard_state.commit, 20);
    }

    #[test]
    fn a_log_that_ends_before_the_applied_index_is_damage() {
        assert!(repaired(&applier(20), state(19, 11)).unwrap_err().contains("damaged"));
        assert!(repaired(&applier(20), state(30, 31)).is_err());
    }
}
