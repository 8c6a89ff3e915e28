//! A replica on its Raft thread: the core, its handle, and what waits while a snapshot is installed.

use super::claims::Claim;
use super::handle::{ProposeError, ReadError, ReplicaHandle};
use super::shared::Shared;
use super::worker::{Task, WorkerSender, leadership_of};
use crate::replica::{Input, Replica, Sleep};
use crate::snapshot::{InstallDone, SendJob, StagedSnapshot};
use crate::transport::Outbound;
use raft::eraftpb::{Message, MessageType};
use rangedb_types::{MonotonicTime, NodeId, ReplicaId, Span};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Inputs that may wait while a snapshot is installed; Raft repeats what is dropped.
const HELD_MAX: usize = 1024;
/// Nodes of peers that are remembered before the descriptor names them.
const PEERS_MAX: usize = 64;

/// A snapshot between its arrival and its installation.
struct Staged {
    snapshot: StagedSnapshot,
    claim: Claim,
    done: InstallDone,
    /// Its message was stepped: the next Ready says whether it is wanted.
    stepped: bool,
}

/// One replica with its surroundings.
pub struct Hosted {
    pub core: Replica,
    pub handle: Arc<ReplicaHandle>,
    span: Arc<Span>,
    held: VecDeque<Input>,
    /// It is being removed: nothing is stepped any more, and no snapshot taken that would bring it back.
    ending: bool,
    staged: Option<Staged>,
    /// The keys of what is being installed, and whom to tell.
    installing: Option<(Claim, InstallDone)>,
    peer_nodes: HashMap<u64, NodeId>,
    /// The handle says that it sleeps.
    told_of_nap: bool,
}

impl Hosted {
    #[must_use]
    pub fn new(core: Replica, handle: Arc<ReplicaHandle>) -> Self {
        let span = Arc::new(core.descriptor().span.clone());
        Self {
            core,
            handle,
            span,
            held: VecDeque::new(),
            ending: false,
            staged: None,
            installing: None,
            peer_nodes: HashMap::new(),
            told_of_nap: false,
        }
    }

    /// Says whether it sleeps. Must come before anything is sent: who hears of the sleep relies on its not
    /// having voted.
    pub fn tell_of_nap(&mut self) {
        let nap = self.core.nap();
        if nap.is_some() || self.told_of_nap {
            self.told_of_nap = nap.is_some();
            self.handle.set_nap(nap.cloned());
        }
    }

    /// Takes an input now, or after the snapshot that is being installed.
    pub fn step(&mut self, input: Input, now: MonotonicTime) {
        if self.ending {
            Self::refuse(input);
            return;
        }
        if self.core.is_busy() {
            match input {
                input @ (Input::Propose(_)
                | Input::Read(_)
                | Input::Prove(_)
                | Input::Check { .. }
                | Input::Boundary { .. }) => Self::refuse(input),
                _ if self.held.len() >= HELD_MAX => {}
                input => self.held.push_back(input),
            }
            return;
        }
        self.core.step(input, now);
        self.step_staged(now);
    }

    /// Answers an input that this node cannot serve.
    pub fn refuse(input: Input) {
        match input {
            Input::Propose(write) => (write.reply)(Err(ProposeError::NotLeader)),
            Input::Check { reply, .. } | Input::Boundary { reply, .. } => {
                reply(Err(ProposeError::NotLeader));
            }
            Input::Read(reply) | Input::Prove(reply) => reply(Err(ReadError::NotLeader)),
            _ => {}
        }
    }

    /// Takes what waited for the installation.
    pub fn release_held(&mut self, now: MonotonicTime) {
        while !self.core.is_busy()
            && let Some(input) = self.held.pop_front()
        {
            self.core.step(input, now);
        }
        self.step_staged(now);
    }

