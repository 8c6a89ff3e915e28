//! What leaves a simulated node: messages, snapshots, and work for its snapshot thread.

use crate::snapshot::{InstallDone, SendDone, SendJob, Snapshots, StagedSnapshot};
use crate::transport::{Inbound, Outbound, RaftSender};
use parking_lot::Mutex;
use rangedb_types::{NodeId, RangeId};
use std::collections::{BTreeSet, VecDeque};

/// A message under way.
#[derive(Clone)]
pub struct Packet {
    pub to: NodeId,
    pub inbound: Inbound,
}

/// A snapshot under way.
pub struct Transfer {
    pub from: NodeId,
    pub job: SendJob,
    pub done: SendDone,
}

/// Tells the sender of a snapshot once what became of it, also if the receiver dies.
pub struct Receipt(Option<SendDone>);

impl Receipt {
    pub fn new(done: SendDone) -> Self {
        Self(Some(done))
    }

    pub fn tell(mut self, installed: bool) {
        if let Some(done) = self.0.take() {
            done(installed);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(false);
        }
    }
}

/// Work for the snapshot thread.
pub enum Job {
    Install(StagedSnapshot, InstallDone),
    Discard(StagedSnapshot),
    Finish(RangeId),
}

/// The way out of one incarnation of a node.
pub struct Wire {
    node_id: NodeId,
    pub packets: Mutex<Vec<Packet>>,
    pub transfers: Mutex<Vec<Transfer>>,
    pub jobs: Mutex<VecDeque<Job>>,
    pub unreachable: Mutex<BTreeSet<NodeId>>,
}

impl Wire {
    pub fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            packets: Mutex::default(),
            transfers: Mutex::default(),
            jobs: Mutex::default(),
            unreachable: Mutex::default(),
        }
    }
}

impl RaftSender for Wire {
    fn send(&self, messages: Vec<Outbound>) {
        let from_node = self.node_id;
        self.packets.lock().extend(messages.into_iter().map(|message| Packet {
            to: message.to_node,
            inbound: Inbound {
                from_node,
                range_id: message.range_id,
                from_replica: message.from_replica,
                to_replica: message.to_replica,
                epoch: message.epoch,
                span: (*message.span).clone(),
                message: message.message,
                removed_by: message.removed_by.map(|range| (*range).clone()),
                sleep: message.sleep,
            },
        }));
    }

    fn is_unreachable(&self, node_id: NodeId) -> bool {
        self.unreachable.lock().contains(&node_id)
    }
}

impl Snapshots for Wire {
    fn send(&self, job: SendJob, done: SendDone) {
        self.transfers.lock().push(Transfer { from: self.node_id, job, done });
    }

    fn install(&self, staged: StagedSnapshot, done: InstallDone) {
        self.jobs.lock().push_back(Job::Install(staged, done));
    }

    fn finish(&self, range_id: RangeId) {
        self.jobs.lock().push_back(Job::Finish(range_id));
    }

    fn discard(&self, staged: StagedSnapshot) {
        self.jobs.lock().push_back(Job::Discard(staged));
    }
}
