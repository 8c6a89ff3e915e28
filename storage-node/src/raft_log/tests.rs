//! The log store against a model, over crashes; and its guards one by one.

use super::fault::{FaultFileSystem, SyncBehaviour, Unsynced};
use super::{
    CachedLog, EngineLog, LogChange, LogError, LogPosition, LogSettings, LogState, LogWrite,
    RaftLog,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use rangedb_service::settings::Bytes;
use rangedb_types::ReplicaId;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const REPLICA: ReplicaId = ReplicaId(7);

/// Files as small as they may be, so that they are ended and purged often.
fn settings() -> LogSettings {
    LogSettings {
        file_bytes: Bytes(64 << 10),
        purge_threshold: Bytes(256 << 10),
        ..LogSettings::default()
    }
}

fn open(path: &Path, disk: &FaultFileSystem) -> Result<EngineLog<FaultFileSystem>, LogError> {
    EngineLog::open_with(path, &settings(), Arc::new(disk.clone()), Arc::new(|_| {}))
}

fn entry(index: u64, term: u64, size: usize) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry.data = vec![(index + term) as u8; size].into();
    entry
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    range.map(|index| entry(index, term, 10)).collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

fn append(replica_id: ReplicaId, entries: Vec<Entry>) -> LogWrite {
    LogWrite { changes: vec![LogChange::Append { replica_id, entries }] }
}

fn change(change: LogChange) -> LogWrite {
    LogWrite { changes: vec![change] }
}

fn reset(replica_id: ReplicaId, index: u64, term: u64) -> LogWrite {
    let position = LogPosition { index, term };
    change(LogChange::ResetTo { replica_id, position, hard_state: hard_state(term, 0, index) })
}

fn truncate(replica_id: ReplicaId, index: u64, term: u64) -> LogWrite {
    change(LogChange::Truncate { replica_id, position: LogPosition { index, term } })
}

fn all(log: &dyn RaftLog, state: &LogState) -> Vec<Entry> {
    let (low, high) = (state.truncated.index + 1, state.last_index + 1);
    log.entries(REPLICA, low, high, u64::MAX).expect("readable")
}

#[test]
fn an_uninitialised_replica_keeps_its_vote() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let log = open(dir.path(), &disk).expect("opens");
    assert_eq!(log.load(REPLICA).expect("readable"), None);
    let vote = hard_state(3, 9, 0);
    let write = change(LogChange::SetHardState { replica_id: REPLICA, hard_state: vote.clone() });
    log.write(write, true).expect("written");
    disk.power_off();
    drop(log);
    disk.power_on(Unsynced::Lost).expect("undone");
    let log = open(dir.path(), &disk).expect("opens");
    let state = log.load(REPLICA).expect("readable").expect("stored");
    assert_eq!(state, LogState { hard_state: vote, ..LogState::default() });
    assert_eq!(log.replicas(), [REPLICA]);
}

#[test]
fn a_reset_leaves_nothing_of_what_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let log = open(dir.path(), &disk).expect("opens");
    log.write(reset(REPLICA, 10, 1), true).expect("written");
    log.write(append(REPLICA, entries(11..=100, 2)), true).expect("written");
    // A snapshot that ends inside the log that it replaces.
    log.write(reset(REPLICA, 50, 3), true).expect("written");
    let check = |log: &EngineLog<FaultFileSystem>| {
        let state = log.load(REPLICA).expect("readable").expect("stored");
        assert_eq!((state.truncated, state.last_index), (LogPosition { index: 50, term: 3 }, 50));
        assert!(matches!(log.entries(REPLICA, 50, 51, 1), Err(LogError::Truncated { .. })));
        assert!(matches!(log.entries(REPLICA, 51, 52, 1), Err(LogError::Damaged { .. })));
    };
    check(&log);
    drop(log);
    let log = open(dir.path(), &disk).expect("opens");
    check(&log);
    log.write(append(REPLICA, entries(51..=52, 3)), true).expect("goes on");
}

#[test]
fn holes_are_refused_and_harm_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path(), &FaultFileSystem::new()).expect("opens");
    log.write(reset(REPLICA, 10, 1), true).expect("written");
    log.write(append(REPLICA, entries(11..=20, 1)), true).expect("written");
    let mut gap = entries(21..=22, 1);
    gap[1].index = 23;
    for bad in [
        append(REPLICA, entries(22..=23, 1)),
        append(REPLICA, entries(10..=12, 1)),
        append(REPLICA, gap),
        truncate(REPLICA, 21, 1),
    ] {
        assert!(matches!(log.write(bad, true), Err(LogError::Damaged { .. })));
    }
    log.write(append(REPLICA, entries(21..=21, 1)), true).expect("written");
    let state = log.load(REPLICA).expect("readable").expect("stored");
    assert_eq!(all(&log, &state), entries(11..=21, 1));
}

