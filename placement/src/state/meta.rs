//! The revisioned key-value map that holds all metadata, and the history that watches resume from.
//!
//! Invariants: `revision` grows by one with each set of changes that changes anything, and no entry
//! has a greater one; the history holds every event above `compacted_revision`.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Most events kept for watches that resume.
pub const HISTORY_EVENTS_MAX: usize = 10_000;
/// Largest metadata value, in bytes.
pub const META_VALUE_BYTES_MAX: usize = 1 << 20;

/// One entry of the map. `value` is JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaEntry {
    pub key: String,
    pub value: String,
    /// The revision of its last change.
    pub revision: u64,
}

/// One change of the map. No value: the key was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEvent {
    pub key: String,
    pub value: Option<String>,
    pub revision: u64,
}

/// A watch wants events that are no longer kept: list again and watch from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {wanted} is no longer kept; the oldest is {oldest}")]
pub struct Compacted {
    pub wanted: u64,
    pub oldest: u64,
}

/// A wanted change: the new value, or nothing to remove the key.
pub(super) type Change = (String, Option<String>);

#[derive(Clone, Debug, Default)]
pub(super) struct MetaMap {
    entries: BTreeMap<String, (String, u64)>,
    revision: u64,
    history: VecDeque<MetaEvent>,
    compacted_revision: u64,
}

impl MetaMap {
    /// A map as it was stored; its history is gone.
    pub(super) fn restore(revision: u64, entries: impl Iterator<Item = MetaEntry>) -> Self {
        Self {
            entries: entries.map(|entry| (entry.key, (entry.value, entry.revision))).collect(),
            revision,
            history: VecDeque::new(),
            compacted_revision: revision,
        }
    }

    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<(&str, u64)> {
        self.entries.get(key).map(|(value, revision)| (value.as_str(), *revision))
    }

    /// Entries with this prefix after the key `after`, in key order.
    pub(super) fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> impl Iterator<Item = MetaEntry> + 'a {
        let start = if after > prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            // `after` equal to the prefix itself excludes that one key.
            .filter(move |(key, _)| after.is_empty() || key.as_str() > after)
            .map(|(key, (value, revision))| MetaEntry {
                key: key.clone(),
                value: value.clone(),
                revision: *revision,
            })
    }

    /// True if committing these changes would change anything.
    pub(super) fn differs(&self, changes: &[Change]) -> bool {
        changes.iter().any(|(key, value)| self.get(key).map(|(value, _)| value) != value.as_deref())
    }

    /// Makes the changes under one new revision; those that change nothing are left out.
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> Vec<MetaEvent> {
        let revision = self.revision + 1;
        let mut events = Vec::with_capacity(changes.len());
        for (key, value) in changes {
            if self.get(&key).map(|(value, _)| value) == value.as_deref() {
                continue;
            }
            match &value {
                Some(value) => self.entries.insert(key.clone(), (value.clone(), revision)),
                None => self.entries.remove(&key),
            };
            events.push(MetaEvent { key, value, revision });
        }
        if !events.is_empty() {
            self.revision = revision;
            self.history.extend(events.iter().cloned());
            self.forget_old_events();
        }
        events
    }

    fn forget_old_events(&mut self) {
        while self.history.len() > HISTORY_EVENTS_MAX {
            let Some(oldest) = self.history.pop_front() else { return };
            self.compacted_revision = oldest.revision;
        }
        // A revision is kept whole or not at all.
        while self.history.front().is_some_and(|event| event.revision == self.compacted_revision) {
            self.history.pop_front();
        }
    }

    /// All kept events of a prefix from a revision on.
    pub(super) fn events_since(
        &self,
        prefix: &str,
        from_revision: u64,
    ) -> Result<Vec<MetaEvent>, Compacted> {
        if from_revision <= self.compacted_revision {
            return Err(Compacted { wanted: from_revision, oldest: self.compacted_revision + 1 });
        }
        let first = self.history.partition_point(|event| event.revision < from_revision);
        Ok(self
            .history
            .range(first..)
            .filter(|event| event.key.starts_with(prefix))
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        (key.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn a_set_of_changes_is_one_revision_and_none_is_no_revision() {
        let mut map = MetaMap::default();
        let events = map.commit(vec![put("_/a", "1"), put("_/b", "2")]);
        assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [1, 1]);
        assert!(!map.differs(&[put("_/a", "1")]));
        assert!(map.commit(vec![put("_/a", "1"), ("_/none".to_owned(), None)]).is_empty());
        assert_eq!(map.revision(), 1);
        map.commit(vec![("_/a".to_owned(), None)]);
        assert_eq!((map.revision(), map.get("_/a")), (2, None));
    }

    #[test]
    fn lists_stay_inside_their_prefix() {
        let mut map = MetaMap::default();
        map.commit(vec![put("_/a/1", "1"), put("_/a/2", "2"), put("_/b", "3"), put("_/", "0")]);
        let keys = |prefix, after| map.list(prefix, after).map(|e| e.key).collect::<Vec<_>>();
        assert_eq!(keys("_/a/", ""), ["_/a/1", "_/a/2"]);
        assert_eq!(keys("_/a/", "_/a/1"), ["_/a/2"]);
        assert_eq!(keys("_/", "_/"), ["_/a/1", "_/a/2", "_/b"]);
        assert!(keys("_/c", "").is_empty());
    }

    #[test]
    fn old_revisions_are_forgotten_whole() {
        let mut map = MetaMap::default();
        for i in 0..HISTORY_EVENTS_MAX {
            map.commit(vec![put("_/x", &i.to_string()), put("_/y", &i.to_string())]);
        }
        let oldest = map.events_since("_/", 1).unwrap_err().oldest;
        let events = map.events_since("_/", oldest).unwrap();
        assert!(events.len() <= HISTORY_EVENTS_MAX && events.len() >= HISTORY_EVENTS_MAX - 2);
        assert_eq!((events[0].revision, events[1].revision), (oldest, oldest));
        assert_eq!(map.events_since("_/x", map.revision()).unwrap().len(), 1);
        assert!(map.events_since("_/x", map.revision() + 1).unwrap().is_empty());
    }
}
