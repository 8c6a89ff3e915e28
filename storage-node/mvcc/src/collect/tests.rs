use super::*;
use crate::{ScanOptions, Seen, delete, delete_range, get, put, scan};
use proptest::prelude::*;
use rangedb_engine::{Durability, Engine, EngineKind, EngineSettings, WriteBatch};
use rangedb_types::RequestId;
use std::sync::Arc;

const LIMITS: CollectLimits = CollectLimits { versions_max: 1_000, removals_max: 1_000 };

fn engine() -> (tempfile::TempDir, Arc<dyn Engine>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let opened =
        rangedb_engine::open(EngineKind::RocksDb, &path, &EngineSettings::default()).unwrap();
    (folder, opened)
}

fn apply(engine: &dyn Engine, mutations: &[Mutation]) {
    let mut batch = WriteBatch::new();
    mutations.iter().for_each(|mutation| mutation.add_to(&mut batch));
    engine.write(&batch, Durability::Buffered).unwrap();
}

fn load(engine: &dyn Engine) -> TombstoneSet {
    TombstoneSet::load(&*engine.snapshot(), &Span::all()).unwrap()
}

/// A whole pass, page by page, and then the tombstones.
fn pass(engine: &dyn Engine, safe_point: Timestamp, limits: CollectLimits) {
    let mut span = Span::all();
    loop {
        let tombstones = load(engine);
        let page = collect(&*engine.snapshot(), &tombstones, &span, safe_point, limits).unwrap();
        // One after the other is as good as together.
        for removal in &page.removals {
            apply(engine, std::slice::from_ref(removal));
        }
        let Some(resume) = page.resume else { break };
        span = rest_of(&span, resume);
    }
    let spent = spent_tombstones(&*engine.snapshot(), &Span::all(), safe_point).unwrap();
    apply(engine, &spent);
}

fn count(engine: &dyn Engine, family: Family) -> usize {
    let snapshot = engine.snapshot();
    let held = bounds(&Span::all());
    let mut iter = snapshot.iterator(family, &held.lower, &held.upper).unwrap();
    let (mut count, mut valid) = (0, iter.seek_to_first().unwrap());
    while valid {
        count += 1;
        valid = iter.next().unwrap();
    }
    count
}

#[test]
fn of_many_versions_one_is_kept_and_a_deletion_takes_all() {
    let (_folder, engine) = engine();
    let long = vec![7; crate::SHORT_VALUE_BYTES_MAX + 1];
    for at in 1..=5 {
        apply(&*engine, &put(b"kept", &long, Timestamp(at), RequestId(1)));
        apply(&*engine, &put(b"gone", b"v", Timestamp(at), RequestId(1)));
    }
    apply(&*engine, &delete(b"gone", Timestamp(6), RequestId(1)));
    apply(&*engine, &put(b"kept", b"new", Timestamp(20), RequestId(1)));
    let page =
        collect(&*engine.snapshot(), &load(&*engine), &Span::all(), Timestamp(10), LIMITS).unwrap();
    assert!(page.more_later && page.resume.is_none());
    pass(&*engine, Timestamp(10), LIMITS);
    assert_eq!((count(&*engine, Family::Write), count(&*engine, Family::Data)), (2, 1));
    pass(&*engine, Timestamp(20), LIMITS);
    assert_eq!((count(&*engine, Family::Write), count(&*engine, Family::Data)), (1, 0));
    let page =
        collect(&*engine.snapshot(), &load(&*engine), &Span::all(), Timestamp(30), LIMITS).unwrap();
    assert_eq!(page, Garbage { bytes: page.bytes, ..Garbage::default() });
}

