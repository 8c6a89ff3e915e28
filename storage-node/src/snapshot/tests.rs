//! Snapshots between two engines, and crashes at every step of an installation.

use super::chunk::{ChunkRef, Totals, read_range};
use super::install::{self, Step};
use super::stage::Staging;
use super::{
    InstallDone, SendJob, SnapshotInbox, SnapshotOptions, SnapshotReceiver, SnapshotSettings,
    SnapshotWorker, Snapshots, StagedSnapshot, finish_recovery, recover,
};
use crate::raft_log::LogPosition;
use crate::transport::{
    AddressBook, Identity, Inbound, RaftReceiver, hello, raft_transport_service,
};
use futures::stream;
use parking_lot::Mutex;
use raft::eraftpb::{Message, MessageType};
use rangedb_engine::{Durability, Engine, EngineKind, EngineSettings, Family, WriteBatch};
use rangedb_mvcc::fence::fence;
use rangedb_mvcc::key::versioned_key;
use rangedb_mvcc::state::{AppliedState, InstallIntent, RangeRecord, RangeState, ReplicaTombstone};
use rangedb_mvcc::{Mutation, checksum};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::raft_transport_client::RaftTransportClient;
use rangedb_proto::internal::v1::snapshot_part::Part;
use rangedb_service::grpc;
use rangedb_service::settings::{Bytes, Period};
use rangedb_types::{
    ClusterId, Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, RequestId,
    Span, Timestamp,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

mod resume;

const LIMIT: Duration = Duration::from_secs(30);
const RANGE: RangeId = RangeId(5);
const FROM: ReplicaId = ReplicaId(11);
const TO: ReplicaId = ReplicaId(22);
const POSITION: LogPosition = LogPosition { index: 70, term: 4 };
const NEWEST: Timestamp = Timestamp(5000);

fn descriptor() -> RangeDescriptor {
    let replica = |replica_id, node, role| Replica { replica_id, node_id: NodeId(node), role };
    RangeDescriptor {
        range_id: RANGE,
        span: Span { start: b"b".to_vec(), end: b"m".to_vec() },
        epoch: Epoch { version: 2, conf_version: 3 },
        replicas: vec![replica(FROM, 1, ReplicaRole::Voter), replica(TO, 2, ReplicaRole::Learner)],
    }
}

fn engine(path: &Path) -> Arc<dyn Engine> {
    let settings = EngineSettings { block_cache_bytes: 8 << 20, ..EngineSettings::default() };
    rangedb_engine::open(EngineKind::RocksDb, path, &settings).expect("opens")
}

fn apply(engine: &dyn Engine, mutations: impl IntoIterator<Item = Mutation>) {
    let mut batch = WriteBatch::new();
    for mutation in mutations {
        match &mutation.value {
            Some(value) => batch.put(mutation.family, &mutation.key, value),
            None => batch.delete(mutation.family, &mutation.key),
        }
    }
    engine.write(&batch, Durability::Synced).expect("written");
}

/// A range with something in every family, with neighbours that must not travel.
fn fill(engine: &dyn Engine) {
    let put = |family, key: &[u8], version: u64, size: usize| {
        Mutation::put(family, versioned_key(key, Timestamp(version)), vec![version as u8; size])
    };
    apply(
        engine,
        (0..3000u64).flat_map(|number| {
            let key = format!("key-{:06}", number).into_bytes();
            [
                put(Family::Data, &key, 1000 + number % 1000, 400),
                put(Family::Write, &key, 2000 + number % 1000, 40),
            ]
        }),
    );
    apply(
        engine,
        [
            put(Family::Data, b"large", 7, 3 << 20),
            put(Family::RangeTombstone, b"c", NEWEST.0, 10),
            put(Family::Write, b"a", 9999, 10),
            put(Family::Write, b"m", 9999, 10),
            fence(RANGE, RequestId(77), NEWEST),
            fence(RangeId(6), RequestId(78), NEWEST),
        ],
    );
}

fn sum(engine: &dyn Engine) -> rangedb_mvcc::RangeChecksum {
    checksum(engine.snapshot().as_ref(), &descriptor()).expect("readable")
}

fn message() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (FROM.0, TO.0, 9);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (POSITION.index, POSITION.term);
    message
}

