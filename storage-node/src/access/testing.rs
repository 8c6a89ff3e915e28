//! A node with one range whose consensus is a queue that the test opens and closes, over a real
//! engine and a counter for an oracle.

use super::{RangeAccess, RangeStates, Ranges, Refusal, Timestamps};
use crate::deadlock::Reporter;
use crate::read::{ReadPool, Reader};
use crate::service::DataPlane;
use crate::store::{Leadership, ProposeError, ReadError};
use crate::txn::Actor;
use crate::write::Writer;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rangedb_engine::{Durability, Engine, EngineKind, EngineSettings, Family, WriteBatch};
use rangedb_proto::internal::v1::WriteCommand;
use rangedb_types::{
    Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span, Timestamp,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const RANGE: RangeId = RangeId(1);
pub const EPOCH: Epoch = Epoch { version: 3, conf_version: 5 };
/// Where the oracle of the tests begins: late enough that "ten minutes ago" exists.
pub const BEGINNING: Timestamp = Timestamp::new(10_000_000, 0);

type Reply = oneshot::Sender<Result<(), ProposeError>>;

struct Consensus {
    leadership: Option<Leadership>,
    /// Nobody is known to lead.
    leaderless: bool,
    /// While closed, proposals wait in `held`.
    closed: bool,
    held: Vec<(WriteCommand, Reply)>,
    descriptor: Arc<RangeDescriptor>,
}

/// A replica that leads unless told otherwise.
pub struct FakeRange {
    engine: Arc<dyn Engine>,
    consensus: Mutex<Consensus>,
    leased: AtomicBool,
    confirms: AtomicBool,
    generation: AtomicU64,
    intent_generation: AtomicU64,
    largest_commit: AtomicU64,
    pub read_index_rounds: AtomicUsize,
    pub proposals: AtomicUsize,
    /// Notified at every proposal.
    pub proposed: Notify,
}

impl FakeRange {
    fn new(engine: Arc<dyn Engine>) -> Self {
        let replicas = [(11, 1), (12, 2)].map(|(replica_id, node_id)| Replica {
            replica_id: ReplicaId(replica_id),
            node_id: NodeId(node_id),
            role: ReplicaRole::Voter,
        });
        let descriptor = RangeDescriptor {
            range_id: RANGE,
            span: Span { start: b"b".to_vec(), end: b"y".to_vec() },
            epoch: EPOCH,
            replicas: replicas.to_vec(),
        };
        let consensus = Consensus {
            leadership: Some(Leadership { term: 7, epoch: EPOCH }),
            leaderless: false,
            closed: false,
            held: Vec::new(),
            descriptor: Arc::new(descriptor),
        };
        Self {
            engine,
            consensus: Mutex::new(consensus),
            leased: AtomicBool::new(true),
            confirms: AtomicBool::new(true),
            generation: AtomicU64::new(0),
            intent_generation: AtomicU64::new(0),
            largest_commit: AtomicU64::new(0),
            read_index_rounds: AtomicUsize::new(0),
            proposals: AtomicUsize::new(0),
            proposed: Notify::new(),
        }
    }

    pub fn set_leased(&self, leased: bool) {
        self.leased.store(leased, Ordering::SeqCst);
    }

    /// Whether ReadIndex rounds succeed.
    pub fn set_confirms(&self, confirms: bool) {
        self.confirms.store(confirms, Ordering::SeqCst);
    }

    /// From now on proposals wait.
    pub fn close(&self) {
        self.consensus.lock().closed = true;
    }

    /// Applies what waited, and everything from now on.
    pub fn open(&self) {
        let held = {
            let mut consensus = self.consensus.lock();
            consensus.closed = false;
            std::mem::take(&mut consensus.held)
        };
        for (write, reply) in held {
            self.apply(&write);
            let _ = reply.send(Ok(()));
        }
    }

    /// A new term of the same leader; what waited is lost, and nobody can know it here.
    pub fn next_term(&self) {
        let mut consensus = self.consensus.lock();
        let term = consensus.leadership.map_or(7, |leadership| leadership.term) + 1;
        consensus.leadership = Some(Leadership { term, epoch: EPOCH });
        consensus.leaderless = false;
        for (_, reply) in consensus.held.drain(..) {
            let _ = reply.send(Err(ProposeError::OutcomeUnknown));
        }
    }

    /// An election has begun.
    pub fn elect_nobody(&self) {
        self.step_down();
        self.consensus.lock().leaderless = true;
    }

    pub fn step_down(&self) {
        self.consensus.lock().leadership = None;
        self.set_leased(false);
    }

    fn apply(&self, write: &WriteCommand) {
        let mut batch = WriteBatch::new();
        let (mut special, mut intents) = (false, false);
        for mutation in &write.mutations {
            let family = Family::from_number(mutation.family).expect("a family");
            intents |= family == Family::Lock && mutation.value.is_some();
            special |= matches!(family, Family::Meta | Family::RangeTombstone);
            match &mutation.value {
                Some(value) => batch.put(family, &mutation.key, value),
                None => batch.delete(family, &mutation.key),
            }
        }
        let bump = || {
            if special {
                self.generation.fetch_add(1, Ordering::SeqCst);
            }
            if intents {
                self.intent_generation.fetch_add(1, Ordering::SeqCst);
            }
        };
        bump();
        self.engine.write(&batch, Durability::Buffered).expect("the engine writes");
        self.largest_commit.fetch_max(write.commit_version, Ordering::SeqCst);
        bump();
    }
}

impl RangeAccess for FakeRange {
    fn range_id(&self) -> RangeId {
        RANGE
    }

    fn replica_id(&self) -> ReplicaId {
        ReplicaId(11)
    }

    fn descriptor(&self) -> Arc<RangeDescriptor> {
        Arc::clone(&self.consensus.lock().descriptor)
    }

    fn leader(&self) -> Option<Replica> {
        let consensus = self.consensus.lock();
        let at = usize::from(consensus.leadership.is_none());
        consensus.descriptor.replicas.get(at).copied().filter(|_| !consensus.leaderless)
    }

    fn leadership(&self) -> Option<Leadership> {
        self.consensus.lock().leadership
    }

    fn lease_holds(&self, term: u64) -> bool {
        self.leased.load(Ordering::SeqCst)
            && self.leadership().is_some_and(|leadership| leadership.term == term)
    }

    fn read_index(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.read_index_rounds.fetch_add(1, Ordering::SeqCst);
        let confirms = self.confirms.load(Ordering::SeqCst) && self.leadership().is_some();
        async move { if confirms { Ok(()) } else { Err(ReadError::NotLeader) } }.boxed()
    }

    fn propose(
        &self,
        leadership: Leadership,
        write: WriteCommand,
    ) -> BoxFuture<'static, Result<(), ProposeError>> {
        self.proposals.fetch_add(1, Ordering::SeqCst);
        let (reply, outcome) = oneshot::channel();
        let mut consensus = self.consensus.lock();
        if consensus.leadership.is_none_or(|now| now.term != leadership.term) {
            let _ = reply.send(Err(ProposeError::NotLeader));
        } else if consensus.closed {
            consensus.held.push((write, reply));
        } else {
            self.apply(&write);
            let _ = reply.send(Ok(()));
        }
        drop(consensus);
        self.proposed.notify_waiters();
        async move { outcome.await.unwrap_or(Err(ProposeError::OutcomeUnknown)) }.boxed()
    }

    fn applied_index(&self) -> u64 {
        0
    }

    fn closed_at(&self, _: u64) -> Timestamp {
        Timestamp::ZERO
    }

    fn largest_commit(&self) -> Timestamp {
        Timestamp(self.largest_commit.load(Ordering::SeqCst))
    }

    fn special_generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn intent_generation(&self) -> u64 {
        self.intent_generation.load(Ordering::SeqCst)
    }
}

