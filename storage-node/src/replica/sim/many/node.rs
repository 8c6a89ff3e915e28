//! One simulated node: its disks, its clock, and, while it runs, its store.

use super::engine::SimEngine;
use super::log::SimLog;
use super::network::{Job, Wire};
use super::power::Power;
use super::settings::Sabotage;
use crate::raft_log::RaftLog;
use crate::snapshot::{self, Snapshots, by_hand};
use crate::store::stepped::SteppedStore;
use crate::store::{StoreOptions, StoreSettings};
use crate::transport::RaftSender;
use rangedb_engine::Engine;
use rangedb_types::{ManualClock, MonotonicClock, MonotonicTime, NodeId, Random};
use std::path::PathBuf;
use std::sync::Arc;

/// Tasks after which a thread that never rests is a fault.
const TURNS_MAX: u32 = 10_000;
/// Tasks that a thread takes at once when a node works until it rests.
const BURST: u64 = 64;

/// What is lost when a process dies.
pub struct Running {
    pub store: SteppedStore,
    pub wire: Arc<Wire>,
}

/// A node.
pub struct Node {
    pub id: NodeId,
    pub power: Arc<Power>,
    pub engine: Arc<SimEngine>,
    pub log: Arc<SimLog>,
    pub clock: Arc<ManualClock>,
    pub next_tick: MonotonicTime,
    pub running: Option<Running>,
    pub folder: PathBuf,
    pub staged: u64,
    /// Grows with every start and every crash.
    pub incarnation: u64,
    settings: StoreSettings,
}

impl Node {
    pub fn new(id: NodeId, folder: PathBuf, settings: StoreSettings, sabotage: &Sabotage) -> Self {
        let power = Arc::new(Power::new());
        let clock = Arc::new(ManualClock::new(100_000 + 7 * id.get()));
        Self {
            id,
            engine: Arc::new(SimEngine::new(Arc::clone(&power), sabotage.engine)),
            log: Arc::new(SimLog::new(Arc::clone(&power), sabotage.log_never_syncs)),
            power,
            next_tick: clock.now(),
            clock,
            running: None,
            folder,
            staged: 0,
            incarnation: 0,
            settings,
        }
    }

    /// Starts from what the disks hold, in the order in which the server does.
    pub fn start(&mut self) -> Result<(), String> {
        let engine: Arc<dyn Engine> = Arc::clone(&self.engine) as Arc<dyn Engine>;
        let installed =
            snapshot::recover(engine.as_ref(), &self.folder).map_err(|error| error.to_string())?;
        let recovered: Vec<_> = installed.keys().copied().collect();
        let wire = Arc::new(Wire::new(self.id));
        let store = SteppedStore::open(StoreOptions {
            node_id: self.id,
            engine: Arc::clone(&engine),
            log: Arc::clone(&self.log) as Arc<dyn RaftLog>,
            sender: Arc::clone(&wire) as Arc<dyn RaftSender>,
            snapshots: Arc::clone(&wire) as Arc<dyn Snapshots>,
            clock: Arc::clone(&self.clock) as Arc<dyn MonotonicClock>,
            settings: self.settings.clone(),
            installed,
        })?;
        snapshot::finish_recovery(engine.as_ref(), recovered).map_err(|error| error.to_string())?;
        self.next_tick = self.clock.now() + self.settings.replica.tick;
        self.incarnation += 1;
        self.running = Some(Running { store, wire });
        Ok(())
    }

    /// The process dies, with the machine or (if `gently`) without it.
    pub fn crash(&mut self, gently: bool, random: &mut impl Random) {
        self.power.switch(false);
        self.running = None;
        self.incarnation += 1;
        if !gently {
            self.engine.crash(random);
            self.log.crash(random);
        }
        self.power.switch(true);
    }

    pub fn tick_if_due(&mut self) {
        let now = self.clock.now();
        if let Some(running) = &mut self.running
            && now >= self.next_tick
        {
            self.next_tick = now + self.settings.replica.tick;
            for pair in 0..running.store.pairs() {
                running.store.tick(pair);
            }
        }
    }

    /// One thread has one turn.
    pub fn turn(&mut self, random: &mut impl Random) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let pair = random.below(running.store.pairs() as u64) as usize;
        let tasks = 1 + random.below(8);
        match random.below(8) {
            0..4 => running.store.raft(pair, tasks).map(drop),
            4..7 => running.store.apply(pair, tasks).map(drop),
            _ => self.snapshot_job().map(drop),
        }
    }

    /// Every thread goes on until none has anything to do.
    pub fn work(&mut self) -> Result<(), String> {
        for _ in 0..TURNS_MAX {
            let Some(running) = &mut self.running else { return Ok(()) };
            let mut worked = false;
            for pair in 0..running.store.pairs() {
                worked |= running.store.raft(pair, BURST)?;
                worked |= running.store.apply(pair, BURST)?;
            }
            worked |= self.snapshot_job()?;
            if !worked {
                return Ok(());
            }
        }
        Err("its threads never come to rest".to_owned())
    }

    /// The snapshot thread does one thing. False if there is none.
    fn snapshot_job(&mut self) -> Result<bool, String> {
        let Some(running) = &self.running else { return Ok(false) };
        let job = running.wire.jobs.lock().pop_front();
        match job {
            None => return Ok(false),
            Some(Job::Install(staged, done)) => {
                let result = by_hand::install(self.engine.as_ref(), &staged);
                let failed = result.clone();
                done(result);
                failed?;
            }
            Some(Job::Discard(staged)) => by_hand::discard(&staged.path),
            Some(Job::Finish(range_id)) => by_hand::finish(self.engine.as_ref(), range_id)?,
        }
        Ok(true)
    }
}
