//! The engine against a map: whatever is written, read and reopened, both say the same.

use proptest::prelude::*;
use rangedb_engine::{
    Durability, Engine, EngineKind, EngineSettings, Family, Iter, Snapshot, VERSION_BYTES,
    WriteBatch, open,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

type Model = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    DeleteSpan(Family, Vec<u8>, Vec<u8>),
    Commit(bool),
    DeleteSpanNow(Family, Vec<u8>, Vec<u8>),
    Load(Family, Vec<(Vec<u8>, Vec<u8>)>),
    Flush,
    Reopen,
    Check,
}

fn open_small(path: &Path) -> Arc<dyn Engine> {
    let settings = EngineSettings { write_buffer_bytes: 64 << 10, ..Default::default() };
    open(EngineKind::RocksDb, path, &settings).expect("the engine opens")
}

fn family() -> impl Strategy<Value = Family> {
    prop::sample::select(vec![Family::Lock, Family::Meta, Family::Write, Family::Data])
}

/// Few different keys, long enough for a version.
fn key() -> impl Strategy<Value = Vec<u8>> {
    (0u8..4, prop::sample::select(vec![0u8, 1, 0xfe, 0xff])).prop_map(|(prefix, version)| {
        let mut key = vec![b'k', prefix];
        key.extend_from_slice(&[version; VERSION_BYTES]);
        key
    })
}

fn step() -> impl Strategy<Value = Step> {
    let value = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        8 => (family(), key(), value()).prop_map(|(f, k, v)| Step::Put(f, k, v)),
        3 => (family(), key()).prop_map(|(f, k)| Step::Delete(f, k)),
        1 => (family(), key(), key()).prop_map(|(f, a, b)| Step::DeleteSpan(f, a, b)),
        5 => any::<bool>().prop_map(Step::Commit),
        1 => (family(), key(), key()).prop_map(|(f, a, b)| Step::DeleteSpanNow(f, a, b)),
        1 => (family(), prop::collection::btree_map(key(), value(), 0..5))
            .prop_map(|(f, entries)| Step::Load(f, entries.into_iter().collect())),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        3 => Just(Step::Check),
    ]
}

fn delete_span(model: &mut Model, family: Family, start: &[u8], end: &[u8]) {
    model.retain(|(f, k), _| *f != family || k.as_slice() < start || k.as_slice() >= end);
}

fn collect(iter: &mut dyn Iter, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut valid = if reverse { iter.seek_to_last() } else { iter.seek_to_first() }.expect("seek");
    while valid {
        found.push((iter.key().to_vec(), iter.value().to_vec()));
        valid = if reverse { iter.prev() } else { iter.next() }.expect("move");
    }
    assert!(!iter.valid() && iter.key().is_empty() && iter.value().is_empty());
    found
}

fn check(snapshot: &dyn Snapshot, model: &Model) {
    for family in Family::ALL {
        let expected: Vec<_> = model
            .iter()
            .filter(|((f, _), _)| *f == family)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let mut iter = snapshot.iterator(family, b"", b"").expect("iterator");
        assert_eq!(collect(&mut *iter, false), expected, "{family}");
        let mut backwards = collect(&mut *iter, true);
        backwards.reverse();
        assert_eq!(backwards, expected, "{family} backwards");

        let keys: Vec<Vec<u8>> = (0..4u8)
            .flat_map(|prefix| {
                [0u8, 1, 7, 0xff].map(|version| {
                    let mut key = vec![b'k', prefix];
                    key.extend_from_slice(&[version; VERSION_BYTES]);
                    key
                })
            })
            .collect();
        let borrowed: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let many = snapshot.multi_get(family, &borrowed).expect("multi_get");
        for (key, found) in keys.iter().zip(many) {
            let expected = model.get(&(family, key.clone()));
            assert_eq!(found.as_deref(), expected.map(Vec::as_slice));
            assert_eq!(snapshot.get(family, key).expect("get"), found);
        }
        check_bounds(snapshot, family, &keys, &expected);
    }
}