#[test]
fn all_that_was_written_is_told_when_it_goes() {
    let (_folder, engine) = engine();
    let long = vec![7; crate::SHORT_VALUE_BYTES_MAX + 1];
    let mut batch = WriteBatch::new();
    for (at, value) in [(1, &long[..]), (2, b"short"), (3, &long[..])] {
        let put = put(b"k", value, Timestamp(at), RequestId(1));
        put.iter().for_each(|mutation| mutation.add_to(&mut batch));
    }
    delete(b"k", Timestamp(4), RequestId(1)).iter().for_each(|it| it.add_to(&mut batch));
    engine.write(&batch, Durability::Buffered).unwrap();
    let page =
        collect(&*engine.snapshot(), &load(&*engine), &Span::all(), Timestamp(9), LIMITS).unwrap();
    assert_eq!(page.bytes, batch.data_bytes() as u64, "else the size of a range drifts");
}

#[test]
fn a_range_tombstone_goes_after_all_it_hides() {
    let (_folder, engine) = engine();
    for key in 0..10_u8 {
        apply(&*engine, &put(&[key], b"v", Timestamp(5), RequestId(1)));
    }
    let span = Span { start: vec![2], end: vec![8] };
    apply(&*engine, &delete_range(&span, Timestamp(9), RequestId(2)));
    let page =
        collect(&*engine.snapshot(), &load(&*engine), &Span::all(), Timestamp(8), LIMITS).unwrap();
    assert!(page.more_later, "what it hides becomes garbage though nothing is written any more");
    pass(&*engine, Timestamp(8), LIMITS);
    assert_eq!(count(&*engine, Family::Write), 10, "the tombstone is above the safe point");
    pass(&*engine, Timestamp(9), CollectLimits { versions_max: 3, removals_max: 2 });
    assert_eq!(count(&*engine, Family::Write), 4);
    assert_eq!(count(&*engine, Family::RangeTombstone), 0);
}

#[derive(Clone, Debug)]
enum Action {
    Put(u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Collect(u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0u8..6).prop_map(Action::Put),
        3 => (0u8..6).prop_map(Action::Delete),
        2 => (0u8..6, 0u8..6).prop_map(|(a, b)| Action::DeleteRange(a.min(b), a.max(b) + 1)),
        2 => (0u64..12).prop_map(Action::Collect),
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two engines go through the same history, one of them collects garbage: at and above the
    /// safe point both show the same.
    #[test]
    fn reads_above_the_safe_point_see_no_difference(
        actions in actions(), versions_max in 1usize..8, removals_max in 1usize..6,
    ) {
        let ((_one, plain), (_two, collected)) = (engine(), engine());
        let limits = CollectLimits { versions_max, removals_max };
        let mut safe_point = Timestamp(0);
        for (at, action) in actions.iter().enumerate() {
            let now = Timestamp(at as u64 + 1);
            let mutations = match action {
                Action::Put(key) => put(&[*key], &[*key, at as u8], now, RequestId(1)),
                Action::Delete(key) => delete(&[*key], now, RequestId(1)),
                Action::DeleteRange(start, end) => {
                    let span = Span { start: vec![*start], end: vec![*end] };
                    delete_range(&span, now, RequestId(1))
                }
                Action::Collect(behind) => {
                    safe_point = safe_point.max(Timestamp(now.0.saturating_sub(*behind)));
                    pass(&*collected, safe_point, limits);
                    continue;
                }
            };
            apply(&*plain, &mutations);
            apply(&*collected, &mutations);
        }
        let (a, b) = (plain.snapshot(), collected.snapshot());
        let (ta, tb) = (load(&*plain), load(&*collected));
        for read in safe_point.0..=actions.len() as u64 + 1 {
            let read = Timestamp(read);
            let options = ScanOptions::default();
            let all = Span::all();
            prop_assert_eq!(
                scan(&*a, &ta, &all, Seen::at(read), &options).unwrap(),
                scan(&*b, &tb, &all, Seen::at(read), &options).unwrap()
            );
            for key in 0..6u8 {
                prop_assert_eq!(
                    get(&*a, &ta, &[key], Seen::at(read)).unwrap(),
                    get(&*b, &tb, &[key], Seen::at(read)).unwrap()
                );
            }
        }
    }
}