fn job(engine: &dyn Engine) -> SendJob {
    SendJob {
        to_node: NodeId(2),
        to_replica: TO,
        from_replica: FROM,
        descriptor: Arc::new(descriptor()),
        position: POSITION,
        data: engine.snapshot(),
        message: message(),
    }
}

fn identity(node: u64) -> Identity {
    Identity { cluster_id: ClusterId(1), node_id: NodeId(node) }
}

fn settings() -> SnapshotSettings {
    SnapshotSettings { disk_reserve: Bytes(0), ..SnapshotSettings::default() }
}

// ---- installing

/// Stages everything an engine holds of the range.
fn stage(engine: &dyn Engine, path: PathBuf) -> StagedSnapshot {
    let mut staging = Staging::begin(path, &descriptor()).expect("a folder");
    let totals = read_range(engine.snapshot().as_ref(), &descriptor(), |chunk| {
        staging.add(&ChunkRef::from(&chunk)).expect("valid");
        true
    });
    StagedSnapshot {
        from_node: NodeId(1),
        to_replica: TO,
        from_replica: FROM,
        descriptor: descriptor(),
        position: POSITION,
        message: message(),
        path: staging.finish(totals.expect("read")).expect("whole").keep(),
    }
}

fn assert_installed(engine: &dyn Engine, source: &dyn Engine) {
    assert_eq!(sum(engine), sum(source));
    let data = engine.snapshot();
    let state = RangeState::load(data.as_ref(), RANGE).expect("readable");
    assert_eq!(state, Some(RangeState { replica_id: TO, descriptor: descriptor() }));
    let applied = AppliedState::load(data.as_ref(), RANGE).expect("readable");
    let LogPosition { index, term } = POSITION;
    assert_eq!(applied, Some(AppliedState { index, term, max_version: NEWEST }));
    assert!(engine.get(Family::Lock, b"outside").expect("readable").is_some());
}

/// What the replica held before: other keys, an older state, and something of another range.
fn old_state(engine: &dyn Engine) {
    let mut batch = WriteBatch::new();
    batch.put(Family::Write, &versioned_key(b"old", Timestamp(3)), b"old");
    batch.put(Family::Data, &versioned_key(b"key-000001", Timestamp(3)), b"old");
    batch.put(Family::Lock, b"outside", b"stays");
    RangeState { replica_id: TO, descriptor: descriptor() }.put(&mut batch, RANGE);
    AppliedState { index: 12, term: 1, max_version: Timestamp(3) }.put(&mut batch, RANGE);
    engine.write(&batch, Durability::Synced).expect("written");
}

#[test]
fn a_crash_at_any_step_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = engine(&dir.path().join("source"));
    fill(source.as_ref());
    for (number, step) in
        [Step::Intended, Step::Cleared, Step::Loaded, Step::StateWritten].into_iter().enumerate()
    {
        let home = dir.path().join(format!("target-{number}"));
        let staged_dir = home.join("snapshots");
        std::fs::create_dir_all(&home).expect("a folder");
        let target = engine(&home.join("data"));
        old_state(target.as_ref());
        let staged = stage(source.as_ref(), staged_dir.join("22-70-1"));
        let intent = super::worker::intent_of(&staged).expect("a name");
        std::fs::create_dir_all(staged_dir.join("leftover")).expect("a folder");
        let crashed = install::install(target.as_ref(), &staged.path, &intent, &mut |done| {
            if done == step { Err("crash".to_owned()) } else { Ok(()) }
        });
        assert_eq!(crashed, Err("crash".to_owned()));
        target.close().expect("closed");
        drop(target);

        let target = engine(&home.join("data"));
        let installed = recover(target.as_ref(), &staged_dir).expect("recovers");
        assert_eq!(installed, HashMap::from([(RANGE, POSITION)]), "{step:?}");
        assert_installed(target.as_ref(), source.as_ref());
        assert_eq!(std::fs::read_dir(&staged_dir).expect("listed").count(), 0);
        // The log may not be cut yet: the next start says it again, until it is told to finish.
        let again = recover(target.as_ref(), &staged_dir).expect("recovers");
        assert_eq!(again, installed, "{step:?}");
        finish_recovery(target.as_ref(), installed.into_keys()).expect("written");
        assert!(recover(target.as_ref(), &staged_dir).expect("recovers").is_empty());
        assert_installed(target.as_ref(), source.as_ref());
    }
}