#[test]
fn reads_give_one_entry_at_least_and_then_what_fits() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path(), &FaultFileSystem::new()).expect("opens");
    let log: Arc<dyn RaftLog> = Arc::new(log);
    for log in [Arc::clone(&log), Arc::new(CachedLog::new(log, 1 << 20))] {
        log.write(reset(REPLICA, 0, 0), true).expect("written");
        let many: Vec<_> = (1..=10).map(|index| entry(index, 1, 1000)).collect();
        log.write(append(REPLICA, many.clone()), true).expect("written");
        let read = |low, high, bytes| log.entries(REPLICA, low, high, bytes).expect("readable");
        assert_eq!(read(3, 11, 0), many[2..3]);
        assert_eq!(read(3, 11, 2500), many[2..4]);
        assert_eq!(read(1, 11, u64::MAX), many);
        assert_eq!(read(5, 5, u64::MAX), []);
    }
}

#[test]
fn a_failed_sync_is_fatal_and_nothing_is_written_after_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reasons);
    let fatal = Arc::new(move |reason: &str| seen.lock().push(reason.to_owned()));
    let log = EngineLog::open_with(dir.path(), &settings(), Arc::new(disk.clone()), fatal)
        .expect("opens");
    log.write(reset(REPLICA, 10, 1), true).expect("written");
    disk.set_sync(SyncBehaviour::Fails);
    let failed = log.write(append(REPLICA, entries(11..=12, 1)), true);
    assert!(matches!(failed, Err(LogError::Io(_))));
    assert_eq!(reasons.lock().len(), 1, "{:?}", reasons.lock());
    disk.set_sync(SyncBehaviour::Honest);
    let again = log.write(append(REPLICA, entries(11..=12, 1)), true);
    assert!(matches!(again, Err(LogError::Io(_))));
    assert_eq!(reasons.lock().len(), 1);
}

#[test]
fn a_disk_that_lies_loses_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let log = open(dir.path(), &disk).expect("opens");
    log.write(reset(REPLICA, 10, 1), true).expect("written");
    disk.set_sync(SyncBehaviour::Lies);
    log.write(append(REPLICA, entries(11..=12, 1)), true).expect("acknowledged");
    disk.power_off();
    assert!(log.write(append(REPLICA, entries(13..=13, 1)), true).is_err());
    drop(log);
    disk.power_on(Unsynced::Lost).expect("undone");
    let log = open(dir.path(), &disk).expect("opens");
    assert_eq!(log.load(REPLICA).expect("readable").expect("stored").last_index, 10);
}

#[test]
fn a_flipped_bit_in_a_payload_is_damage_of_that_replica() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let log = open(dir.path(), &disk).expect("opens");
    let needle = [0xab; 32];
    let mut marked = entry(11, 1, 0);
    marked.data = needle.to_vec().into();
    let other = ReplicaId(8);
    log.write(reset(REPLICA, 10, 1), true).expect("written");
    log.write(reset(other, 10, 1), true).expect("written");
    log.write(append(REPLICA, vec![marked]), true).expect("written");
    log.write(append(other, entries(11..=12, 1)), true).expect("written");
    drop(log);
    let mut flipped = 0;
    for file in std::fs::read_dir(dir.path()).expect("listed") {
        let path = file.expect("listed").path();
        let mut bytes = std::fs::read(&path).expect("read");
        if let Some(at) = bytes.windows(needle.len()).position(|part| part == needle) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("written");
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    let log = open(dir.path(), &FaultFileSystem::new()).expect("opens");
    assert!(
        matches!(log.entries(REPLICA, 11, 12, 1), Err(LogError::Damaged { replica_id, .. }) if replica_id == REPLICA)
    );
    assert_eq!(log.entries(other, 11, 13, 1 << 20).expect("readable"), entries(11..=12, 1));
}

