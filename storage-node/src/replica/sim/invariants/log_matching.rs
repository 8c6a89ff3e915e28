//! Two logs of a range that have an entry of the same index and term have the same entry, and the same
//! before it.

use raft::eraftpb::Entry;
use rangedb_types::RangeId;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Every entry that was ever in a log, in short.
#[derive(Default)]
pub struct LogMatching {
    entries: HashMap<(RangeId, u64, u64), Known>,
}

#[derive(Clone, Copy)]
struct Known {
    contents: u64,
    /// The term of the entry before it.
    before: Option<u64>,
}

impl LogMatching {
    /// Entries were appended to a log; the one before them is of term `before`, if that is known.
    pub fn check(
        &mut self,
        range_id: RangeId,
        mut before: Option<u64>,
        entries: &[Entry],
    ) -> Result<(), String> {
        for entry in entries {
            let contents = fingerprint(entry);
            let known = self.entries.entry((range_id, entry.index, entry.term));
            let known = known.or_insert(Known { contents, before });
            let place = format!("entry {} of term {} of range {range_id}", entry.index, entry.term);
            if known.contents != contents {
                return Err(format!("{place} is not the same everywhere"));
            }
            if known.before.zip(before).is_some_and(|(known, before)| known != before) {
                return Err(format!("what comes before {place} is not the same everywhere"));
            }
            known.before = known.before.or(before);
            before = Some(entry.term);
        }
        Ok(())
    }
}

fn fingerprint(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.get_entry_type() as u64).hash(&mut hasher);
    hasher.write(&entry.data);
    hasher.write(&entry.context);
    hasher.finish()
}
