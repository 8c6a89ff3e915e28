//! The simulated cluster: what really is, and what the planner is shown of it.

use crate::invariants::sound_plans;
use rangedb_planner::{
    ClusterView, Explanation, Liveness, MergeIntent, NodeView, Operator, Policy, RangeView, Step,
    plan,
};
use rangedb_types::{
    Epoch, NodeId, Random as _, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole,
    SeededRandom, Span,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _};
use std::time::Duration;

/// Time between two plans.
pub const ROUND: Duration = Duration::from_millis(500);
/// Rounds of silence after which a node is shown as suspect, and as down.
const SUSPECT_ROUNDS: u64 = 4;
pub const DOWN_ROUNDS: u64 = 20;
/// Rounds a node needs to catch up once it is back.
const CATCH_UP_ROUNDS: u64 = 3;
/// A command is late by less than so many rounds.
pub const DELAY_ROUNDS: u64 = 4;
pub const DISK_BYTES: u64 = 1 << 40;

pub struct Node {
    pub view: NodeView,
    /// The round since which it is away.
    pub away_since: Option<u64>,
    pub back_since: u64,
    /// Dies if it can, once it was away long enough.
    pub dying: bool,
    /// Never comes back.
    pub dead: bool,
    /// What else is on its disk.
    pub other_bytes: u64,
}

pub struct Range {
    pub descriptor: RangeDescriptor,
    pub leader: Option<NodeId>,
    /// Replicas that hold the data.
    pub filled: BTreeSet<ReplicaId>,
    pub size_bytes: u64,
    pub reads: u64,
    pub writes: u64,
    pub merging: Option<MergeIntent>,
    pub frozen_since: u64,
}

/// Ways to make the world wrong, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    #[default]
    None,
    /// Every learner is said to have caught up at once.
    EmptyLearnersCountAsCaughtUp,
    /// Commands are carried out although the range has another epoch by now.
    EpochsAreIgnored,
    /// Every learner is removed as soon as it was added.
    LearnersVanish,
    /// All nodes say that they are in one zone.
    ZonesAreHidden,
    /// Copies are made twice.
    MovesCountTwice,
    /// Fewer replicas are shown on the first node than there are.
    FirstNodeLooksEmpty,
    /// All disks are said to be empty.
    DisksLookEmpty,
    /// Whatever the plan says, new replicas go to the first node.
    LearnersGoToTheFirstNode,
}

pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    /// In the order of their keys.
    pub ranges: Vec<Range>,
    pub policy: Policy,
    pub random: SeededRandom,
    pub seed: u64,
    pub round: u64,
    pub next_id: u64,
    /// Commands on their way, with the round in which they arrive.
    pub in_flight: Vec<(u64, Operator)>,
    pub copies: usize,
    pub transfers: usize,
    pub splits: usize,
    pub merges: usize,
    /// Commands are lost, late and made from old views.
    pub storm: bool,
    pub sabotage: Sabotage,
    /// What a plan did that no plan may do.
    pub unsound: Option<String>,
    /// All steps that were ever planned.
    pub history: DefaultHasher,
    traced: bool,
    old_view: Option<ClusterView>,
}

impl World {
    pub fn new(seed: u64, policy: Policy) -> Self {
        Self {
            nodes: BTreeMap::new(),
            ranges: Vec::new(),
            policy,
            random: SeededRandom::new(seed),
            seed,
            round: 100,
            next_id: 1_000,
            in_flight: Vec::new(),
            copies: 0,
            transfers: 0,
            splits: 0,
            merges: 0,
            storm: false,
            sabotage: Sabotage::None,
            unsound: None,
            history: DefaultHasher::new(),
            traced: std::env::var_os("RANGEDB_SIM_TRACE").is_some(),
            old_view: None,
        }
    }

    pub fn add_node(&mut self, zone: &str) -> NodeId {
        let node_id = NodeId(self.nodes.len() as u64 + 1);
        let view = NodeView {
            zone: zone.to_owned(),
            capacity_bytes: DISK_BYTES,
            available_bytes: DISK_BYTES,
            ..NodeView::new(node_id)
        };
        let node = Node {
            view,
            away_since: None,
            back_since: 0,
            dying: false,
            dead: false,
            other_bytes: 0,
        };
        self.nodes.insert(node_id, node);
        node_id
    }

