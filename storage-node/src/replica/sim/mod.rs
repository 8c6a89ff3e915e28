//! Replicas of one range driven in one thread, over a network and disks that fail on command; and, in
//! `many`, whole nodes with many ranges, looked at by `invariants`.
//!
//! Time is counted in ticks, randomness comes from a seed: a run is replayed exactly by its seed.

mod disk;
mod guards;
mod invariants;
mod many;
mod random;
mod sleep;

use self::disk::SimDisk;
use super::apply::{Applier, Outcome};
use super::log_storage::{LogStorage, SnapshotData, SnapshotSource};
use super::membership::conf_state;
use super::proposals::Write;
use super::{INITIAL_POSITION, Input, Replica, ReplicaOptions};
use crate::raft_log::{LogPosition, LogState, LogWrite, RaftLog};
use crate::store::StoreSettings;
use crate::store::handle::ProposeError;
use parking_lot::Mutex;
use raft::eraftpb::{HardState, Message, MessageType};
use rangedb_engine::WriteBatch;
use rangedb_proto::internal::v1::{Mutation, WriteCommand};
use rangedb_types::{
    Epoch, MonotonicTime, NodeId, RangeDescriptor, RangeId, Replica as Member, ReplicaId,
    ReplicaRole, Span, Timestamp,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Snapshots are tested with real engines elsewhere; here a log is never cut.
struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn take(&self) -> Result<Option<SnapshotData>, String> {
        Err("no snapshots in this simulation".to_owned())
    }
}

/// One simulated node: a replica, its disk, and what it applied.
struct SimNode {
    disk: Arc<SimDisk>,
    replica: Option<Replica>,
    applier: Applier,
    /// Values of applied writes, in log order.
    applied: Vec<u64>,
}

type Answers = Arc<Mutex<Vec<(u64, Result<(), ProposeError>)>>>;

/// One range on several simulated nodes.
struct Cluster {
    nodes: BTreeMap<u64, SimNode>,
    network: Vec<Message>,
    now: MonotonicTime,
    answers: Answers,
    logger: slog::Logger,
}

fn options() -> ReplicaOptions {
    StoreSettings::default().replica
}

fn member(id: u64, role: ReplicaRole) -> Member {
    Member { replica_id: ReplicaId(id), node_id: NodeId(id), role }
}

fn write_of(value: u64) -> WriteCommand {
    let mutation = Mutation {
        family: 3,
        key: vec![b'k'; 9].into(),
        value: Some(value.to_be_bytes().to_vec().into()),
    };
    WriteCommand { mutations: vec![mutation], commit_version: value, freed_bytes: 0 }
}

impl Cluster {
    fn new(members: &[Member]) -> Self {
        let descriptor = Arc::new(RangeDescriptor {
            range_id: RangeId(1),
            span: Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas: members.to_vec(),
        });
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            network: Vec::new(),
            now: MonotonicTime(Duration::from_secs(100)),
            answers: Answers::default(),
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        for member in members {
            let id = member.replica_id.get();
            let applier = Applier {
                replica_id: member.replica_id,
                descriptor: Arc::clone(&descriptor),
                applied: INITIAL_POSITION,
                largest_commit: Timestamp::ZERO,
                frozen: None,
                freed_bytes: 0,
                intents_placed: 0,
            };
            let disk = Arc::new(SimDisk::new(initial_log()));
            let node = SimNode { disk, replica: None, applier, applied: Vec::new() };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        cluster
    }

    fn voters(count: u64) -> Self {
        let members: Vec<_> = (1..=count).map(|id| member(id, ReplicaRole::Voter)).collect();
        Self::new(&members)
    }

    /// Starts a node from what its disk holds.
    fn start(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let mut state =
            node.disk.load(ReplicaId(id)).expect("the disk reads").expect("made at first");
        state.hard_state.commit = state.hard_state.commit.max(node.applier.applied.index);
        let members = conf_state(&node.applier.descriptor.replicas);
        let log: Arc<dyn RaftLog> = Arc::clone(&node.disk) as Arc<dyn RaftLog>;
        let storage = LogStorage::new(ReplicaId(id), log, Box::new(NoSnapshots), state, members);
        let replica = Replica::new(
            ReplicaId(id),
            Arc::clone(&node.applier.descriptor),
            storage.expect("the log reads"),
            node.applier.applied,
            options(),
            &self.logger,
            self.now,
        );
        node.replica = Some(replica.expect("raft starts"));
    }

    /// The process dies; what was not synced may be lost. Applied state is kept: it is on another
    /// disk, and was in the log durably before it was applied.
    fn crash(&mut self, id: u64, lose_unsynced: bool) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        node.replica = None;
        if lose_unsynced {
            node.disk.crash();
        }
    }