    /// One tick. `is_silent` tells of nodes that were not heard from for long.
    pub fn tick(
        &mut self,
        now: MonotonicTime,
        shared: &Shared,
        is_silent: impl Fn(NodeId) -> bool,
        out: &mut Vec<Outbound>,
    ) {
        if self.core.is_busy() {
            return;
        }
        if self.handle.take_used() {
            self.core.note_use();
        }
        let is_free = self.staged.is_none() && self.held.is_empty();
        // Before the tick: a beat that left after the word of the sleep would wake the followers.
        if is_free && let Some(sleep) = self.core.fall_asleep(now, is_silent) {
            self.tell_all(Some(sleep), out);
            return;
        }
        self.core.tick(now);
        if self.core.wonders_whether_it_is_left(now) {
            self.tell_all(None, out);
        }
        for member in &self.core.descriptor().replicas.clone() {
            if self.core.is_leader() && shared.sender.is_unreachable(member.node_id) {
                self.core.step(Input::Unreachable(member.replica_id), now);
            }
        }
        let (caught_up, down) = (self.core.caught_up(), self.core.down(now));
        self.handle.publish(|published| {
            if published.caught_up != caught_up || published.down != down {
                shared.changed.notify_waiters();
                published.caught_up = caught_up;
                published.down = down;
            }
        });
    }

    /// Tells all other members that this leader has fallen asleep; or says nothing but who asks.
    fn tell_all(&self, sleep: Option<Sleep>, out: &mut Vec<Outbound>) {
        let range = self.core.descriptor();
        let others = range.replicas.iter().filter(|it| it.replica_id != self.core.replica_id);
        out.extend(others.map(|member| Outbound {
            to_node: member.node_id,
            range_id: range.range_id,
            from_replica: self.core.replica_id,
            to_replica: member.replica_id,
            epoch: range.epoch,
            span: Arc::new(range.span.clone()),
            message: None,
            removed_by: None,
            sleep,
        }));
    }

    /// Remembers which node a peer speaks from: a replica without state knows no members.
    pub fn note_peer(&mut self, replica_id: ReplicaId, node_id: NodeId) {
        if self.peer_nodes.len() < PEERS_MAX {
            self.peer_nodes.insert(replica_id.get(), node_id);
        }
    }

    /// Makes the state visible to the services.
    pub fn publish(&mut self, shared: &Shared) {
        let core = &self.core;
        let leader = core.leader_id().and_then(|id| core.descriptor().replica(id).copied());
        let (is_leader, term) = (core.is_leader(), core.term());
        let leadership = leadership_of(core);
        let mut changed = false;
        self.handle.publish(|published| {
            changed = published.leader != leader
                || published.is_leader != is_leader
                || published.leadership != leadership;
            if published.is_leader != is_leader || (is_leader && published.term != term) {
                tracing::info!(
                    range_id = %core.descriptor().range_id,
                    replica_id = %core.replica_id,
                    term,
                    "{}", if is_leader { "became leader" } else { "leads no more" }
                );
            }
            published.leader = leader;
            published.is_leader = is_leader;
            published.term = term;
            published.last_index = core.last_index();
            published.leadership = leadership;
            published.lease = core.lease();
            published.slowest_match = core.slowest_match();
        });
        if changed {
            shared.changed.notify_waiters();
        }
    }