#[test]
fn a_broken_folder_is_dropped_before_and_fatal_after_the_data_was_cleared() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = engine(&dir.path().join("source"));
    fill(source.as_ref());
    let staged_dir = dir.path().join("snapshots");
    let target = engine(&dir.path().join("target"));
    let crash_at = |step: Step| {
        old_state(target.as_ref());
        let staged = stage(source.as_ref(), staged_dir.join("22-70-1"));
        let intent = super::worker::intent_of(&staged).expect("a name");
        install::install(target.as_ref(), &staged.path, &intent, &mut |done| {
            if done == step { Err("crash".to_owned()) } else { Ok(()) }
        })
        .expect_err("crashes");
        let chunks = staged.path.join("chunks");
        let mut bytes = std::fs::read(&chunks).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&chunks, bytes).expect("written");
    };
    crash_at(Step::Intended);
    let before = sum(target.as_ref());
    assert!(recover(target.as_ref(), &staged_dir).expect("recovers").is_empty());
    assert_eq!(sum(target.as_ref()), before);
    crash_at(Step::Cleared);
    let error = recover(target.as_ref(), &staged_dir).expect_err("must not start");
    assert!(error.to_string().contains("damaged"), "{error}");
    // Unless the replica was removed meanwhile.
    let mut batch = WriteBatch::new();
    ReplicaTombstone { replica_id: TO }.put(&mut batch, RANGE);
    target.write(&batch, Durability::Synced).expect("written");
    assert!(recover(target.as_ref(), &staged_dir).expect("recovers").is_empty());
    let intent = InstallIntent::load(target.snapshot().as_ref(), RANGE).expect("readable");
    assert_eq!(intent, None);
}

#[test]
fn chunks_that_are_not_what_they_say_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = engine(&dir.path().join("source"));
    fill(source.as_ref());
    let mut chunks = Vec::new();
    let totals = read_range(source.snapshot().as_ref(), &descriptor(), |chunk| {
        chunks.push(chunk);
        true
    })
    .expect("read");
    assert!(chunks.len() > 4, "{}", chunks.len());
    let attempt = |number: u32, chunks: &[wire::SnapshotChunk], totals: Totals| {
        let path = dir.path().join(format!("staged-{number}"));
        let mut staging = Staging::begin(path.clone(), &descriptor()).expect("a folder");
        let added = chunks.iter().try_for_each(|chunk| staging.add(&ChunkRef::from(chunk)));
        let result = added.and_then(|()| staging.finish(totals)).map(|whole| drop(whole.keep()));
        assert_eq!(path.exists(), result.is_ok());
        result
    };
    assert_eq!(attempt(0, &chunks, totals), Ok(()));
    let mut flipped = chunks.clone();
    let mut bytes = flipped[1].entries.to_vec();
    bytes[100] ^= 4;
    flipped[1].entries = bytes.into();
    assert!(attempt(1, &flipped, totals).unwrap_err().contains("checksum"));
    let mut missing = chunks.clone();
    missing.remove(1);
    assert!(attempt(2, &missing, totals).is_err());
    assert!(attempt(3, &chunks[..chunks.len() - 1], totals).is_err());
    let mut foreign = chunks.clone();
    foreign[0].family = Family::Meta.number();
    assert!(attempt(4, &foreign, totals).unwrap_err().contains("outside"));
    let wrong = Totals { checksum: totals.checksum ^ 1, ..totals };
    assert!(attempt(5, &chunks, wrong).is_err());
}