    fn replica(&mut self, id: u64) -> &mut Replica {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        node.replica.as_mut().expect("the node runs")
    }

    fn leader(&self) -> Option<u64> {
        let running = self.nodes.iter().filter_map(|(id, node)| Some((id, node.replica.as_ref()?)));
        running
            .filter(|(_, replica)| replica.leadership_established())
            .max_by_key(|(_, replica)| replica.term())
            .map(|(id, _)| *id)
    }

    fn step(&mut self, id: u64, input: Input) {
        let now = self.now;
        self.replica(id).step(input, now);
    }

    fn propose(&mut self, id: u64, value: u64) {
        let answers = Arc::clone(&self.answers);
        let term = self.replica(id).term();
        let write = Write {
            term,
            epoch_version: 1,
            command: write_of(value),
            size_bytes: 32,
            reply: Box::new(move |result| answers.lock().push((value, result))),
        };
        self.step(id, Input::Propose(write));
    }

    /// Does what is ready on one node until nothing is.
    fn work(&mut self, id: u64) {
        let now = self.now;
        for _ in 0..1000 {
            let node = self.nodes.get_mut(&id).expect("a node of the cluster");
            let Some(replica) = node.replica.as_mut() else { return };
            let Some(effects) = replica.ready(now) else { return };
            self.network.extend(effects.send_now);
            let mut apply = effects.apply;
            node.disk
                .write(LogWrite { changes: effects.log }, effects.must_sync)
                .expect("the disk writes");
            let persisted = replica.persisted();
            for message in &persisted.send {
                let acknowledges = message.get_msg_type() == MessageType::MsgAppendResponse;
                if acknowledges && !message.reject {
                    let durable = node.disk.synced_last_index();
                    assert!(
                        message.index <= durable,
                        "{} is acknowledged, {durable} synced",
                        message.index
                    );
                }
            }
            self.network.extend(persisted.send);
            apply.extend(persisted.apply);
            Self::apply(node, apply, now);
        }
        panic!("replica {id} never comes to rest");
    }

    fn apply(node: &mut SimNode, entries: Vec<super::apply::CommittedEntry>, now: MonotonicTime) {
        if entries.is_empty() {
            return;
        }
        let mut changes = Vec::new();
        for committed in entries {
            let mut batch = WriteBatch::new();
            let applied = node.applier.apply(&committed.entry, &mut batch);
            let (outcome, result) = applied.expect("entries can be read");
            if let Outcome::ConfChanged(change) | Outcome::Removed(change) = outcome {
                changes.push(change);
            }
            for operation in batch.iter() {
                if let rangedb_engine::BatchOp::Put { value, .. } = operation {
                    node.applied.push(u64::from_be_bytes(value.try_into().expect("eight bytes")));
                }
            }
            for reply in committed.replies {
                reply(result.clone());
            }
        }
        let (position, descriptor) = (node.applier.applied, Arc::clone(&node.applier.descriptor));
        if let Some(replica) = node.replica.as_mut() {
            let frozen = node.applier.frozen.is_some();
            replica.step(Input::Applied { position, descriptor, changes, frozen }, now);
        }
    }

    fn work_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.work(id);
        }
    }

    fn deliver(&mut self, message: Message) {
        let now = self.now;
        let node = self.nodes.get_mut(&message.to);
        if let Some(replica) = node.and_then(|node| node.replica.as_mut()) {
            replica.step(Input::Message(message), now);
        }
    }

    /// Delivers messages until none is under way.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.work_all();
            if self.network.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
            }
        }
        panic!("messages never end");
    }

    fn tick(&mut self) {
        self.now = self.now + options().tick;
        let now = self.now;
        for node in self.nodes.values_mut() {
            if let Some(replica) = node.replica.as_mut() {
                replica.tick(now);
            }
        }
    }

    /// Lets time pass on a good network until somebody leads.
    fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.tick();
            self.settle();
            if let Some(id) = self.leader() {
                return id;
            }
        }
        panic!("nobody leads after 200 ticks");
    }

    /// Every node's applied writes are a prefix of the longest.
    fn assert_same_history(&self) {
        let longest =
            self.nodes.values().map(|node| &node.applied).max_by_key(|applied| applied.len());
        let longest = longest.expect("there are nodes");
        for (id, node) in &self.nodes {
            assert_eq!(node.applied[..], longest[..node.applied.len()], "replica {id} went astray");
        }
    }
}

fn initial_log() -> LogState {
    let LogPosition { index, term } = INITIAL_POSITION;
    let hard_state = HardState { term, commit: index, ..HardState::default() };
    LogState { hard_state, truncated: INITIAL_POSITION, last_index: INITIAL_POSITION.index }
}