fn check_bounds(
    snapshot: &dyn Snapshot,
    family: Family,
    keys: &[Vec<u8>],
    expected: &[(Vec<u8>, Vec<u8>)],
) {
    let (lower, upper) = (&keys[3], &keys[10]);
    let inside = || expected.iter().filter(|(key, _)| key >= lower && key < upper);
    let mut iter = snapshot.iterator(family, lower, upper).expect("iterator");
    for key in keys {
        let at_or_after = inside().find(|(k, _)| k >= key);
        assert_eq!(iter.seek(key).expect("seek"), at_or_after.is_some());
        assert_eq!(iter.key(), at_or_after.map_or(&b""[..], |(k, _)| k));
        let at_or_before = inside().rev().find(|(k, _)| k <= key);
        assert_eq!(iter.seek_for_prev(key).expect("seek"), at_or_before.is_some());
        assert_eq!(iter.key(), at_or_before.map_or(&b""[..], |(k, _)| k));
        if family.is_versioned() {
            let prefix = &key[..key.len() - VERSION_BYTES];
            let first = expected.iter().find(|(k, _)| k >= key && k.starts_with(prefix));
            let found = snapshot.first_version(family, key).expect("first_version");
            assert_eq!(
                found.as_ref().map(|entry| (&entry.version[..], &entry.value[..])),
                first.map(|(k, v)| (&k[k.len() - VERSION_BYTES..], &v[..]))
            );
            let many = snapshot.first_versions(family, &[key, key]).expect("first_versions");
            assert_eq!(many, [found.clone(), found]);
        } else {
            assert!(snapshot.first_version(family, key).is_err());
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    let mut engine = open_small(&path);
    let mut batch = WriteBatch::new();
    let (mut model, mut pending) = (Model::new(), Model::new());
    let mut loads = 0;
    // Every snapshot ever taken, with what it must show for as long as it lives.
    let mut snapshots: Vec<(Arc<dyn Snapshot>, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Put(family, key, value) => {
                batch.put(family, &key, &value);
                pending.insert((family, key), value);
            }
            Step::Delete(family, key) => {
                batch.delete(family, &key);
                pending.remove(&(family, key));
            }
            Step::DeleteSpan(family, start, end) => {
                batch.delete_span(family, &start, &end);
                delete_span(&mut pending, family, &start, &end);
            }
            Step::Commit(synced) => {
                let how = if synced { Durability::Synced } else { Durability::Buffered };
                engine.write(&batch, how).expect("write");
                batch.clear();
                model = pending.clone();
            }
            Step::DeleteSpanNow(family, start, end) => {
                engine.delete_span(family, &start, &end).expect("delete_span");
                delete_span(&mut model, family, &start, &end);
                (pending, _) = (model.clone(), batch.clear());
            }
            Step::Load(family, entries) => {
                loads += 1;
                let staging = dir.path().join(format!("load-{loads}"));
                std::fs::create_dir(&staging).expect("a folder");
                let mut loader = engine.bulk_loader(&staging).expect("bulk_loader");
                for (key, value) in entries {
                    loader.add(family, &key, &value).expect("add");
                    model.insert((family, key), value);
                }
                loader.ingest().expect("ingest");
                (pending, _) = (model.clone(), batch.clear());
            }
            Step::Flush => engine.flush().expect("flush"),
            Step::Reopen => {
                snapshots.clear();
                drop(engine);
                engine = open_small(&path);
            }
            Step::Check => {
                for (family, key) in model.keys() {
                    assert!(engine.get(*family, key).expect("get").is_some());
                }
                snapshots.push((engine.snapshot(), model.clone()));
                for (snapshot, model) in &snapshots {
                    check(&**snapshot, model);
                }
            }
        }
    }
    check(&*engine.snapshot(), &model);
    engine.verify().expect("verify");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_engine_is_a_map(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}
