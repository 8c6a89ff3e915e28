//! Evens out what is healthy: replicas, leaderships, load.

mod leaders;
mod load;
mod replicas;

use crate::planning::Planning;

/// Half of what counts as even, so that small changes do not set everything in motion.
const TOLERANCE_DIVISOR: u64 = 20;

/// Most leaderships that one plan takes from, or gives to, one node for balance.
pub(crate) const TRANSFERS_PER_NODE_MAX: usize = 8;

/// What an even spread is, compared without fractions.
#[derive(Clone, Copy)]
struct Even {
    total: u64,
    nodes: u64,
}

impl Even {
    fn of(counts: impl Iterator<Item = u64>) -> Self {
        let mut even = Self { total: 0, nodes: 0 };
        for count in counts {
            even.total = even.total.saturating_add(count);
            even.nodes += 1;
        }
        even
    }

    /// How far a sum over all nodes may be off.
    fn slack(self) -> u64 {
        self.nodes.max(self.total / TOLERANCE_DIVISOR)
    }

    fn is_above(self, count: usize) -> bool {
        count as u64 * self.nodes > self.total
    }

    fn is_below(self, count: usize) -> bool {
        (count as u64 * self.nodes) < self.total
    }

    fn is_over(self, count: usize) -> bool {
        count as u64 * self.nodes > self.total + self.slack()
    }

    fn is_under(self, count: usize) -> bool {
        (count as u64 * self.nodes) + self.slack() < self.total
    }
}

pub(crate) fn balance(planning: &mut Planning<'_>) {
    replicas::balance(planning);
    leaders::balance(planning);
    load::balance(planning);
}