// ---- between two nodes

/// Stands in for the store: installs what comes, or refuses it.
struct Store {
    worker: Arc<SnapshotWorker>,
    refuse: Mutex<Option<String>>,
    hang: Mutex<Vec<InstallDone>>,
    hanging: bool,
}

impl SnapshotReceiver for Store {
    fn deliver_snapshot(&self, staged: StagedSnapshot, done: InstallDone) {
        assert_eq!((staged.to_replica, staged.position), (TO, POSITION));
        if self.hanging {
            self.hang.lock().push(done);
            return;
        }
        match self.refuse.lock().clone() {
            Some(reason) => {
                self.worker.discard(staged);
                done(Err(reason));
            }
            None => self.worker.install(staged, done),
        }
    }
}

struct NoMessages;

impl RaftReceiver for NoMessages {
    fn deliver(&self, _message: Inbound) {}

    fn opened(&self, _from: NodeId) {}

    fn heard(&self, _from: NodeId) {}
}

/// Node 1 with a full engine and node 2 with an empty one.
struct Pair {
    dir: tempfile::TempDir,
    source: Arc<dyn Engine>,
    target: Arc<dyn Engine>,
    sender: Arc<SnapshotWorker>,
    store: Arc<Store>,
    addresses: Arc<AddressBook>,
    address: String,
    cancel: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Pair {
    async fn start(settings: SnapshotSettings, hanging: bool) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let source = engine(&dir.path().join("source"));
        fill(source.as_ref());
        let target = engine(&dir.path().join("target"));
        let addresses = Arc::new(AddressBook::new());
        let worker = |node, engine: &Arc<dyn Engine>| {
            SnapshotWorker::start(SnapshotOptions {
                identity: identity(node),
                engine: Arc::clone(engine),
                addresses: Arc::clone(&addresses),
                settings: settings.clone(),
                runtime: Handle::current(),
            })
            .expect("starts")
        };
        let (sender, worker) = (worker(1, &source), worker(2, &target));
        let (refuse, hang) = (Mutex::default(), Mutex::default());
        let store = Arc::new(Store { worker, refuse, hang, hanging });
        let receiver = Arc::clone(&store) as Arc<dyn SnapshotReceiver>;
        let staged = dir.path().join("snapshots");
        let inbox = SnapshotInbox::new(identity(2), staged, settings, receiver);
        let cancel = CancellationToken::new();
        let service = raft_transport_service(
            identity(2),
            Arc::new(NoMessages),
            Arc::new(inbox),
            cancel.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        addresses.set(HashMap::from([(NodeId(2), address.clone())]));
        let serving = grpc::server_builder().add_service(service);
        let serving = grpc::serve(serving, listener, cancel.clone());
        let server = tokio::spawn(async move { serving.await.expect("serves") });
        Self { dir, source, target, sender, store, addresses, address, cancel, server }
    }

    async fn send(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let done = Box::new(move |installed| reply.send(installed).expect("the test waits"));
        self.sender.send(job(self.source.as_ref()), done);
        timeout(LIMIT, answer).await.expect("in time").expect("told")
    }

    fn staged(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("snapshots")).map_or(0, Iterator::count)
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(LIMIT, self.sender.stop()).await.expect("stops in time");
        timeout(LIMIT, self.store.worker.stop()).await.expect("stops in time");
        timeout(LIMIT, self.server).await.expect("stops in time").expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_makes_the_ranges_equal() {
    let pair = Pair::start(settings(), false).await;
    old_state(pair.target.as_ref());
    assert!(pair.send().await);
    assert_installed(pair.target.as_ref(), pair.source.as_ref());
    assert_eq!(pair.staged(), 0);
    // The intent stays until the log is cut.
    let intent = |pair: &Pair| InstallIntent::load(pair.target.snapshot().as_ref(), RANGE);
    assert!(intent(&pair).expect("readable").is_some());
    pair.store.worker.finish(RANGE);
    // Again, over what is there now; the thread has done the former by then.
    assert!(pair.send().await);
    pair.store.worker.finish(RANGE);
    let target = Arc::clone(&pair.target);
    let source = Arc::clone(&pair.source);
    pair.stop().await;
    assert_installed(target.as_ref(), source.as_ref());
    let left = InstallIntent::load(target.snapshot().as_ref(), RANGE).expect("readable");
    assert_eq!(left, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_snapshot_changes_nothing_and_the_sender_learns_it() {
    let pair = Pair::start(settings(), false).await;
    *pair.store.refuse.lock() = Some("not needed".to_owned());
    assert!(!pair.send().await);
    assert_eq!(sum(pair.target.as_ref()).entries, 0);
    let staged = pair.dir.path().join("snapshots");
    pair.store.worker.stop().await;
    assert_eq!(std::fs::read_dir(staged).expect("listed").count(), 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_is_given_up() {
    let hurried =
        SnapshotSettings { receipt_timeout: Period(Duration::from_millis(300)), ..settings() };
    let pair = Pair::start(hurried, true).await;
    assert!(!pair.send().await);
    pair.store.hang.lock().clear();
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_received_at_once_than_allowed() {
    let one = SnapshotSettings {
        receives_max: 1,
        receipt_timeout: Period(Duration::from_millis(300)),
        ..settings()
    };
    let pair = Pair::start(one, true).await;
    assert!(!pair.send().await);
    // The first one still has its place: nobody knows what became of it.
    let parts = [header(identity(1))];
    let refused = call(&pair.address, parts.to_vec()).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    pair.store.hang.lock().clear();
    pair.stop().await;
}

fn header(from: Identity) -> wire::SnapshotPart {
    let mut message = crate::transport::encode_parts(NodeId(1), RANGE, FROM, TO, Some(&message()));
    message.epoch = Some(descriptor().epoch.into());
    wire::SnapshotPart {
        part: Some(Part::Header(wire::SnapshotHeader {
            hello: Some(hello(from, NodeId(2))),
            format: super::chunk::FORMAT,
            range: Some((&descriptor()).into()),
            message: Some(message),
            transfer_id: 1,
            first_chunk: 0,
        })),
    }
}

async fn call(
    address: &str,
    parts: Vec<wire::SnapshotPart>,
) -> Result<wire::SnapshotReceipt, tonic::Status> {
    let channel = grpc::endpoint(address).expect("an address").connect().await.expect("connects");
    let answer = RaftTransportClient::new(channel).snapshot(stream::iter(parts)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_broken_and_cut_streams_are_refused() {
    let pair = Pair::start(settings(), false).await;
    let stranger = Identity { cluster_id: ClusterId(2), node_id: NodeId(1) };
    let refused = call(&pair.address, vec![header(stranger)]).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let mut chunks = Vec::new();
    read_range(pair.source.snapshot().as_ref(), &descriptor(), |chunk| {
        chunks.push(wire::SnapshotPart { part: Some(Part::Chunk(chunk)) });
        true
    })
    .expect("read");
    let mut cut = vec![header(identity(1))];
    cut.extend(chunks.iter().cloned());
    let refused = call(&pair.address, cut.clone()).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    if let Some(Part::Chunk(chunk)) = &mut cut[2].part {
        chunk.checksum ^= 1;
    }
    let refused = call(&pair.address, cut).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::Aborted);
    assert!(refused.message().contains("checksum"), "{refused}");
    assert_eq!(pair.staged(), 0);
    assert_eq!(sum(pair.target.as_ref()).entries, 0);
    pair.stop().await;
}
