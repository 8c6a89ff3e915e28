//! Random clusters, in which plans are carried out until nothing is left to do.
//!
//! A failure prints its seed; `RANGEDB_SEED` replays it.

use rangedb_planner::{ClusterView, Liveness, NodeView, Operator, Policy, RangeView, Step, plan};
use rangedb_types::{
    Epoch, NodeId, Random as _, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole,
    SeededRandom, Span,
};
use std::collections::{BTreeMap, BTreeSet};

const CLUSTERS: u64 = 300;
const STEPS_MAX: usize = 2_000;
const STILL_STEPS: usize = 20;

struct World {
    view: ClusterView,
    policy: Policy,
    random: SeededRandom,
    next_replica: u64,
    planner_seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        let node_count = 1 + random.below(7);
        let zones = 1 + random.below(3);
        let nodes: Vec<_> = (1..=node_count)
            .map(|id| NodeView {
                zone: format!("z{}", random.below(zones)),
                ..NodeView::new(NodeId(id))
            })
            .collect();
        let policy = Policy {
            replication_factor: [1, 3, 3, 5, 4][random.below(5) as usize],
            moves_per_node_max: 1 + random.below(4) as usize,
            ..Policy::default()
        };
        let mut world = Self {
            view: ClusterView { nodes, ranges: Vec::new() },
            policy,
            random,
            next_replica: 1_000,
            planner_seed: seed,
        };
        for id in 1..=1 + world.random.below(20) {
            let first = NodeId(1 + world.random.below(node_count));
            let replica = world.replica(first, ReplicaRole::Voter);
            world.view.ranges.push(RangeView {
                leader: Some(first),
                caught_up: BTreeSet::from([replica.replica_id]),
                ..RangeView::new(RangeDescriptor {
                    range_id: RangeId(id),
                    span: Span::all(),
                    epoch: Epoch { version: 1, conf_version: 1 },
                    replicas: vec![replica],
                })
            });
        }
        world
    }

    fn replica(&mut self, node_id: NodeId, role: ReplicaRole) -> Replica {
        self.next_replica += 1;
        Replica { replica_id: ReplicaId(self.next_replica), node_id, role }
    }

    /// Some learners catch up, some nodes come or go.
    fn weather(&mut self) {
        for range in &mut self.view.ranges {
            for replica in &range.descriptor.replicas {
                if self.random.below(3) == 0 {
                    range.caught_up.insert(replica.replica_id);
                }
            }
        }
        if self.random.below(10) == 0 {
            let index = self.random.below(self.view.nodes.len() as u64) as usize;
            self.view.nodes[index].liveness =
                [Liveness::Up, Liveness::Up, Liveness::Suspect, Liveness::Down]
                    [self.random.below(4) as usize];
        }
    }

    fn clear_weather(&mut self) {
        for node in &mut self.view.nodes {
            node.liveness = Liveness::Up;
        }
        for range in &mut self.view.ranges {
            range.caught_up.extend(range.descriptor.replicas.iter().map(|r| r.replica_id));
        }
    }

    fn carry_out(&mut self, operators: &[Operator]) {
        for operator in operators {
            let added = match &operator.step {
                Step::AddLearner { node_id } => Some(self.replica(*node_id, ReplicaRole::Learner)),
                _ => None,
            };
            let index = operator.range_id.get() as usize - 1;
            let range = &mut self.view.ranges[index];
            assert_eq!(range.descriptor.epoch, operator.epoch);
            range.descriptor.epoch.conf_version += 1;
            match &operator.step {
                Step::AddLearner { node_id } => {
                    assert!(range.descriptor.replica_on(*node_id).is_none(), "two on one node");
                    range.descriptor.replicas.extend(added);
                }
                Step::ChangeVoters { promote: replicas, .. } => {
                    for replica in &mut range.descriptor.replicas {
                        if replicas.contains(replica) {
                            assert_eq!(replica.role, ReplicaRole::Learner);
                            assert!(range.caught_up.contains(&replica.replica_id), "empty voter");
                            replica.role = ReplicaRole::IncomingVoter;
                        }
                    }
                }
                Step::Remove { replica: removed } => {
                    assert_eq!(removed.role, ReplicaRole::Learner);
                    range.descriptor.replicas.retain(|replica| replica != removed);
                }
                Step::LeaveJoint => {
                    for replica in &mut range.descriptor.replicas {
                        if replica.role == ReplicaRole::IncomingVoter {
                            replica.role = ReplicaRole::Voter;
                        }
                    }
                }
            }
        }
    }

    fn check(&self) {
        let mut filling: BTreeMap<NodeId, usize> = BTreeMap::new();
        for range in &self.view.ranges {
            let descriptor = &range.descriptor;
            let voters = descriptor.with_role(ReplicaRole::Voter).count();
            if !descriptor.is_joint() {
                let wanted = self.policy.replication_factor;
                assert!(voters % 2 == 1 || voters == wanted, "{voters} voters: {descriptor:?}");
                assert!(voters <= wanted);
            }
            for learner in descriptor.with_role(ReplicaRole::Learner) {
                if !range.caught_up.contains(&learner.replica_id) {
                    *filling.entry(learner.node_id).or_default() += 1;
                }
            }
        }
        // Lost copies are not counted while their node is away, and count again when it is back.
        if self.view.nodes.iter().all(|node| node.liveness == Liveness::Up) {
            let most = filling.values().copied().max().unwrap_or(0);
            assert!(most <= self.policy.moves_per_node_max * 2, "{most} copies to one node");
        }
    }

    fn plan(&self) -> Vec<Operator> {
        plan(&self.view, &self.policy, self.planner_seed).0
    }
}

fn converges(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..30 {
        let operators = world.plan();
        // Some commands are lost on the way: the next plan asks again.
        let (kept, _) = operators.split_at(operators.len() - operators.len() / 3);
        world.carry_out(kept);
        world.check();
        world.weather();
    }
    let mut steps = 0;
    loop {
        world.clear_weather();
        let operators = world.plan();
        if operators.is_empty() {
            break;
        }
        world.carry_out(&operators);
        world.check();
        steps += 1;
        assert!(steps < STEPS_MAX, "no end in sight: {operators:?}");
    }
    for _ in 0..STILL_STEPS {
        assert_eq!(world.plan(), [], "a converged cluster stays still");
    }
    let nodes = world.view.nodes.len();
    let wanted = world.policy.replication_factor.min(nodes);
    for range in &world.view.ranges {
        assert_eq!(range.descriptor.replicas.len(), wanted, "{:?}", range.descriptor);
        assert!(!range.descriptor.is_joint());
    }
}

#[test]
fn random_clusters_converge_and_then_stay_still() {
    if let Ok(seed) = std::env::var("RANGEDB_SEED") {
        return converges(seed.parse().unwrap());
    }
    for seed in 0..CLUSTERS {
        println!("RANGEDB_SEED={seed}");
        converges(seed);
    }
}