    /// Ranges of a million bytes with voters on these nodes in turn.
    pub fn add_ranges(&mut self, count: usize, replicas: usize) {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        for index in 0..count {
            let voters: Vec<_> = (0..replicas.min(nodes.len()))
                .map(|replica| self.replica(nodes[(index + replica) % nodes.len()]))
                .collect();
            let range_id = RangeId(self.id());
            let key = |index: usize| format!("{index:08}").into_bytes();
            let span = Span {
                start: if index == 0 { Vec::new() } else { key(index) },
                end: if index + 1 == count { Vec::new() } else { key(index + 1) },
            };
            self.ranges.push(Range {
                leader: Some(voters[0].node_id),
                filled: voters.iter().map(|voter| voter.replica_id).collect(),
                descriptor: RangeDescriptor {
                    range_id,
                    span,
                    epoch: Epoch { version: 1, conf_version: 1 },
                    replicas: voters,
                },
                size_bytes: 100 << 20,
                reads: 10,
                writes: 10,
                merging: None,
                frozen_since: 0,
            });
        }
    }

    fn replica(&mut self, node_id: NodeId) -> Replica {
        Replica { replica_id: ReplicaId(self.id()), node_id, role: ReplicaRole::Voter }
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn one_in(&mut self, chance: u64) -> bool {
        self.random.below(chance) == 0
    }

    pub fn is_here(&self, node_id: NodeId) -> bool {
        self.nodes.get(&node_id).is_some_and(|node| node.away_since.is_none())
    }

    pub fn is_dead(&self, node_id: NodeId) -> bool {
        self.nodes.get(&node_id).is_none_or(|node| node.dead)
    }

    /// What is on each node's disk.
    pub fn used_bytes(&self) -> BTreeMap<NodeId, u64> {
        let mut used: BTreeMap<_, _> =
            self.nodes.iter().map(|(node_id, node)| (*node_id, node.other_bytes)).collect();
        for range in &self.ranges {
            for replica in &range.descriptor.replicas {
                *used.entry(replica.node_id).or_default() += range.size_bytes;
            }
        }
        used
    }

    /// What placement would show its planner.
    pub fn view(&self) -> ClusterView {
        let used = self.used_bytes();
        let nodes = self.nodes.values().map(|node| {
            let silent = node.away_since.map_or(0, |since| self.round - since);
            let used = used[&node.view.node_id];
            let mut view = NodeView {
                liveness: match silent {
                    0..SUSPECT_ROUNDS => Liveness::Up,
                    SUSPECT_ROUNDS..DOWN_ROUNDS => Liveness::Suspect,
                    _ => Liveness::Down,
                },
                catching_up: self.round < node.back_since + CATCH_UP_ROUNDS,
                available_bytes: DISK_BYTES.saturating_sub(used),
                ..node.view.clone()
            };
            if self.sabotage == Sabotage::ZonesAreHidden {
                view.zone.clear();
            }
            if self.sabotage == Sabotage::DisksLookEmpty {
                view.available_bytes = view.capacity_bytes;
            }
            view
        });
        let mut ranges: Vec<_> = self.ranges.iter().map(|range| self.range_view(range)).collect();
        if self.sabotage == Sabotage::FirstNodeLooksEmpty {
            ranges.retain(|range| range.descriptor.replica_on(NodeId(1)).is_none());
        }
        ClusterView { nodes: nodes.collect(), ranges }
    }

    fn range_view(&self, range: &Range) -> RangeView {
        let is_current = |replica: &&Replica| {
            let node = &self.nodes[&replica.node_id];
            node.away_since.is_none() && self.round >= node.back_since + CATCH_UP_ROUNDS
                || Some(replica.node_id) == range.leader
        };
        let replicas = || range.descriptor.replicas.iter();
        let lies = self.sabotage == Sabotage::EmptyLearnersCountAsCaughtUp;
        RangeView {
            leader: range.leader.filter(|leader| self.is_here(*leader)),
            caught_up: replicas()
                .filter(is_current)
                .filter(|replica| lies || range.filled.contains(&replica.replica_id))
                .map(|replica| replica.replica_id)
                .collect(),
            down: replicas()
                .filter(|replica| !self.is_here(replica.node_id))
                .map(|replica| replica.replica_id)
                .collect(),
            size_bytes: Some(range.size_bytes),
            reads_per_second: range.reads,
            writes_per_second: range.writes,
            bytes_written_per_second: range.writes * 100,
            load_splittable: true,
            merging: range.merging,
            frozen_for: range
                .merging
                .map_or(Duration::ZERO, |_| ROUND * (self.round - range.frozen_since) as u32),
            ..RangeView::new(range.descriptor.clone())
        }
    }

    /// Plans once, and sends off the commands.
    pub fn plan(&mut self) -> (Vec<Operator>, Explanation) {
        let now = self.view();
        let stale = if self.storm && self.one_in(3) { self.old_view.take() } else { None };
        let view = stale.as_ref().unwrap_or(&now);
        let (mut operators, explanation) = plan(view, &self.policy, self.seed);
        if self.sabotage == Sabotage::LearnersGoToTheFirstNode {
            for operator in &mut operators {
                if let Step::AddLearner { node_id } = &mut operator.step {
                    *node_id = NodeId(1);
                }
            }
        }
        if self.unsound.is_none() {
            self.unsound = sound_plans::check(view, &self.policy, &operators).err();
        }
        self.tell(&operators, &explanation);
        self.old_view = Some(now);
        self.send(&operators);
        (operators, explanation)
    }

    fn send(&mut self, operators: &[Operator]) {
        let sent: BTreeSet<_> = self.in_flight.iter().map(|(_, sent)| sent.range_id).collect();
        for operator in operators {
            if sent.contains(&operator.range_id) || (self.storm && self.one_in(10)) {
                continue;
            }
            let delay = if self.storm { self.random.below(DELAY_ROUNDS) } else { 0 };
            self.in_flight.push((self.round + delay, operator.clone()));
        }
    }

    /// Remembers what happens in this round, and prints it if `RANGEDB_SIM_TRACE` asks for it.
    fn tell(&mut self, operators: &[Operator], explanation: &Explanation) {
        for operator in operators {
            (self.round, operator.range_id, operator.epoch, &operator.step).hash(&mut self.history);
        }
        if !self.traced {
            return;
        }
        println!("round {}{}", self.round, if self.storm { ", storm" } else { "" });
        for Operator { range_id, epoch, leader, step, why } in operators {
            let (version, conf_version) = (epoch.version, epoch.conf_version);
            println!("  {range_id} ({version}, {conf_version}) on {leader}: {step}, for {why}");
        }
        for why in explanation.pending() {
            println!("  waits: {why}");
        }
    }

    /// One round: plan, carry out what arrives, let time pass. Returns how many steps the plan had.
    pub fn step(&mut self) -> usize {
        let (operators, _) = self.plan();
        let (due, later) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|(at, _)| *at <= self.round);
        self.in_flight = later;
        let places = self.places();
        for (_, operator) in due {
            self.carry_out(&operator, &places);
        }
        self.elect();
        self.thaw();
        self.fill();
        self.round += 1;
        operators.len()
    }

