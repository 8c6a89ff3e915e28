//! What should change in the cluster: a view in, operators and an explanation out.
//!
//! Owns: every scheduling decision, as pure functions over [`ClusterView`]. Must not know: Raft,
//! the wire, clocks, tasks; ids of new replicas are given out by whoever carries a plan out.
//! Invariants: the same view, policy and seed give the same plan; a plan holds at most one operator
//! a range, made for the epoch in the view; carried out again and again, plans converge, and then
//! there are none until the view changes. Nothing is remembered between two plans, so a new leader
//! of placement goes on where the last one stopped.

mod budget;
mod count;
mod explain;
mod operator;
mod target;
mod view;

pub use explain::{Explanation, PENDING_MAX};
pub use operator::{Operator, SplitAt, Step};
pub use view::{ClusterView, Liveness, MergeIntent, NodeView, Policy, RangeView};

use budget::Budget;
use target::Loads;

/// Decides what to do next, and says why what is wanted cannot be done yet.
///
/// `seed` only chooses between nodes that are equally good; keep it the same for one cluster.
#[must_use]
pub fn plan(view: &ClusterView, policy: &Policy, seed: u64) -> (Vec<Operator>, Explanation) {
    let mut budget = Budget::of(view, policy);
    let mut loads = Loads::of(view, seed);
    let mut explanation = Explanation::default();
    let mut operators = Vec::new();
    for range in &view.ranges {
        let mut context = count::Context {
            view,
            policy,
            budget: &mut budget,
            loads: &mut loads,
            explanation: &mut explanation,
        };
        operators.extend(count::next_step(range, &mut context));
    }
    (operators, explanation)
}
