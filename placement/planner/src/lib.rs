//! What should change in the cluster: a view in, operators and an explanation out.
//!
//! Owns: every scheduling decision, as pure functions over [`ClusterView`]. Must not know: Raft,
//! the wire, clocks, tasks; ids of new replicas are given out by whoever carries a plan out, each
//! larger than those before.
//! Invariants: the same view, policy and seed give the same plan; a plan holds at most one operator
//! a range, made for the epoch in the view; a merge takes both its ranges; carried out again and
//! again, plans converge, and then there are none until the view changes. Nothing is remembered
//! between two plans, so a new leader of placement goes on where the last one stopped.
//!
//! What is urgent comes first and takes what moves are allowed: joint configurations are left,
//! replicas repaired, nodes emptied, merges ended, ranges split and merged, replicas moved apart,
//! and the rest is evened out.

mod balance;
mod budget;
mod checks;
mod cluster;
mod drain;
mod explain;
mod members;
mod merge;
mod operator;
mod pairs;
mod planning;
mod replicas;
mod split;
mod spread;
mod target;
mod view;

pub use checks::{MoveRefusal, Shortage, TransferRefusal, can_drain, can_move, can_transfer};
pub use explain::{Explanation, PENDING_MAX};
pub use operator::{Operator, SplitAt, Step};
pub use view::{ClusterView, Liveness, MergeIntent, NodeView, Policy, RangeView};

use planning::Planning;

/// Decides what to do next, and says why what is wanted cannot be done yet.
///
/// `seed` only chooses between nodes that are equally good; keep it the same for one cluster.
#[must_use]
pub fn plan(view: &ClusterView, policy: &Policy, seed: u64) -> (Vec<Operator>, Explanation) {
    let mut planning = Planning::new(view, policy, seed);
    for index in by_urgency(&planning) {
        replicas::settle(&mut planning, index);
    }
    drain::relieve_slow(&mut planning);
    drain::drain(&mut planning);
    merge::finish(&mut planning);
    split::split(&mut planning);
    merge::merge(&mut planning);
    spread::spread(&mut planning);
    balance::balance(&mut planning);
    (planning.operators, planning.explanation)
}

/// Ranges with lost replicas first, those with the fewest good ones before all others.
fn by_urgency(planning: &Planning<'_>) -> Vec<usize> {
    let mut order: Vec<_> = (0..planning.view.ranges.len()).collect();
    if !planning.cluster.nodes.iter().any(cluster::Node::is_lost) {
        return order;
    }
    order.sort_by_cached_key(|index| {
        let range = planning.range(*index);
        let replicas = &range.descriptor.replicas;
        let lost = replicas.iter().any(|replica| planning.cluster.is_lost(replica.node_id));
        if lost {
            replicas.iter().filter(|replica| planning.cluster.is_good(range, replica)).count()
        } else {
            usize::MAX
        }
    });
    order
}
