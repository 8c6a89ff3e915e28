//! One request at its node, done at one stroke by the real steps; and nodes that do it wrong.
//!
//! Owns: what a sabotaged node does. Must not know: in which order requests come.

use super::store::Store;
use bytes::Bytes;
use rangedb_mvcc::Mutation;
use rangedb_mvcc::record::{LockRecord, WriteKind, WriteRecord};
use rangedb_proto::internal::v1 as wire;
use rangedb_storage_node::service::alone;
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;
use wire::DataRequest;
use wire::data_request::Operation;
use wire::data_response::Result as Answer;
use wire::node_action::{self, Kind};
use wire::node_error::Kind as Refused;
use wire::transaction_state::State;

/// A rule of the protocol that nodes break, to prove that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// Rollbacks leave no marks.
    NoMarks,
    /// A commit in one round takes no notice of marks.
    AtOnceOverMarks,
    /// Prewrites take no notice of newer versions.
    NoWriteConflicts,
    /// A primary is committed below its least commit timestamp.
    NoLeast,
    /// What is pushed is not stored.
    NoPush,
    /// Other keys become versions as soon as they are prewritten.
    SecondariesAtOnce,
    /// Reads of the latest state pass over intents.
    ReadsOverIntents,
    /// Reads are not checked.
    NoReadCheck,
    /// Checks of reads take no notice of intents.
    CheckOverIntents,
    /// Stamps are as old as the request.
    OldStamps,
    /// Keys that are not there are called rolled back, but may still come.
    AbsentMayCome,
    /// The primary of an async commit is rolled back once its lifetime is over, whatever its other keys say.
    AsyncExpires,
    /// A prewrite takes no notice of the own version.
    PrewriteOverOwn,
    /// A commit in one round takes no notice of the own firm intents.
    AtOnceOverOwn,
}

/// What an answer changes.
pub(super) type Done = (Answer, Vec<Mutation>);

pub(super) struct Node<'a> {
    pub(super) store: &'a Store,
    pub(super) range: &'a Span,
    /// When the request was sent.
    pub(super) sent: Timestamp,
    pub(super) sabotage: Option<Sabotage>,
}

