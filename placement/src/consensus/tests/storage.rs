//! The store alone: openraft's own suite, and the guards that concern what is on disk.

use crate::consensus::log_store::LogStore;
use crate::consensus::state_machine::{self, StateMachine};
use crate::consensus::store::{self, Store, StoreError};
use crate::consensus::types::{
    Entry, LogId, Member, SnapshotMeta, StorageError, StoredMembership, TypeConfig, Vote,
};
use crate::consensus::witness::Promise;
use crate::state::{Command, Response, State, StoreId};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{EntryPayload, Membership, RaftLogReader, RaftSnapshotBuilder};
use proptest::prelude::*;
use rangedb_types::{ClusterId, PlacementId};
use std::collections::BTreeMap;
use std::path::Path;

const OWN: PlacementId = PlacementId(1);

fn open_store(path: &Path, had_cluster: bool) -> Result<Store, StoreError> {
    Store::open(path, OWN, StoreId(11), had_cluster)
}

fn reopen(path: &Path) -> (LogStore, StateMachine, Store) {
    let store = open_store(path, false).unwrap();
    let machine = StateMachine::open(store.clone()).unwrap();
    (LogStore::new(store.clone(), OWN, Promise::default()), machine, store)
}

fn id(term: u64, index: u64) -> LogId {
    log_id(term, OWN, index)
}

fn entry(term: u64, index: u64, command: Command) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(command) }
}

fn blank(term: u64, index: u64) -> Entry {
    blank_ent::<TypeConfig>(term, OWN, index)
}

fn allocate(term: u64, index: u64) -> Entry {
    entry(term, index, Command::AllocateIds { count: 1 })
}

/// A snapshot of a state after some commands, as a leader would send it.
fn snapshot(last: LogId, commands: u64) -> (SnapshotMeta, Vec<u8>, State) {
    let mut state = State::default();
    state.apply(&Command::InitCluster { cluster_id: ClusterId(7) });
    for _ in 0..commands {
        state.apply(&Command::AllocateIds { count: 1 });
    }
    let members = BTreeMap::from([(OWN, Member::default())]);
    let membership = Membership::new(vec![[OWN].into()], members);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(id(1, 0)), membership),
        snapshot_id: "1".to_owned(),
    };
    (meta, state.to_snapshot(), state)
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        // The suite's own member is 0.
        let store = Store::open(&folder.path().join("db"), PlacementId(0), StoreId(1), false)?;
        let machine = StateMachine::open(store.clone()).unwrap();
        Ok((folder, LogStore::new(store, PlacementId(0), Promise::default()), machine))
    }
}

#[test]
fn openraft_suite_for_stores() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn a_restarted_leader_holds_an_election_first() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _, _) = reopen(folder.path());
    log.save_vote(&Vote::new_committed(3, OWN)).await.unwrap();
    drop(log);
    let (mut log, _, _) = reopen(folder.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, OWN)));
    // Another's leadership is remembered as it was: its lease must be waited for.
    log.save_vote(&Vote::new_committed(4, PlacementId(2))).await.unwrap();
    let vote = log.read_vote().await.unwrap();
    assert_eq!(vote, Some(Vote::new_committed(4, PlacementId(2))));
}

#[tokio::test]
async fn what_apply_returned_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (_log, mut machine, _store) = reopen(folder.path());
    let applied = machine.apply([blank(1, 1), allocate(1, 2), allocate(1, 3)]).await.unwrap();
    assert_eq!(applied[2], Response::Ids { first: 2 });
    // The files as they are at this moment, without a clean close: what a kill leaves.
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let (_log, mut machine, _store) = reopen(copy.path());
    assert_eq!(machine.applied_state().await.unwrap().0, Some(id(1, 3)));
    let next = machine.apply([allocate(1, 4)]).await.unwrap();
    assert_eq!(next, [Response::Ids { first: 3 }]);
}

#[tokio::test]
async fn a_log_with_a_hole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _, _) = reopen(folder.path());
    log.blocking_append([blank(1, 0), blank(1, 1)]).await.unwrap();
    assert!(log.blocking_append([blank(1, 3)]).await.is_err());
    assert!(log.blocking_append([blank(1, 2), blank(1, 4)]).await.is_err());
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 1)));
    log.blocking_append([blank(1, 2)]).await.unwrap();
}

#[tokio::test]
async fn a_staged_snapshot_is_installed_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut machine, store) = reopen(folder.path());
    log.blocking_append((0..5).map(|index| blank(1, index))).await.unwrap();
    machine.apply([blank(1, 0), blank(1, 1)]).await.unwrap();
    let (meta, data, sent) = snapshot(id(2, 50), 3);
    state_machine::stage(&store, &meta, &data).unwrap();
    // openraft cuts the log off, and the process dies before the state machine has the snapshot.
    log.purge(id(2, 50)).await.unwrap();
    drop((log, machine, store));

    let (mut log, mut machine, store) = reopen(folder.path());
    let (applied, membership) = machine.applied_state().await.unwrap();
    assert_eq!((applied, membership), (Some(id(2, 50)), meta.last_membership.clone()));
    assert_eq!(machine.shared().read(State::to_snapshot), sent.to_snapshot());
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(2, 50)));
    assert!(store.get_raw(store::STAGED_META).unwrap().is_none(), "installed once");
}