#[test]
fn a_purge_does_not_go_by_what_is_not_on_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FaultFileSystem::new();
    let log = open(dir.path(), &disk).expect("opens");
    let vote = hard_state(9, 3, 10);
    let position = LogPosition { index: 10, term: 1 };
    let made = LogChange::ResetTo { replica_id: REPLICA, position, hard_state: vote.clone() };
    log.write(change(made), true).expect("written");
    let many: Vec<_> = (11..=60).map(|index| entry(index, 2, 16 << 10)).collect();
    for part in many.chunks(5) {
        log.write(append(REPLICA, part.to_vec()), true).expect("written");
    }
    log.write(truncate(REPLICA, 60, 2), false).expect("written");
    let hard_state = hard_state(9, 3, 60);
    let write = change(LogChange::SetHardState { replica_id: REPLICA, hard_state });
    log.write(write, false).expect("written");
    log.purge().expect("purged");
    disk.power_off();
    drop(log);
    disk.power_on(Unsynced::Lost).expect("undone");
    let log = open(dir.path(), &disk).expect("opens");
    let state = log.load(REPLICA).expect("not damaged").expect("stored");
    assert_eq!((state.hard_state.term, state.hard_state.vote), (9, 3));
    assert_eq!(state.last_index, 60);
}

#[test]
fn the_cache_stays_within_its_budget_and_follows_the_log() {
    const BUDGET: u64 = 64 << 10;
    let dir = tempfile::tempdir().expect("a folder");
    let log = Arc::new(open(dir.path(), &FaultFileSystem::new()).expect("opens"));
    let cached = CachedLog::new(Arc::clone(&log) as Arc<dyn RaftLog>, BUDGET);
    for replica in 1..=4 {
        cached.write(reset(ReplicaId(replica), 0, 0), false).expect("written");
    }
    let same = |context: &str| {
        for replica in (1..=4).map(ReplicaId) {
            let state = log.load(replica).expect("readable").expect("stored");
            for low in state.truncated.index + 1..=state.last_index {
                let high = state.last_index + 1;
                for bytes in [1, 3000, u64::MAX] {
                    let ours = cached.entries(replica, low, high, bytes).expect("readable");
                    let truth = log.entries(replica, low, high, bytes).expect("readable");
                    assert_eq!(ours, truth, "{context} {replica} {low} {bytes}");
                }
            }
        }
        assert!(cached.cached_bytes() <= BUDGET);
    };
    for round in 0..10 {
        for replica in (1..=4).map(ReplicaId) {
            let first = round * 5 + 1;
            let batch = (first..first + 8).map(|index| entry(index, round, 500)).collect();
            cached.write(append(replica, batch), false).expect("written");
        }
        same("after an append that overwrites");
        cached.write(truncate(ReplicaId(1), round * 4 + 1, round), false).expect("written");
        same("after a truncation");
    }
    cached.write(reset(ReplicaId(2), 9, 9), false).expect("written");
    cached.write(change(LogChange::Remove { replica_id: ReplicaId(3) }), false).expect("written");
    assert!(cached.entries(ReplicaId(2), 10, 11, 1).is_err());
    assert!(cached.entries(ReplicaId(3), 10, 11, 1).is_err());
}

// ---- the model

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelLog {
    hard_state: HardState,
    truncated: LogPosition,
    entries: Vec<Entry>,
}

impl ModelLog {
    fn last_index(&self) -> u64 {
        self.truncated.index + self.entries.len() as u64
    }
}

type Model = BTreeMap<ReplicaId, ModelLog>;

#[derive(Clone, Debug)]
enum Op {
    Append { replica: u64, overwrite: u64, count: u64, size: usize, sync: bool },
    HardState { replica: u64, sync: bool },
    Truncate { replica: u64, keep: u64, sync: bool },
    Reset { replica: u64, ahead: u64 },
    Remove { replica: u64 },
    Purge,
    Reopen,
    Crash { unsynced: Unsynced },
}

fn op() -> impl Strategy<Value = Op> {
    let replica = 1..5u64;
    prop_oneof![
        10 => (replica.clone(), 0..4u64, 1..8u64, 0..9000usize, any::<bool>()).prop_map(
            |(replica, overwrite, count, size, sync)| Op::Append { replica, overwrite, count, size, sync }
        ),
        2 => (replica.clone(), any::<bool>())
            .prop_map(|(replica, sync)| Op::HardState { replica, sync }),
        3 => (replica.clone(), 0..6u64, any::<bool>())
            .prop_map(|(replica, keep, sync)| Op::Truncate { replica, keep, sync }),
        1 => (replica.clone(), 0..20u64).prop_map(|(replica, ahead)| Op::Reset { replica, ahead }),
        1 => replica.prop_map(|replica| Op::Remove { replica }),
        3 => Just(Op::Purge),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash { unsynced: Unsynced::Lost }),
        1 => any::<u64>().prop_map(|seed| Op::Crash { unsynced: Unsynced::Torn { seed } }),
    ]
}

