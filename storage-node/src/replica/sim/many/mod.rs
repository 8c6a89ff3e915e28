//! Whole nodes with many ranges, driven in one thread: the store of the product, whose threads take
//! turns by a seed, over a network, disks and power that fail.
//!
//! The store, the replica core, the snapshots' staging and installation are the real ones; engine,
//! log, network, clients and placement are made up here. After every turn the rules in `invariants`
//! are looked at. A run is replayed exactly by its seed.

mod clients;
mod engine;
mod faults;
mod found;
mod handover;
mod log;
mod merging;
mod network;
mod node;
mod placement;
mod power;
mod random;
mod sabotage;
mod settings;
mod watch;

use self::clients::Clients;
use self::merging::Merging;
use self::network::{Packet, Receipt, Transfer};
use self::node::Node;
use self::placement::Placement;
use self::settings::Plan;
use self::watch::Watch;
use super::invariants::Violation;
use crate::snapshot::by_hand;
use crate::store::StoreSettings;
use crate::store::handle::ReplicaHandle;
use rangedb_types::{
    Epoch, NodeId, Random as _, RangeDescriptor, RangeId, Replica as Member, ReplicaRole,
    SeededRandom, Span,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Messages that may be under way; the oldest are lost first.
const PACKETS_MAX: usize = 4000;
/// Snapshots that may be under way; the oldest are lost first.
const TRANSFERS_MAX: usize = 16;

type Result<T = (), E = Violation> = std::result::Result<T, E>;

/// A cluster.
struct World {
    plan: Plan,
    random: SeededRandom,
    nodes: Vec<Node>,
    packets: Vec<Packet>,
    transfers: Vec<Transfer>,
    /// Pairs of nodes that do not hear each other, the smaller id first.
    cut: BTreeSet<(NodeId, NodeId)>,
    clients: Clients,
    placement: Placement,
    merging: Merging,
    watch: Watch,
    /// Removed with the world.
    _folder: tempfile::TempDir,
}

impl World {
    /// Nodes that run, and one range on the first of them.
    fn new(seed: u64, plan: Plan) -> Self {
        let shm = std::path::Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(base).expect("a folder for snapshots");
        let mut nodes = Vec::new();
        for id in 1..=plan.nodes {
            let mut settings =
                StoreSettings { raft_threads: plan.raft_threads, ..Default::default() };
            // Raft would draw them from a source that cannot be replayed: each node has its own.
            let ticks = settings.replica.election_ticks + 2 * id as usize;
            settings.replica.election_ticks_drawn = (ticks, ticks + 1);
            settings.replica.sleep_ticks = 5;
            let staged = folder.path().join(id.to_string());
            nodes.push(Node::new(NodeId(id), staged, settings, &plan.sabotage));
        }
        let mut world = Self {
            plan,
            random: SeededRandom::new(seed),
            nodes,
            packets: Vec::new(),
            transfers: Vec::new(),
            cut: BTreeSet::new(),
            clients: Clients::default(),
            placement: Placement::default(),
            merging: Merging::default(),
            watch: Watch::default(),
            _folder: folder,
        };
        for node in &mut world.nodes {
            node.start().expect("empty disks");
        }
        world.bootstrap();
        world
    }

    /// The first range begins with one replica on each of the first three nodes.
    fn bootstrap(&mut self) {
        let (range_id, members) = (self.placement.new_range_id(), 3.min(self.nodes.len()));
        let replicas = self.nodes[..members].iter().map(|node| Member {
            replica_id: self.placement.new_replica_id(range_id),
            node_id: node.id,
            role: ReplicaRole::Voter,
        });
        let range = RangeDescriptor {
            range_id,
            span: Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas: replicas.collect(),
        };
        for node in &self.nodes[..members] {
            let running = node.running.as_ref().expect("all run");
            running.store.bootstrap(range.clone());
        }
        for at in 0..members {
            self.nodes[at].work().expect("an empty store works");
        }
    }

    /// One thing happens.
    fn step(&mut self) -> Result {
        match self.random.below(100) {
            0..45 => {
                let at = self.any_node();
                let all = self.random.below(3) == 0;
                self.run_node(at, all)?;
            }
            45..70 => self.deliver_some(),
            70..80 => {
                let ms = 1 + self.random.below(40);
                self.pass_time(ms)?;
            }
            80..90 => self.client_acts()?,
            90..92 => self.carry_snapshot(),
            92..95 => self.placement_acts(),
            95..99 => self.merges_go_on(),
            _ => self.something_fails()?,
        }
        Ok(())
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    /// A node has a turn, or works until it rests; then the rules are looked at.
    fn run_node(&mut self, at: usize, all: bool) -> Result {
        let node = &mut self.nodes[at];
        if node.running.is_none() {
            return Ok(());
        }
        let span = tracing::info_span!("node", id = %node.id).entered();
        let result = if all { node.work() } else { node.turn(&mut self.random) };
        drop(span);
        self.collect(at)?;
        if self.nodes[at].power.is_off() {
            self.crash(at, false);
            return Ok(());
        }
        let id = self.nodes[at].id;
        let failed = |why| Violation::of("a store goes on")(format!("node {id}: {why}"));
        result.map_err(failed)?;
        self.watch.node(&self.nodes[at])?;
        self.watch.leases(&self.nodes)
    }

    /// Takes what a node sent.
    fn collect(&mut self, at: usize) -> Result {
        let node = &self.nodes[at];
        self.watch.appended(&self.placement, node)?;
        let Some(running) = &node.running else { return Ok(()) };
        let packets = std::mem::take(&mut *running.wire.packets.lock());
        for packet in &packets {
            self.watch.spoken(node.id, packet)?;
        }
        self.packets.extend(packets);
        let excess = self.packets.len().saturating_sub(PACKETS_MAX);
        self.packets.drain(..excess);
        self.transfers.append(&mut running.wire.transfers.lock());
        while self.transfers.len() > TRANSFERS_MAX {
            (self.transfers.remove(0).done)(false);
        }
        Ok(())
    }

    fn hears(&self, one: NodeId, other: NodeId) -> bool {
        !self.cut.contains(&(one.min(other), one.max(other)))
    }

    /// Any message may be lost, late, out of order, or come twice.
    fn deliver_some(&mut self) {
        let count = 1 + self.random.below(12);
        for _ in 0..count {
            if self.packets.is_empty() {
                return;
            }
            // Mostly in order, as one connection has it.
            let late = self.random.below(4) == 0;
            let among = if late { self.packets.len() } else { 1 };
            let at = self.random.below(among as u64) as usize;
            let packet = self.packets.remove(at);
            match self.random.below(40) {
                0 => {}
                1 => {
                    self.packets.push(packet.clone());
                    self.deliver(packet);
                }
                _ => self.deliver(packet),
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        if !self.hears(packet.inbound.from_node, packet.to) {
            return;
        }
        let to = self.nodes.iter().find(|node| node.id == packet.to);
        if let Some(running) = to.and_then(|node| node.running.as_ref()) {
            running.store.deliver(packet.inbound);
        }
    }

    /// A snapshot arrives, or does not, or does and the receipt is lost.
    fn carry_snapshot(&mut self) {
        if self.transfers.is_empty() {
            return;
        }
        let at = self.random.below(self.transfers.len() as u64) as usize;
        let transfer = self.transfers.remove(at);
        let fate = self.random.below(10);
        self.carry(transfer, fate > 0, fate > 1);
    }

    fn carry(&mut self, transfer: Transfer, arrives: bool, receipt: bool) {
        let Transfer { from, job, done } = transfer;
        let heard = self.hears(from, job.to_node);
        let node = self.nodes.iter_mut().find(|node| node.id == job.to_node);
        let Some(node) = node.filter(|node| arrives && heard && node.running.is_some()) else {
            return done(false);
        };
        node.staged += 1;
        let path = node.folder.join(format!("s{}", node.staged));
        let staged = by_hand::transfer(&job, from, path).expect("the folder can be written");
        let running = node.running.as_ref().expect("it was looked for");
        let told = Receipt::new(done);
        let tell = Box::new(move |result: std::result::Result<(), String>| {
            told.tell(receipt && result.is_ok());
        });
        running.store.deliver_snapshot(staged, tell);
        self.watch.snapshots += 1;
    }

    fn pass_time(&mut self, ms: u64) -> Result {
        for at in 0..self.nodes.len() {
            let slow = self.plan.sabotage.slow_clock && at == 0;
            let ms = if slow { ms / 3 } else { ms };
            let node = &mut self.nodes[at];
            node.clock.advance(Duration::from_millis(ms));
            node.tick_if_due();
        }
        self.beat();
        self.watch.leases(&self.nodes)
    }

    /// Nodes that run are heard by all that are connected to them, whatever their ranges do.
    fn beat(&mut self) {
        let running = |node: &&Node| node.running.is_some();
        for to in self.nodes.iter().filter(running) {
            for from in self.nodes.iter().filter(running) {
                if from.id != to.id && self.hears(from.id, to.id) {
                    to.running.iter().for_each(|running| running.store.hear(from.id));
                }
            }
            let cores = to.running.iter().flat_map(|running| running.store.cores());
            self.watch.asleep += cores.filter(|(_, core)| core.is_asleep()).count() as u64;
        }
    }

    /// Every replica that is seen by the services of a running node.
    fn handles(&self) -> Vec<(usize, Arc<ReplicaHandle>)> {
        let running = self.nodes.iter().enumerate();
        let running = running.filter_map(|(at, node)| Some((at, node.running.as_ref()?)));
        running
            .flat_map(|(at, running)| {
                running.store.handles().into_iter().map(move |handle| (at, handle))
            })
            .collect()
    }

    /// The replicas that believe they lead.
    fn leaders(&self) -> Vec<(usize, Arc<ReplicaHandle>)> {
        let mut handles = self.handles();
        handles.retain(|(_, handle)| handle.status().is_leader);
        handles
    }

    fn handle(&self, at: usize, range_id: RangeId) -> Option<Arc<ReplicaHandle>> {
        self.nodes[at].running.as_ref()?.store.handle(range_id)
    }
}