struct OneRange(Arc<FakeRange>);

impl Ranges for OneRange {
    fn range(&self, range_id: RangeId) -> Option<Arc<dyn RangeAccess>> {
        (range_id == RANGE).then(|| Arc::clone(&self.0) as Arc<dyn RangeAccess>)
    }

    fn overlapping(&self, span: &Span) -> Vec<RangeDescriptor> {
        let descriptor = self.0.descriptor();
        if descriptor.span.overlaps(span) { vec![(*descriptor).clone()] } else { Vec::new() }
    }
}

/// Counts.
pub struct FakeOracle {
    last: AtomicU64,
    away: AtomicBool,
    /// While set, the next timestamps are those put here, last first.
    pub next: Mutex<Vec<Timestamp>>,
}

impl FakeOracle {
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn jump_to(&self, at: Timestamp) {
        self.last.fetch_max(at.0, Ordering::SeqCst);
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.last.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Timestamps for FakeOracle {
    fn get(&self, deadline: Instant) -> BoxFuture<'_, Result<Timestamp, Refusal>> {
        async move {
            if self.away.load(Ordering::SeqCst) {
                // tidy: an oracle that is away answers nobody before the deadline.
                tokio::time::sleep_until(deadline).await;
                return Err(Refusal::NoTimestamp("away".to_owned()));
            }
            let planned = self.next.lock().pop();
            Ok(planned.unwrap_or_else(|| self.now()))
        }
        .boxed()
    }

    fn latest_seen(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::SeqCst))
    }
}

