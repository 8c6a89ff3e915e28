//! Closing, copies, loads and sizes.

use rangedb_engine::{
    Durability, Engine, EngineError, EngineKind, EngineSettings, Family, WriteBatch, open,
};
use std::path::Path;
use std::sync::Arc;

fn open_at(path: &Path, wal: bool) -> Arc<dyn Engine> {
    let settings = EngineSettings { wal, ..Default::default() };
    open(EngineKind::RocksDb, path, &settings).expect("open")
}

fn put(engine: &dyn Engine, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(family, key, value);
    engine.write(&batch, Durability::Buffered).expect("write");
}

#[test]
fn a_closed_engine_takes_no_writes_but_shows_what_it_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(dir.path(), true);
    put(&*engine, Family::Meta, b"k", b"v");
    let snapshot = engine.snapshot();
    engine.close().expect("close");
    engine.close().expect("closing twice is closing");
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, b"k", b"w");
    assert_eq!(engine.write(&batch, Durability::Buffered), Err(EngineError::Closed));
    drop(engine);
    assert_eq!(snapshot.get(Family::Meta, b"k").expect("get").as_deref(), Some(&b"v"[..]));
    drop(snapshot);
    let again = open_at(dir.path(), true);
    assert_eq!(again.get(Family::Meta, b"k").expect("get").as_deref(), Some(&b"v"[..]));
}

#[test]
fn without_a_log_a_synced_write_still_survives() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(dir.path(), false);
    let log_bytes = engine.disk_usage().log_bytes;
    put(&*engine, Family::Meta, b"early", b"v");
    let mut batch = WriteBatch::new();
    batch.put(Family::Lock, b"late", b"v");
    engine.write(&batch, Durability::Synced).expect("write");
    assert!(engine.disk_usage().log_bytes <= log_bytes);
    let copy = dir.path().join("copy");
    engine.checkpoint(&copy).expect("checkpoint");
    let engine = open_at(&copy, false);
    assert!(engine.get(Family::Meta, b"early").expect("get").is_some());
    assert!(engine.get(Family::Lock, b"late").expect("get").is_some());
}

#[test]
fn a_flush_lets_the_logs_before_it_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(dir.path(), true);
    for number in 0..5_u8 {
        put(&*engine, Family::Write, &[number; 9], b"v");
        put(&*engine, Family::Meta, &[number], b"v");
        engine.flush().expect("flush");
    }
    // The thread that flushed removes a log a moment after it said that it had flushed; this waits for it.
    drop(engine);
    let files = std::fs::read_dir(dir.path()).expect("the folder");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("a name"));
    let logs: Vec<_> = names.filter(|name| name.ends_with(".log")).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
}

#[test]
fn a_checkpoint_is_a_copy_of_one_moment() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(&dir.path().join("engine"), true);
    put(&*engine, Family::Meta, b"k", b"before");
    engine.checkpoint(&dir.path().join("copy")).expect("checkpoint");
    put(&*engine, Family::Meta, b"k", b"after");
    let copy = open_at(&dir.path().join("copy"), true);
    assert_eq!(copy.get(Family::Meta, b"k").expect("get").as_deref(), Some(&b"before"[..]));
    assert!(engine.checkpoint(&dir.path().join("copy")).is_err(), "the folder is there");
}

#[test]
fn loaded_keys_must_ascend_and_are_invisible_until_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(&dir.path().join("engine"), true);
    put(&*engine, Family::Lock, b"b", b"old");
    let staging = dir.path().join("staging");
    std::fs::create_dir(&staging).expect("a folder");
    let mut loader = engine.bulk_loader(&staging).expect("loader");
    loader.add(Family::Lock, b"a", b"1").expect("add");
    loader.add(Family::Meta, b"a", b"other family").expect("families are independent");
    loader.add(Family::Lock, b"b", b"new").expect("add");
    let error = loader.add(Family::Lock, b"b", b"again").expect_err("does not ascend");
    assert!(matches!(error, EngineError::Invalid { .. }) && !error.is_fatal());
    assert_eq!(loader.byte_size(), 19);
    assert_eq!(engine.get(Family::Lock, b"a").expect("get"), None);
    let before = engine.snapshot();
    loader.ingest().expect("ingest");
    assert_eq!(engine.get(Family::Lock, b"b").expect("get").as_deref(), Some(&b"new"[..]));
    assert_eq!(before.get(Family::Lock, b"b").expect("get").as_deref(), Some(&b"old"[..]));
    assert_eq!(engine.verify().expect("verify").entries, 3);
    engine.health().expect("healthy");
}

#[test]
fn a_removed_span_gives_its_space_back_but_not_under_a_snapshot() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = open_at(dir.path(), true);
    let key = |n: u32| format!("k{n:08}v0000000").into_bytes();
    for n in 0..4_000u32 {
        let noise: Vec<u8> = (0..200u32)
            .map(|i| (i.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        put(&*engine, Family::Write, &key(n), &noise);
    }
    engine.flush().expect("flush");
    let (all, half) =
        (engine.approximate_size(b"k", b"l"), engine.approximate_size(b"k", &key(2_000)));
    assert!(all > 100_000 && half > all / 4 && half < all * 3 / 4, "{half} of {all}");
    assert!(engine.disk_usage().file_bytes >= all);

    let snapshot = engine.snapshot();
    engine.delete_span(Family::Write, b"k", b"l").expect("delete_span");
    assert_eq!(engine.get(Family::Write, &key(7)).expect("get"), None);
    assert!(
        snapshot.get(Family::Write, &key(7)).expect("get").is_some(),
        "a snapshot stands still"
    );
    drop(snapshot);
    engine.delete_span(Family::Write, b"k", b"l").expect("delete_span");
    engine.flush().expect("flush");
    assert!(engine.approximate_size(b"k", b"l") < all / 10);
}
