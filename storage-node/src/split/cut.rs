//! Where a range is cut in halves of equal size. Blocks on the engine.

use rangedb_engine::{Family, Snapshot};
use rangedb_mvcc::bounds;
use rangedb_mvcc::key::{decode_key, split_version};
use rangedb_types::Span;

/// A cumulative size is noted this often.
const STEP_BYTES: u64 = 64 << 10;

/// A key to split at, and what lies on either side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub key: Vec<u8>,
    pub left_bytes: u64,
    pub right_bytes: u64,
}

/// Bytes of a family before certain keys, in key order.
struct Scale {
    marks: Vec<(Vec<u8>, u64)>,
    total: u64,
}

impl Scale {
    /// Reads a whole span of one family. Marks stand at the first version of a key only.
    fn of(snapshot: &dyn Snapshot, family: Family, span: &Span) -> rangedb_mvcc::Result<Self> {
        let held = bounds(span);
        let mut iter = snapshot.iterator(family, &held.lower, &held.upper)?;
        let (mut marks, mut total, mut next) = (Vec::new(), 0_u64, STEP_BYTES);
        let mut last_key: Vec<u8> = Vec::new();
        let mut valid = iter.seek_to_first()?;
        while valid {
            if total >= next {
                let (key, _) = split_version(family, iter.key())?;
                if key != last_key.as_slice() {
                    marks.push((decode_key(family, key)?, total));
                    next = total + STEP_BYTES;
                }
            }
            let (key, _) = split_version(family, iter.key())?;
            last_key.clear();
            last_key.extend_from_slice(key);
            total += (iter.key().len() + iter.value().len()) as u64;
            valid = iter.next()?;
        }
        Ok(Self { marks, total })
    }

    /// Bytes before `key`, to within a step or two.
    fn before(&self, key: &[u8]) -> u64 {
        let after = self.marks.partition_point(|(mark, _)| mark.as_slice() <= key);
        after.checked_sub(1).map_or(0, |at| self.marks[at].1)
    }
}

/// The key that halves a span, by the bytes of keys, versions and values; or only how many bytes
/// it holds, if those are too few to be halved or all of one key.
///
/// # Errors
/// Engine errors and damage.
pub fn middle(snapshot: &dyn Snapshot, span: &Span) -> rangedb_mvcc::Result<Result<Cut, u64>> {
    let writes = Scale::of(snapshot, Family::Write, span)?;
    let data = Scale::of(snapshot, Family::Data, span)?;
    let total = writes.total + data.total;
    let before = |key: &[u8]| writes.before(key) + data.before(key);
    let marks = writes.marks.iter().chain(&data.marks).map(|(key, _)| key);
    let inside = marks.filter(|key| **key > span.start);
    let best = inside.min_by_key(|key| (before(key).abs_diff(total / 2), (*key).clone()));
    let cut = |key: &Vec<u8>| {
        let left_bytes = before(key);
        Cut { key: key.clone(), left_bytes, right_bytes: total - left_bytes }
    };
    Ok(best.map(cut).ok_or(total))
}

/// What lies on either side of a given key.
///
/// # Errors
/// Engine errors and damage.
pub fn at(snapshot: &dyn Snapshot, span: &Span, key: Vec<u8>) -> rangedb_mvcc::Result<Cut> {
    let (mut left_bytes, mut right_bytes) = (0, 0);
    let left = Span { start: span.start.clone(), end: key.clone() };
    let right = Span { start: key.clone(), end: span.end.clone() };
    for family in [Family::Write, Family::Data] {
        left_bytes += Scale::of(snapshot, family, &left)?.total;
        right_bytes += Scale::of(snapshot, family, &right)?.total;
    }
    Ok(Cut { key, left_bytes, right_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_engine::{Durability, Engine, EngineKind, EngineSettings, WriteBatch};
    use rangedb_mvcc::key::versioned_key;
    use rangedb_types::Timestamp;
    use std::sync::Arc;

    fn engine() -> (tempfile::TempDir, Arc<dyn Engine>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let opened =
            rangedb_engine::open(EngineKind::RocksDb, &path, &EngineSettings::default()).unwrap();
        (folder, opened)
    }

    fn put(engine: &dyn Engine, family: Family, key: u32, versions: u64, bytes: usize) {
        let mut batch = WriteBatch::new();
        for version in 1..=versions {
            let key = versioned_key(&key.to_be_bytes(), Timestamp(version));
            batch.put(family, &key, &vec![7; bytes]);
        }
        engine.write(&batch, Durability::Buffered).unwrap();
    }

    #[test]
    fn the_middle_counts_both_families() {
        let (_folder, engine) = engine();
        for key in 0..4_000 {
            put(&*engine, Family::Write, key, 1, 500);
        }
        // As much again, all of it in the last quarter.
        for key in 3_000..4_000 {
            put(&*engine, Family::Data, key, 1, 2_000);
        }
        let cut = middle(&*engine.snapshot(), &Span::all()).unwrap().unwrap();
        let key = u32::from_be_bytes(cut.key.clone().try_into().unwrap());
        assert!((3_050..3_350).contains(&key), "{key}");
        let total = cut.left_bytes + cut.right_bytes;
        assert!(cut.left_bytes.abs_diff(total / 2) < total / 20, "{cut:?}");
        let again = at(&*engine.snapshot(), &Span::all(), cut.key.clone()).unwrap();
        assert_eq!(again.left_bytes + again.right_bytes, total);
        assert!(again.left_bytes.abs_diff(cut.left_bytes) < 4 * STEP_BYTES);
    }

    #[test]
    fn versions_of_one_key_are_never_torn_apart() {
        let (_folder, engine) = engine();
        put(&*engine, Family::Write, 1, 2_000, 500);
        assert!(middle(&*engine.snapshot(), &Span::all()).unwrap().is_err());
        put(&*engine, Family::Write, 2, 1, 10);
        let cut = middle(&*engine.snapshot(), &Span::all()).unwrap().unwrap();
        assert_eq!(cut.key, 2_u32.to_be_bytes());
    }
}