impl Node<'_> {
    pub(super) fn answer(
        &self,
        request: &DataRequest,
        oracle: &mut dyn FnMut() -> Timestamp,
    ) -> Done {
        match self.sabotage {
            Some(sabotage) => self.wrong(sabotage, request.clone(), oracle),
            None => self.right(self.store, request, oracle),
        }
    }

    fn right(
        &self,
        store: &Store,
        request: &DataRequest,
        oracle: &mut dyn FnMut() -> Timestamp,
    ) -> Done {
        alone::answer(Arc::new(store.clone()), self.range, request.clone(), oracle)
    }

    // tidy: long because it is a list of one-line sabotages.
    fn wrong(
        &self,
        sabotage: Sabotage,
        mut request: DataRequest,
        oracle: &mut dyn FnMut() -> Timestamp,
    ) -> Done {
        let mut store = self.store.clone();
        let Some(operation) = &mut request.operation else {
            return self.right(&store, &request, oracle);
        };
        let mut sent = || self.sent;
        match (sabotage, kind_of(operation)) {
            (Sabotage::NoMarks, _) => {
                let (answer, mut mutations) = self.right(&store, &request, oracle);
                mutations.retain(|mutation| !is_mark(mutation));
                return (answer, mutations);
            }
            (Sabotage::AtOnceOverMarks, Some(Kind::CommitAtOnce(_))) => {
                store = store.without(|record| record.kind == WriteKind::Rollback);
            }
            (Sabotage::AtOnceOverOwn, Some(Kind::CommitAtOnce(commit))) => {
                let id = id_of(commit.transaction.as_ref());
                store = store.with_locks(|lock| {
                    let tentative = lock.tentative || lock.start_ts == id;
                    Some(LockRecord { tentative, ..lock })
                });
            }
            (Sabotage::PrewriteOverOwn, Some(Kind::Prewrite(prewrite))) => {
                let id = id_of(prewrite.transaction.as_ref());
                store = store
                    .without(|record| record.start_ts == id && record.kind != WriteKind::Rollback);
            }
            (Sabotage::NoWriteConflicts, Some(Kind::Prewrite(prewrite))) => {
                prewrite.transaction.iter_mut().for_each(|it| it.snapshot_version = 0);
            }
            (Sabotage::NoWriteConflicts, Some(Kind::CommitAtOnce(commit))) => {
                commit.transaction.iter_mut().for_each(|it| it.snapshot_version = 0);
            }
            (Sabotage::NoLeast, Some(Kind::Commit(_))) => {
                store = store
                    .with_locks(|lock| Some(LockRecord { min_commit_ts: Timestamp(1), ..lock }));
            }
            (Sabotage::NoPush, Some(Kind::Status(status))) => {
                let above = std::mem::take(&mut status.push_above);
                return pretend_pushed(self.right(&store, &request, oracle), above);
            }
            (Sabotage::SecondariesAtOnce, Some(Kind::Prewrite(prewrite))) => {
                let prewrite = prewrite.clone();
                let done = self.right(&store, &request, oracle);
                return self.commit_at_once(&request, &prewrite, done, oracle);
            }
            (Sabotage::ReadsOverIntents, None) => store = store.with_locks(|_| None),
            (Sabotage::NoReadCheck, Some(Kind::CheckReads(_))) => {
                return (Answer::Action(wire::NodeActionResult::default()), Vec::new());
            }
            (Sabotage::CheckOverIntents, Some(Kind::CheckReads(_))) => {
                store = store.with_locks(|_| None);
            }
            (Sabotage::OldStamps, Some(Kind::Prewrite(_) | Kind::CommitAtOnce(_))) => {
                return self.right(&store, &request, &mut sent);
            }
            (Sabotage::AbsentMayCome, Some(Kind::States(_))) => {
                let (answer, _) = self.right(&store, &request, oracle);
                return (answer, Vec::new());
            }
            (Sabotage::AsyncExpires, Some(Kind::Status(_))) => {
                store = store.with_locks(|lock| Some(LockRecord { secondaries: None, ..lock }));
            }
            _ => {}
        }
        self.right(&store, &request, oracle)
    }

    /// Goes on from a prewrite of keys that are not the primary.
    fn commit_at_once(
        &self,
        request: &DataRequest,
        prewrite: &node_action::Prewrite,
        done: Done,
        oracle: &mut dyn FnMut() -> Timestamp,
    ) -> Done {
        let (answer, mut mutations) = done;
        let Some(transaction) = &prewrite.transaction else { return (answer, mutations) };
        let others = prewrite.writes.iter().filter(|write| write.key != transaction.primary);
        let keys: Vec<Bytes> = others.map(|write| write.key.clone()).collect();
        if let Answer::Action(result) = &answer
            && !keys.is_empty()
        {
            let mut store = self.store.clone();
            store.apply(&mutations);
            let kind = Kind::Resolve(node_action::Resolve {
                id: transaction.id,
                commit_version: result.version,
                keys,
                ..node_action::Resolve::default()
            });
            let operation = Operation::Action(wire::NodeAction { kind: Some(kind) });
            let request = DataRequest { operation: Some(operation), ..request.clone() };
            mutations.extend(self.right(&store, &request, oracle).1);
        }
        (answer, mutations)
    }
}

fn kind_of(operation: &mut Operation) -> Option<&mut Kind> {
    match operation {
        Operation::Action(action) => action.kind.as_mut(),
        _ => None,
    }
}

fn id_of(transaction: Option<&node_action::Transaction>) -> Timestamp {
    Timestamp(transaction.map_or(0, |transaction| transaction.id))
}

fn is_mark(mutation: &Mutation) -> bool {
    let record = mutation.value.as_ref().map(|value| WriteRecord::decode(value));
    mutation.family == rangedb_engine::Family::Write
        && matches!(record, Some(Ok(WriteRecord { kind: WriteKind::Rollback, .. })))
}