#[tokio::test]
async fn an_interrupted_install_drops_a_log_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, machine, store) = reopen(folder.path());
    // Entries that were never committed, beyond the snapshot and of an older term.
    log.blocking_append((0..60).map(|index| blank(1, index))).await.unwrap();
    let (meta, data, _) = snapshot(id(2, 50), 3);
    state_machine::stage(&store, &meta, &data).unwrap();
    drop((log, machine, store));
    let (mut log, _machine, _store) = reopen(folder.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2, 50)), Some(id(2, 50))));
    assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_before_openraft_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, store) = reopen(folder.path());
    let (meta, mut data, _) = snapshot(id(2, 50), 3);
    let middle = data.len() / 2;
    data[middle] ^= 1;
    assert!(state_machine::stage(&store, &meta, &data).is_err());
    assert!(store.get_raw(store::STAGED_META).unwrap().is_none());
}

#[tokio::test]
async fn a_log_cut_off_beyond_what_is_applied_is_not_started_with() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut machine, store) = reopen(folder.path());
    machine.apply([blank(1, 0), blank(1, 1)]).await.unwrap();
    log.purge(id(2, 50)).await.unwrap();
    drop((log, machine, store));
    let store = open_store(folder.path(), false).unwrap();
    assert!(StateMachine::open(store).is_err());
}

#[tokio::test]
async fn snapshots_carry_everything_and_survive_an_install() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, mut source, _store) = reopen(from.path());
    source.apply([allocate(1, 1), allocate(1, 2)]).await.unwrap();
    let built = source.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let (_, mut target, store) = reopen(to.path());
    let garbage = Command::PutMeta { key: "_/old".to_owned(), value: "1".to_owned() };
    target.apply([entry(1, 1, garbage)]).await.unwrap();
    target.install_snapshot(&built.meta, built.snapshot).await.unwrap();
    let expected = source.shared().read(State::to_snapshot);
    assert_eq!(target.shared().read(State::to_snapshot), expected);
    assert_eq!(*target.shared().revisions().borrow(), 2);
    drop((target, store));
    let (_, target, _store) = reopen(to.path());
    assert_eq!(target.shared().read(State::to_snapshot), expected, "also after a restart");
}

#[test]
fn an_emptied_database_in_a_known_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consensus");
    drop(open_store(&path, false).unwrap());
    drop(open_store(&path, true).unwrap());
    assert!(matches!(
        Store::open(&path, OWN, StoreId(12), true),
        Err(StoreError::Foreign { found: StoreId(11), .. })
    ));
    std::fs::remove_dir_all(&path).unwrap();
    assert!(matches!(open_store(&path, true), Err(StoreError::Lost { .. })));
}

/// What openraft may do to a log.
#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Truncate(u8),
    Purge(u8),
    Vote(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..6u8).prop_map(Step::Append),
        2 => (1..6u8).prop_map(Step::Truncate),
        2 => (1..6u8).prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Vote),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_log_store_matches_a_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (mut log, mut machine, mut store) = reopen(folder.path());
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let (mut purged, mut term, mut voted) = (None::<LogId>, 1u64, None);
            for step in steps {
                let next = model.keys().next_back().copied().or(purged.map(|p| p.index));
                let next = next.map_or(0, |last| last + 1);
                match step {
                    Step::Append(count) => {
                        let new = (next..next + u64::from(count)).map(|index| blank(term, index));
                        log.blocking_append(new).await.unwrap();
                        model.extend((next..next + u64::from(count)).map(|index| (index, term)));
                    }
                    Step::Truncate(back) => {
                        let first = purged.map_or(0, |p| p.index + 1);
                        let from = next.saturating_sub(u64::from(back)).max(first);
                        log.truncate(id(term, from)).await.unwrap();
                        model.retain(|index, _| *index < from);
                        term += 1;
                    }
                    Step::Purge(count) => {
                        let upto = model.iter().take(usize::from(count)).next_back();
                        if let Some((index, term)) = upto.map(|(index, term)| (*index, *term)) {
                            purged = Some(id(term, index));
                            log.purge(id(term, index)).await.unwrap();
                            model.retain(|kept, _| *kept > index);
                        }
                    }
                    Step::Vote(by) => {
                        let vote = Vote::new(term, PlacementId(u64::from(by)));
                        log.save_vote(&vote).await.unwrap();
                        voted = Some(vote);
                    }
                    Step::Restart => {
                        drop((log, machine, store));
                        (log, machine, store) = reopen(folder.path());
                    }
                }
                let entries = log.try_get_log_entries(..).await.unwrap();
                let found: BTreeMap<u64, u64> = entries
                    .iter()
                    .map(|entry| (entry.log_id.index, entry.log_id.leader_id.term))
                    .collect();
                assert_eq!(found, model);
                let state = log.get_log_state().await.unwrap();
                assert_eq!(state.last_purged_log_id, purged);
                let last = model.iter().next_back().map(|(index, term)| id(*term, *index));
                assert_eq!(state.last_log_id, last.or(purged));
                assert_eq!(log.read_vote().await.unwrap(), voted);
            }
        });
    }
}