    /// Addresses messages to nodes; snapshots go to the snapshot workers.
    pub fn send(
        &mut self,
        messages: Vec<Message>,
        shared: &Arc<Shared>,
        sender: &WorkerSender,
        out: &mut Vec<Outbound>,
    ) {
        // The bounds that leave are those of the epoch they leave with.
        if *self.span != self.core.descriptor().span {
            self.span = Arc::new(self.core.descriptor().span.clone());
        }
        for message in messages {
            let to_replica = ReplicaId(message.to);
            let descriptor = self.core.descriptor();
            let node = descriptor.replica(to_replica).map(|member| member.node_id);
            let Some(to_node) = node.or_else(|| self.peer_nodes.get(&message.to).copied()) else {
                continue;
            };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(message, to_node, shared, sender);
                continue;
            }
            out.push(Outbound {
                to_node,
                range_id: descriptor.range_id,
                from_replica: self.core.replica_id,
                to_replica,
                epoch: descriptor.epoch,
                span: Arc::clone(&self.span),
                message: Some(message),
                removed_by: None,
                sleep: None,
            });
        }
    }

    fn send_snapshot(
        &mut self,
        message: Message,
        to_node: NodeId,
        shared: &Arc<Shared>,
        sender: &WorkerSender,
    ) {
        let range_id = self.core.descriptor().range_id;
        let to = ReplicaId(message.to);
        let index = message.get_snapshot().get_metadata().index;
        let sender = sender.clone();
        let done = move |installed| {
            sender.send(Task::SnapshotSent { range_id, to, installed });
        };
        let Some(snapshot) = self.core.take_snapshot(index) else {
            done(false);
            return;
        };
        self.core.note_snapshot_out(to, index);
        let job = SendJob {
            to_node,
            to_replica: to,
            from_replica: self.core.replica_id,
            descriptor: snapshot.descriptor,
            position: snapshot.position,
            data: snapshot.data,
            message,
        };
        tracing::info!(%range_id, to_replica = %to, %to_node, index, "sending a snapshot");
        shared.snapshots.send(job, Box::new(done));
    }

    /// A verified snapshot arrived. It is stepped once all that was committed here is applied.
    pub fn take_staged(
        &mut self,
        snapshot: StagedSnapshot,
        claim: Claim,
        done: InstallDone,
        shared: &Shared,
        now: MonotonicTime,
    ) {
        if self.ending || self.staged.is_some() || self.core.is_busy() {
            shared.snapshots.discard(snapshot);
            done(Err("another snapshot of this range is being installed".to_owned()));
            return;
        }
        self.staged = Some(Staged { snapshot, claim, done, stepped: false });
        self.step_staged(now);
    }

    fn step_staged(&mut self, now: MonotonicTime) {
        if self.ending || self.core.is_busy() || !self.core.is_all_applied() {
            return;
        }
        if let Some(staged) = &mut self.staged
            && !staged.stepped
        {
            staged.stepped = true;
            self.core.step(Input::Message(staged.snapshot.message.clone()), now);
        }
    }

    /// Raft did not want the snapshot whose message was stepped: it is behind what is here.
    pub fn discard_staged(&mut self, shared: &Shared) {
        if self.staged.as_ref().is_some_and(|staged| staged.stepped)
            && let Some(staged) = self.staged.take()
        {
            shared.snapshots.discard(staged.snapshot);
            (staged.done)(Err("the replica is not behind this snapshot".to_owned()));
        }
    }

    /// Raft wants the snapshot: install it, off this thread.
    pub fn install(&mut self, shared: &Shared, sender: &WorkerSender) {
        let staged = self.staged.take().expect("raft only asks for a snapshot that was stepped");
        let range_id = staged.snapshot.descriptor.range_id;
        self.installing = Some((staged.claim, staged.done));
        let sender = sender.clone();
        let done = Box::new(move |result| {
            sender.send(Task::Installed { range_id, result });
        });
        shared.snapshots.install(staged.snapshot, done);
    }

    /// What was being installed, once it is.
    pub fn take_installing(&mut self) -> Option<(Claim, InstallDone)> {
        self.installing.take()
    }

    /// True from the moment at which Raft was shown a snapshot.
    pub fn is_installing(&self) -> bool {
        self.core.is_busy() || self.staged.as_ref().is_some_and(|staged| staged.stepped)
    }

    /// Its removal begins.
    pub fn end(&mut self) {
        self.ending = true;
        self.stop();
    }

    pub fn stop(&mut self) {
        self.core.stop();
        for input in self.held.drain(..) {
            Self::refuse(input);
        }
    }
}
