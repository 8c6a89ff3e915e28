//! When nothing has changed and nothing is to be done, planning again would come to the same.

use super::Office;
use crate::state::NodeState;
use rangedb_planner::Liveness;
use rangedb_types::MonotonicTime;
use std::time::Duration;

/// A plan is made at least this often: should a change not have been counted, it is seen then.
const PLAN_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// What a plan depends on, but for the passing of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    revision: u64,
    changes: u64,
    /// Every node is up and stays: silence and drains are matters of time.
    is_steady: bool,
}

impl Inputs {
    pub(super) fn of(office: &Office) -> Self {
        office.look(|state, view, now| {
            let dead_after = state.node_dead_after();
            let present = state.nodes().filter(|node| node.state != NodeState::Removed);
            let mut steady = present.map(|node| {
                node.state == NodeState::Active
                    && view.has_told_all(node.node_id)
                    && view.liveness(node.node_id, now, dead_after) == Liveness::Up
            });
            let is_steady = steady.all(|steady| steady);
            Self { revision: state.revision(), changes: view.changes(), is_steady }
        })
    }
}

/// The last plan, if it came to nothing.
#[derive(Default)]
pub(super) struct Quiet {
    last: Option<(Inputs, MonotonicTime)>,
}

impl Quiet {
    /// True if a plan made now would come to nothing, like the last one.
    pub(super) fn holds(&self, inputs: Inputs, now: MonotonicTime) -> bool {
        self.last.is_some_and(|(last, at)| last == inputs && now.since(at) < PLAN_INTERVAL_MAX)
    }

    /// A plan was made of these inputs.
    pub(super) fn planned(&mut self, inputs: Inputs, now: MonotonicTime, came_to_nothing: bool) {
        let quiet = came_to_nothing && inputs.is_steady;
        self.last = quiet.then_some((inputs, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: Inputs = Inputs { revision: 7, changes: 3, is_steady: true };

    #[test]
    fn it_holds_until_something_changes_or_time_has_passed() {
        let at = |seconds| MonotonicTime(Duration::from_secs(seconds));
        let mut quiet = Quiet::default();
        assert!(!quiet.holds(INPUTS, at(1)), "nothing was planned yet");
        quiet.planned(INPUTS, at(1), false);
        assert!(!quiet.holds(INPUTS, at(1)), "there is something to do");
        quiet.planned(INPUTS, at(1), true);
        assert!(quiet.holds(INPUTS, at(5)));
        assert!(!quiet.holds(Inputs { changes: 4, ..INPUTS }, at(5)));
        assert!(!quiet.holds(Inputs { revision: 8, ..INPUTS }, at(5)));
        assert!(!quiet.holds(Inputs { is_steady: false, ..INPUTS }, at(5)), "a node fell silent");
        assert!(!quiet.holds(INPUTS, at(11)));
        let unsteady = Inputs { is_steady: false, ..INPUTS };
        quiet.planned(unsteady, at(11), true);
        assert!(!quiet.holds(unsteady, at(11)), "silence becomes death by time alone");
    }
}