/// Everything between the wire and consensus.
pub struct TestNode {
    pub range: Arc<FakeRange>,
    pub oracle: Arc<FakeOracle>,
    pub ranges: Arc<dyn Ranges>,
    pub states: Arc<RangeStates>,
    pub reader: Arc<Reader>,
    pub writer: Arc<Writer>,
    pub actor: Arc<Actor>,
    pub plane: Arc<DataPlane>,
    _dir: tempfile::TempDir,
}

impl TestNode {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let engine = rangedb_engine::open(
            EngineKind::RocksDb,
            &dir.path().join("data"),
            &EngineSettings::default(),
        )
        .expect("an engine");
        let range = Arc::new(FakeRange::new(Arc::clone(&engine)));
        let oracle = Arc::new(FakeOracle {
            last: AtomicU64::new(BEGINNING.0),
            away: AtomicBool::new(false),
            next: Mutex::default(),
        });
        let ranges: Arc<dyn Ranges> = Arc::new(OneRange(Arc::clone(&range)));
        let states = Arc::new(RangeStates::default());
        let pool = Arc::new(ReadPool::start(2).expect("threads"));
        let timestamps = Arc::clone(&oracle) as Arc<dyn Timestamps>;
        let tasks = TaskTracker::new();
        let reader = Reader::new(engine, pool, Arc::clone(&timestamps), tasks.clone());
        let writer = Writer::new(Arc::clone(&reader), Arc::clone(&timestamps));
        let actor = Actor::new(Arc::clone(&reader), timestamps, Arc::new(Reporter::default()));
        let plane = DataPlane::new(
            Arc::clone(&ranges),
            Arc::clone(&states),
            Arc::clone(&reader),
            Arc::clone(&writer),
            Arc::clone(&actor),
            tasks,
            CancellationToken::new(),
        );
        Self { range, oracle, ranges, states, reader, writer, actor, plane, _dir: dir }
    }

    /// The state that requests keep of the range.
    pub fn state(&self) -> Arc<super::RangeState> {
        self.states.of(RANGE, ReplicaId(11))
    }
}

/// Waits until `done`, for at most ten seconds.
pub async fn until(what: &str, done: impl Fn() -> bool) {
    let limit = Instant::now() + std::time::Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < limit, "waited too long until {what}");
        tokio::task::yield_now().await;
    }
}