struct Harness {
    dir: tempfile::TempDir,
    disk: FaultFileSystem,
    log: Option<EngineLog<FaultFileSystem>>,
    /// What may be there after a crash: as of the last sync, and after each write since.
    states: Vec<Model>,
    term: u64,
}

impl Harness {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = FaultFileSystem::new();
        let log = Some(open(dir.path(), &disk).expect("opens"));
        Self { dir, disk, log, states: vec![Model::new()], term: 1 }
    }

    fn log(&self) -> &EngineLog<FaultFileSystem> {
        self.log.as_ref().expect("open")
    }

    fn model(&self) -> Model {
        self.states.last().expect("never empty").clone()
    }

    fn write(&mut self, write: LogWrite, after: Model, sync: bool) {
        self.log().write(write, sync).expect("written");
        if sync {
            self.states.clear();
        }
        self.states.push(after);
    }

    fn run(&mut self, op: Op) {
        self.term += 1;
        let term = self.term;
        let mut model = self.model();
        match op {
            Op::Append { replica, overwrite, count, size, sync } => {
                let replica_id = ReplicaId(replica);
                let log = model.entry(replica_id).or_default();
                let kept = (log.entries.len() as u64).saturating_sub(overwrite);
                log.entries.truncate(kept as usize);
                let first = log.last_index() + 1;
                let new: Vec<_> =
                    (first..first + count).map(|index| entry(index, term, size)).collect();
                log.entries.extend(new.clone());
                self.write(append(replica_id, new), model, sync);
            }
            Op::HardState { replica, sync } => {
                let replica_id = ReplicaId(replica);
                let state = hard_state(term, replica, 0);
                model.entry(replica_id).or_default().hard_state = state.clone();
                let write = change(LogChange::SetHardState { replica_id, hard_state: state });
                self.write(write, model, sync);
            }
            Op::Truncate { replica, keep, sync } => {
                let replica_id = ReplicaId(replica);
                let Some(log) = model.get_mut(&replica_id) else { return };
                let drop = (log.entries.len() as u64).saturating_sub(keep) as usize;
                let Some(last) = log.entries.drain(..drop).next_back() else { return };
                log.truncated = LogPosition { index: last.index, term: last.term };
                let position = log.truncated;
                self.write(truncate(replica_id, position.index, position.term), model, sync);
            }
            Op::Reset { replica, ahead } => {
                let replica_id = ReplicaId(replica);
                let log = model.entry(replica_id).or_default();
                let index = log.truncated.index + ahead;
                *log = ModelLog {
                    hard_state: hard_state(term, 0, index),
                    truncated: LogPosition { index, term },
                    entries: Vec::new(),
                };
                self.write(reset(replica_id, index, term), model, true);
            }
            Op::Remove { replica } => {
                let replica_id = ReplicaId(replica);
                model.remove(&replica_id);
                self.write(change(LogChange::Remove { replica_id }), model, true);
            }
            Op::Purge => {
                // It syncs what was written before.
                self.log().purge().expect("purged");
                self.states = vec![model];
            }
            Op::Reopen => {
                self.log = None;
                self.log = Some(open(self.dir.path(), &self.disk).expect("opens"));
                self.states = vec![model];
            }
            Op::Crash { unsynced } => self.crash(unsynced),
        }
    }

    fn crash(&mut self, unsynced: Unsynced) {
        self.disk.power_off();
        self.log = None;
        self.disk.power_on(unsynced).expect("undone");
        self.log = Some(open(self.dir.path(), &self.disk).expect("opens"));
        let found = self.found();
        let allowed = std::mem::take(&mut self.states);
        assert!(allowed.contains(&found), "found {found:?}, allowed {allowed:?}");
        self.states = vec![found];
    }

    fn found(&self) -> Model {
        let log = self.log();
        let mut found = Model::new();
        for replica_id in log.replicas() {
            let state = log.load(replica_id).expect("readable").expect("listed");
            let (low, high) = (state.truncated.index + 1, state.last_index + 1);
            let entries = log.entries(replica_id, low, high, u64::MAX).expect("readable");
            let LogState { hard_state, truncated, .. } = state;
            found.insert(replica_id, ModelLog { hard_state, truncated, entries });
        }
        found
    }

    fn check(&self) {
        let (found, model) = (self.found(), self.model());
        assert!(found == model, "found {found:?}, expected {model:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_was_synced_is_lost(ops in prop::collection::vec(op(), 1..120)) {
        let mut harness = Harness::new();
        for op in ops {
            let reopened = matches!(op, Op::Reopen | Op::Crash { .. });
            harness.run(op);
            if reopened {
                harness.check();
            }
        }
        harness.check();
    }
}
