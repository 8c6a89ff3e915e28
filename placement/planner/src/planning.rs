//! A plan in the making: what it is made from, what it used up, what it holds so far.

use crate::budget::Budget;
use crate::cluster::Cluster;
use crate::members::{Members, victims};
use crate::pairs::Pairs;
use crate::{ClusterView, Explanation, Operator, Policy, RangeView, Step};
use rangedb_types::{NodeId, RangeDescriptor, Replica};
use std::collections::BTreeMap;

pub(crate) struct Planning<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) policy: &'a Policy,
    pub(crate) cluster: Cluster<'a>,
    pub(crate) budget: Budget,
    pub(crate) pairs: Pairs,
    /// Ranges with a replica too many, and which of them are to go.
    pub(crate) victims: BTreeMap<usize, Vec<Replica>>,
    pub(crate) explanation: Explanation,
    pub(crate) operators: Vec<Operator>,
    /// Ranges that nothing more may be asked of.
    busy: Vec<bool>,
}

impl<'a> Planning<'a> {
    pub(crate) fn new(view: &'a ClusterView, policy: &'a Policy, seed: u64) -> Self {
        let cluster = Cluster::of(view, seed);
        let budget = Budget::of(view, &cluster, policy);
        let pairs = Pairs::of(view, &cluster, policy);
        let mut planning = Self {
            view,
            policy,
            cluster,
            budget,
            pairs,
            victims: BTreeMap::new(),
            explanation: Explanation::default(),
            operators: Vec::new(),
            busy: vec![false; view.ranges.len()],
        };
        planning.count_replicas();
        planning
    }

    /// Counts every replica where it will be when the moves under way are done.
    fn count_replicas(&mut self) {
        let wanted = self.wanted();
        let mut in_motion = Vec::new();
        for (index, range) in self.view.ranges.iter().enumerate() {
            if range.descriptor.replicas.len() <= wanted {
                for replica in &range.descriptor.replicas {
                    self.count(range, replica);
                }
                continue;
            }
            let members = Members::of(range, &self.cluster, wanted);
            let staying = members.all();
            for replica in &staying {
                self.count(range, replica);
            }
            let is_joint = range.descriptor.is_joint();
            if staying.len() > wanted && !is_joint {
                in_motion.push((index, staying));
            }
        }
        for (index, staying) in in_motion {
            let count = staying.len() - wanted;
            let chosen = victims(&self.cluster, staying, count, self.align_to(index));
            for victim in &chosen {
                self.cluster.drop_replica(victim.node_id);
            }
            self.victims.insert(index, chosen);
        }
    }

    fn count(&mut self, range: &RangeView, replica: &Replica) {
        if range.caught_up.contains(&replica.replica_id) {
            if let Some(node) = self.cluster.get_mut(replica.node_id) {
                node.replicas += 1;
            }
        } else {
            self.cluster.add_replica(range, replica.node_id);
        }
    }

    /// How many replicas each range is to have.
    pub(crate) fn wanted(&self) -> usize {
        self.policy.replication_factor.max(1)
    }

    pub(crate) fn range(&self, index: usize) -> &'a RangeView {
        &self.view.ranges[index]
    }

    /// The range that this one is to be merged into: its replicas go where that one's are.
    pub(crate) fn align_to(&self, index: usize) -> Option<&'a RangeDescriptor> {
        self.pairs.left_of(index).map(|left| &self.view.ranges[left].descriptor)
    }

    pub(crate) fn is_busy(&self, index: usize) -> bool {
        self.busy[index]
    }

    pub(crate) fn set_busy(&mut self, index: usize) {
        self.busy[index] = true;
    }

    /// Asks for a step of a range that has a leader.
    pub(crate) fn ask(&mut self, index: usize, step: Step, why: String) {
        let range = self.range(index);
        let Some(leader) = range.leader else { return };
        self.busy[index] = true;
        self.operators.push(Operator {
            range_id: range.descriptor.range_id,
            epoch: range.descriptor.epoch,
            leader,
            step,
            why,
        });
    }

    /// Asks for a new replica, and counts what it costs.
    pub(crate) fn ask_learner(&mut self, index: usize, node_id: NodeId, why: String) {
        let range = self.range(index);
        self.budget.take(range, node_id);
        self.cluster.add_replica(range, node_id);
        self.ask(index, Step::AddLearner { node_id }, why);
    }

    /// Asks for another leader.
    pub(crate) fn ask_transfer(&mut self, index: usize, to: Replica, why: String) {
        let range = self.range(index);
        self.cluster.move_leader(range, to.node_id);
        self.ask(index, Step::TransferLeader { to }, why);
    }

    /// True if the range is as it should be, and every replica of it follows.
    pub(crate) fn is_healthy(&self, index: usize) -> bool {
        let range = self.range(index);
        range.leader.is_some()
            && range.merging.is_none()
            && !range.descriptor.is_joint()
            && range.descriptor.replicas.len() <= self.wanted()
            && range.descriptor.replicas.iter().all(|replica| {
                self.cluster.is_good(range, replica) && !self.cluster.is_draining(replica.node_id)
            })
    }
}
