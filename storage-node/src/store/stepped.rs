//! A store whose threads do not run: a simulation takes their steps one at a time, in any order.
//!
//! Owns: nothing but the turns. All that happens in one is done by the code that the threads run.

use super::applier::ApplyThread;
use super::shared::Shared;
use super::start::{Parts, assemble};
use super::worker::{Task, Worker};
use super::{ReplicaHandle, StoreOptions, maintenance};
use crate::replica::{Input, Replica};
use crate::snapshot::{InstallDone, StagedSnapshot};
use crate::transport::Inbound;
use rangedb_types::{NodeId, RangeDescriptor, RangeId};
use std::sync::Arc;

pub(crate) use super::range_state::{checksum, load_all as load_states};

/// A store that stands still unless it is told to go on.
pub(crate) struct SteppedStore {
    shared: Arc<Shared>,
    pairs: Vec<(Worker, ApplyThread)>,
    compacted: Option<u64>,
}

impl SteppedStore {
    pub fn open(options: StoreOptions) -> Result<Self, String> {
        let Parts { shared, pairs } = assemble(options).map_err(|error| error.to_string())?;
        Ok(Self { shared, pairs, compacted: None })
    }

    /// How many pairs of threads there are.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// A Raft thread takes some tasks and does what they make ready. False if it had nothing to do.
    pub fn raft(&mut self, pair: usize, tasks_max: u64) -> Result<bool, String> {
        let worker = &mut self.pairs[pair].0;
        let mut worked = !worker.touched.is_empty();
        for _ in 0..tasks_max {
            let Ok(task) = worker.inbox.try_recv() else { break };
            worker.sender.note_taken();
            worker.take(task)?;
            worked = true;
        }
        worker.process(self.shared.clock.now())?;
        Ok(worked)
    }

    pub fn tick(&mut self, pair: usize) {
        self.pairs[pair].0.tick(self.shared.clock.now());
    }

    /// An apply thread takes some tasks as one batch. False if it had nothing to do.
    pub fn apply(&mut self, pair: usize, tasks_max: u64) -> Result<bool, String> {
        let thread = &mut self.pairs[pair].1;
        let mut worked = false;
        for _ in 0..tasks_max {
            let Ok(task) = thread.tasks.try_recv() else { break };
            thread.take(task)?;
            worked = true;
        }
        thread.write()?;
        Ok(worked)
    }

    /// One round of cutting logs.
    pub fn compact(&mut self) -> Result<(), String> {
        let workers = self.shared.workers.get().expect("made with the store");
        maintenance::round(&self.shared, workers, &mut self.compacted)
    }

    pub fn input(&self, range_id: RangeId, input: Input) {
        self.shared.send(range_id, Task::Replica { range_id, input });
    }

    /// A sign of life of another node arrived.
    pub fn hear(&self, node_id: NodeId) {
        self.shared.peers.heard(node_id, self.shared.clock.now());
    }

    pub fn deliver(&self, message: Inbound) {
        self.hear(message.from_node);
        self.shared.send(message.range_id, Task::Inbound(Box::new(message)));
    }

    pub fn deliver_snapshot(&self, staged: StagedSnapshot, done: InstallDone) {
        let staged = Box::new(staged);
        self.shared.send(staged.descriptor.range_id, Task::Staged { staged, done });
    }

    /// As if a message had shown that a range was merged away.
    pub fn merged_away(&self, range_id: RangeId) {
        self.shared.send(range_id, Task::MergedAway { range_id, version: u64::MAX });
    }

    pub fn bootstrap(&self, descriptor: RangeDescriptor) {
        let done = Box::new(|result: Result<(), String>| result.expect("the first range is made"));
        self.shared.send(descriptor.range_id, Task::Bootstrap { descriptor, done });
    }

    /// The initialised replicas, as the services see them.
    pub fn handles(&self) -> Vec<Arc<ReplicaHandle>> {
        self.shared.registry.read().handles().map(Arc::clone).collect()
    }

    pub fn handle(&self, range_id: RangeId) -> Option<Arc<ReplicaHandle>> {
        self.shared.registry.read().get(range_id).map(Arc::clone)
    }

    /// Every replica that the Raft threads drive.
    pub fn cores(&self) -> impl Iterator<Item = (RangeId, &Replica)> {
        let hosted = self.pairs.iter().flat_map(|(worker, _)| &worker.replicas);
        hosted.map(|(range_id, hosted)| (*range_id, &hosted.core))
    }
}
