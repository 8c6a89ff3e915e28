//! What a replica's log holds after the files were opened, and repairs of leftovers.
//!
//! raft-engine may bring back entries that were once truncated or overwritten (a compaction is lost
//! when the file that holds it is given back). They are harmless below the first entry and beyond
//! the last one, as long as everybody goes by our own records; but they must not lie where the next
//! append would leave a hole, which raft-engine answers with a panic.

use super::LogPosition;
use super::records::{
    HARD_STATE_KEY, LAST_KEY, TRUNCATED_KEY, decode_hard_state, decode_index, decode_position,
};
use raft_engine::Engine;
use raft_engine::env::FileSystem;
use rangedb_types::ReplicaId;

/// Where a replica's log begins and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub truncated: LogPosition,
    /// Equals `truncated.index` if there is no entry.
    pub last: u64,
    /// Why the log cannot be used, if it cannot.
    pub damaged: Option<String>,
}

/// Reads one replica's bounds; `None` if nothing is stored of it.
pub(super) fn bounds<F: FileSystem>(
    engine: &Engine<F>,
    replica_id: ReplicaId,
) -> Result<Option<Bounds>, raft_engine::Error> {
    let group = replica_id.0;
    let stored = engine.first_index(group).zip(engine.last_index(group));
    let records = [HARD_STATE_KEY, TRUNCATED_KEY, LAST_KEY].map(|key| engine.get(group, key));
    if stored.is_none() && records.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut bounds = match read(&records) {
        Ok(bounds) => bounds,
        Err(detail) => {
            return Ok(Some(Bounds { damaged: Some(detail), ..Bounds::default() }));
        }
    };
    bounds.damaged = check(&bounds, stored).err();
    if bounds.damaged.is_none() {
        clear_leftovers(engine, group, &bounds, stored);
    }
    Ok(Some(bounds))
}

fn read([hard_state, truncated, last]: &[Option<Vec<u8>>; 3]) -> Result<Bounds, String> {
    if let Some(record) = hard_state {
        decode_hard_state(record)?;
    }
    let truncated = truncated.as_deref().map(decode_position).transpose()?.unwrap_or_default();
    let last = last.as_deref().map(decode_index).transpose()?.unwrap_or(truncated.index);
    Ok(Bounds { truncated, last: last.max(truncated.index), damaged: None })
}

fn check(bounds: &Bounds, stored: Option<(u64, u64)>) -> Result<(), String> {
    let first = bounds.truncated.index + 1;
    if bounds.last < first {
        return Ok(());
    }
    let Some((stored_first, stored_last)) = stored else {
        return Err(format!("entries {first} to {} are missing", bounds.last));
    };
    if stored_first > first {
        return Err(format!("entries {first} to {} are missing", stored_first - 1));
    }
    if stored_last < bounds.last {
        return Err(format!("entries {} to {} are missing", stored_last + 1, bounds.last));
    }
    Ok(())
}

/// Only memory is changed for good: the next start may have to do it again.
fn clear_leftovers<F: FileSystem>(
    engine: &Engine<F>,
    group: u64,
    bounds: &Bounds,
    stored: Option<(u64, u64)>,
) {
    let Some((stored_first, stored_last)) = stored else { return };
    let first = bounds.truncated.index + 1;
    let empty = bounds.last < first;
    if empty {
        engine.compact_to(group, first.max(stored_last + 1));
    } else if stored_first < first {
        engine.compact_to(group, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(truncated: u64, last: u64) -> Bounds {
        Bounds { truncated: LogPosition { index: truncated, term: 1 }, last, damaged: None }
    }

    #[test]
    fn leftovers_are_harmless_and_holes_are_not() {
        assert_eq!(check(&bounds(10, 10), None), Ok(()));
        assert_eq!(check(&bounds(10, 10), Some((1, 60))), Ok(()));
        assert_eq!(check(&bounds(10, 12), Some((11, 12))), Ok(()));
        assert_eq!(check(&bounds(10, 12), Some((1, 60))), Ok(()));
        for stored in [None, Some((12, 12)), Some((11, 11))] {
            assert!(check(&bounds(10, 12), stored).is_err(), "{stored:?}");
        }
    }
}