    /// A range thaws once it sees that its left neighbour is not the one of the merge any more.
    fn thaw(&mut self) {
        for index in 1..self.ranges.len() {
            let left = &self.ranges[index - 1].descriptor;
            let (left_id, version) = (left.range_id, left.epoch.version);
            let right = &mut self.ranges[index];
            right.merging = right
                .merging
                .filter(|intent| intent.left_range_id == left_id && intent.left_version == version);
        }
    }

    /// Leaders that are gone, or have no vote any more, are replaced if a majority is left.
    fn elect(&mut self) {
        for index in 0..self.ranges.len() {
            let range = &self.ranges[index];
            let votes = |leader| {
                let replica = range.descriptor.replica_on(leader);
                replica.is_some_and(|replica| replica.role != ReplicaRole::Learner)
            };
            if range.leader.is_some_and(|leader| self.is_here(leader) && votes(leader)) {
                continue;
            }
            let ready: Vec<_> = range
                .descriptor
                .replicas
                .iter()
                .filter(|replica| replica.role != ReplicaRole::Learner)
                .filter(|replica| {
                    self.is_here(replica.node_id) && range.filled.contains(&replica.replica_id)
                })
                .map(|replica| replica.node_id)
                .collect();
            let can = crate::carry_out::has_quorum(self, index);
            let leader = ready.get(self.random.below(ready.len() as u64) as usize).copied();
            self.ranges[index].leader = leader.filter(|_| can);
        }
    }

    /// True if some copy will come to its end, and the planner has to go on then.
    pub fn is_filling(&self) -> bool {
        self.ranges.iter().any(|range| {
            range.leader.is_some_and(|leader| self.is_here(leader))
                && range.descriptor.replicas.iter().any(|replica| {
                    self.is_here(replica.node_id) && !range.filled.contains(&replica.replica_id)
                })
        })
    }

    /// Learners get their data while both ends are there.
    fn fill(&mut self) {
        for index in 0..self.ranges.len() {
            let Some(leader) = self.ranges[index].leader.filter(|leader| self.is_here(*leader))
            else {
                continue;
            };
            let replicas = self.ranges[index].descriptor.replicas.clone();
            for replica in replicas {
                let empty = !self.ranges[index].filled.contains(&replica.replica_id);
                if empty && replica.node_id != leader && self.is_here(replica.node_id) {
                    let chance = if self.storm { 4 } else { 2 };
                    if self.one_in(chance) {
                        self.ranges[index].filled.insert(replica.replica_id);
                    }
                }
            }
        }
    }
}
