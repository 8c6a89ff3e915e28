//! What happens to an engine whose files, locks or process were not treated well.

use rangedb_engine::{
    Durability, Engine, EngineError, EngineKind, EngineSettings, Family, Result, WriteBatch, open,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn try_open(path: &Path) -> Result<Arc<dyn Engine>> {
    open(EngineKind::RocksDb, path, &EngineSettings::default())
}

fn refused(path: &Path) -> EngineError {
    let error = try_open(path).err().expect("the engine must not open");
    assert_eq!(error.to_string().lines().count(), 1, "one line: {error}");
    error
}

fn put(engine: &dyn Engine, key: &str, value: &[u8], durability: Durability) {
    let mut batch = WriteBatch::new();
    batch.put(Family::Lock, key.as_bytes(), value);
    engine.write(&batch, durability).expect("write");
}

/// The newest non-empty file with this extension.
fn newest(path: &Path, extension: &str) -> PathBuf {
    fs::read_dir(path)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|file| file.extension().is_some_and(|e| e == extension))
        .filter(|file| fs::metadata(file).expect("metadata").len() > 0)
        .max()
        .expect("there is such a file")
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("read");
    bytes[at] ^= 0x40;
    fs::write(file, bytes).expect("write");
}

/// A copy of the folder of a running engine: what a crash of the process leaves.
fn crash(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the folder") {
        let file = entry.expect("an entry").path();
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copy");
    }
}

#[test]
fn a_torn_log_tail_loses_only_the_torn_write() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, left) = (dir.path().join("engine"), dir.path().join("left"));
    let engine = try_open(&path).expect("open");
    for n in 0..10 {
        put(&*engine, &format!("k{n}"), &[7; 500], Durability::Buffered);
    }
    crash(&path, &left);
    let log = newest(&left, "log");
    let bytes = fs::read(&log).expect("read");
    fs::write(&log, &bytes[..bytes.len() - 100]).expect("write");

    let engine = try_open(&left).expect("a torn tail is normal");
    for n in 0..9 {
        let value = engine.get(Family::Lock, format!("k{n}").as_bytes()).expect("get");
        assert!(value.is_some(), "k{n} was written before the tear");
    }
    assert_eq!(engine.get(Family::Lock, b"k9").expect("get"), None);
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, left) = (dir.path().join("engine"), dir.path().join("left"));
    let engine = try_open(&path).expect("open");
    for n in 0..10 {
        put(&*engine, &format!("k{n}"), &[7; 500], Durability::Synced);
    }
    crash(&path, &left);
    let log = newest(&left, "log");
    let length = fs::metadata(&log).expect("metadata").len() as usize;
    flip(&log, length / 2);
    assert!(refused(&left).is_corruption());
}

#[test]
fn a_damaged_file_is_an_error_and_not_an_absence() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    let engine = try_open(&path).expect("open");
    for n in 0..2_000 {
        let noise: Vec<u8> = (0..64u32).map(|i| (i * 7919 + n * 104_729) as u8).collect();
        put(&*engine, &format!("k{n:04}"), &noise, Durability::Buffered);
    }
    engine.flush().expect("flush");
    engine.close().expect("close");
    drop(engine);
    flip(&newest(&path, "sst"), 20_000);

    // The damage may already show while opening, or only when the block is read.
    let Ok(engine) = try_open(&path) else { return };
    let snapshot = engine.snapshot();
    let mut errors = 0;
    for n in 0..2_000 {
        match snapshot.get(Family::Lock, format!("k{n:04}").as_bytes()) {
            Ok(value) => assert!(value.is_some(), "k{n:04} is silently gone"),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 0, "the flipped bit lies in some block");

    let mut iter = snapshot.iterator(Family::Lock, b"", b"").expect("iterator");
    let mut moved = iter.seek_to_first();
    let mut seen = 0;
    while let Ok(true) = moved {
        seen += 1;
        moved = iter.next();
    }
    assert!(seen < 2_000 && moved.is_err(), "the iterator must not end as if it were done");
    assert!(!iter.valid());
    assert!(engine.verify().expect_err("verify finds it").is_corruption());
}

#[test]
fn two_engines_cannot_share_a_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = try_open(dir.path()).expect("open");
    assert_eq!(refused(dir.path()), EngineError::Locked { path: dir.path().to_owned() });
    drop(engine);
    try_open(dir.path()).expect("the first let go of it");
}

#[test]
fn a_lost_index_of_files_is_damage_and_not_an_empty_engine() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    let engine = try_open(&path).expect("open");
    put(&*engine, "k", b"v", Durability::Synced);
    engine.flush().expect("flush");
    drop(engine);
    fs::remove_file(path.join("CURRENT")).expect("remove");
    assert!(refused(&path).is_corruption());
}

#[test]
fn a_lost_data_file_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    let engine = try_open(&path).expect("open");
    put(&*engine, "k", b"v", Durability::Synced);
    engine.flush().expect("flush");
    drop(engine);
    fs::remove_file(newest(&path, "sst")).expect("remove");
    assert!(refused(&path).is_corruption());
}

#[test]
fn missing_and_unknown_families_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    drop(try_open(&path).expect("open"));
    let names = ["default", "data", "lock", "write", "range_tombstone", "meta"];
    let mut raw = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, names).expect("open");
    raw.drop_cf("lock").expect("drop");
    drop(raw);
    let missing = EngineError::MissingFamily { path: path.clone(), family: Family::Lock };
    assert_eq!(refused(&path), missing);

    let newer = dir.path().join("newer");
    drop(try_open(&newer).expect("open"));
    let mut raw = rocksdb::DB::open_cf(&rocksdb::Options::default(), &newer, names).expect("open");
    raw.create_cf("history", &rocksdb::Options::default()).expect("create");
    drop(raw);
    assert!(matches!(refused(&newer), EngineError::NewerFormat { .. }));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    drop(try_open(&path).expect("open"));
    let names = ["default", "data", "lock", "write", "range_tombstone", "meta"];
    let raw = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, names).expect("open");
    raw.put(b"rangedb-engine-format", 2u32.to_be_bytes()).expect("put");
    drop(raw);
    let expected = EngineError::NewerFormat { path: path.clone(), found: 2, supported: 1 };
    assert_eq!(refused(&path), expected);
}

#[test]
fn an_interrupted_creation_is_finished() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &path, ["default", "data"]).expect("open"));
    let engine = try_open(&path).expect("nothing was ever stored here");
    put(&*engine, "k", b"v", Durability::Synced);
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("engine");
    fs::write(&path, b"not a folder").expect("write");
    assert!(matches!(refused(&path), EngineError::Io { .. }));
}