fn pretend_pushed((mut answer, mutations): Done, above: u64) -> Done {
    if let Answer::Action(result) = &mut answer
        && let Some(State::Intent(intent)) =
            result.state.as_mut().and_then(|state| state.state.as_mut())
        && intent.secondaries.is_none()
    {
        intent.least_commit_version = intent.least_commit_version.max(above + 1);
    }
    (answer, mutations)
}

/// A request in a few words, the same in every run.
pub(super) fn describe(request: &DataRequest) -> String {
    let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
    let names = |keys: &[Bytes]| keys.iter().map(text).collect::<Vec<_>>().join(" ");
    let writes = |writes: &[node_action::Write]| {
        writes.iter().map(|write| text(&write.key)).collect::<Vec<_>>().join(" ")
    };
    match &request.operation {
        Some(Operation::Get(get)) => format!("get {}", names(&get.keys)),
        Some(Operation::Action(action)) => match &action.kind {
            Some(Kind::Prewrite(it)) => format!("prewrite {}", writes(&it.writes)),
            Some(Kind::CommitAtOnce(it)) => format!("commit_at_once {}", writes(&it.writes)),
            Some(Kind::Acquire(it)) => format!("acquire {}", writes(&it.writes)),
            Some(Kind::Commit(it)) => format!("commit {}", names(&it.keys)),
            Some(Kind::RollBack(it)) => format!("roll_back {}", names(&it.keys)),
            Some(Kind::Status(it)) => format!("status {}", text(&it.primary)),
            Some(Kind::States(it)) => format!("states {}", names(&it.keys)),
            Some(Kind::Resolve(it)) => format!("resolve {}", names(&it.keys)),
            Some(Kind::CheckReads(it)) => format!("check_reads {}", names(&it.keys)),
            Some(Kind::Renew(it)) => format!("renew {}", text(&it.primary)),
            Some(Kind::Finish(it)) => format!("finish {}", text(&it.primary)),
            Some(Kind::FirmUp(it)) => format!("firm_up {}", text(&it.start)),
            Some(Kind::CommitSpan(it)) => format!("commit_span {}", text(&it.start)),
            None => "nothing".to_owned(),
        },
        _ => "another request".to_owned(),
    }
}

/// An answer in a few words.
pub(super) fn outcome(answer: &Answer) -> String {
    let state = |state: &wire::TransactionState| match &state.state {
        Some(State::Committed(version)) => format!("committed {}", short(*version)),
        Some(State::RolledBack(_)) => "rolled back".to_owned(),
        Some(State::Intent(intent)) => {
            format!("there, not below {}", short(intent.least_commit_version))
        }
        Some(State::Absent(_)) | None => "absent".to_owned(),
    };
    match answer {
        Answer::Get(get) => {
            let value = |value: &wire::NodeValue| {
                format!("{} @{}", String::from_utf8_lossy(&value.value), short(value.version))
            };
            get.values.iter().map(value).collect::<Vec<_>>().join(", ")
        }
        Answer::Action(result) => {
            let states = result.state.iter().chain(&result.states).map(state);
            let mut words: Vec<String> = states.collect();
            if result.version != 0 {
                words.push(format!("@{}", short(result.version)));
            }
            if words.is_empty() { "done".to_owned() } else { words.join(", ") }
        }
        Answer::Error(error) => match &error.kind {
            Some(Refused::KeyLocked(intent)) => {
                format!("locked by {}", short(intent.id))
            }
            Some(Refused::CommitTooEarly(early)) => format!("not below {}", short(early.least)),
            Some(Refused::Committed(it)) => format!("committed {}", short(it.version)),
            _ => error.message.clone(),
        },
        _ => "another answer".to_owned(),
    }
}

/// A timestamp as seconds since the start and a counter.
pub(super) fn short(timestamp: u64) -> String {
    let timestamp = Timestamp(timestamp);
    format!("{}.{}", timestamp.physical_ms(), timestamp.logical())
}
