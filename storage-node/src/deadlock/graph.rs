//! Who waits for whom, over all nodes, and the cycles among them.
//!
//! Owns: the edges. Must not know: streams, clocks. Invariants: an edge belongs to the node that reported it and
//! goes with it; adding an edge finds every cycle that it closes, because the graph had none before; a
//! victim that was named has its edges taken out, so that one cycle is broken once.

use rangedb_types::{NodeId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Transactions that wait, by their ids.
#[derive(Debug, Default)]
pub struct Graph {
    /// For each that waits: whom for, and which node says so.
    waits: BTreeMap<Timestamp, BTreeMap<Timestamp, NodeId>>,
    edges: usize,
}

/// A cycle, and who has to give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock {
    pub victim: Timestamp,
    /// Where it waits.
    pub nodes: BTreeSet<NodeId>,
    /// Each waits for the next, the last for the first; begins with the victim.
    pub cycle: Vec<Timestamp>,
}

/// Most edges that are kept; more are not looked at, and time-outs decide.
pub const EDGES_MAX: usize = 100_000;

impl Graph {
    /// Adds an edge; the deadlocks it makes: several if there is more than one way back. The youngest of a
    /// cycle gives way: it has the least to lose, and an old transaction is not the victim of ever younger
    /// ones.
    pub fn add(&mut self, node: NodeId, waiter: Timestamp, holder: Timestamp) -> Vec<Deadlock> {
        if self.edges >= EDGES_MAX || waiter == holder {
            return Vec::new();
        }
        if self.waits.entry(waiter).or_default().insert(holder, node).is_none() {
            self.edges += 1;
        }
        let mut found = Vec::new();
        while let Some(cycle) = self.cycle(waiter, holder) {
            found.push(self.break_up(cycle));
        }
        found
    }

    /// The cycle that an edge closes, if it is still there.
    fn cycle(&self, waiter: Timestamp, holder: Timestamp) -> Option<Vec<Timestamp>> {
        self.waits.get(&waiter)?.get(&holder)?;
        self.path(holder, waiter)
    }

    fn break_up(&mut self, mut cycle: Vec<Timestamp>) -> Deadlock {
        let youngest = cycle.iter().enumerate().max_by_key(|(_, id)| **id);
        let youngest = youngest.map_or(0, |(at, _)| at);
        cycle.rotate_left(youngest);
        let victim = cycle[0];
        let waits = self.waits.get(&victim);
        let nodes = waits.into_iter().flat_map(BTreeMap::values).copied().collect();
        self.remove_waiter(victim);
        Deadlock { victim, nodes, cycle }
    }

    /// A transaction waits for another one no more, as far as this node knows.
    pub fn remove(&mut self, node: NodeId, waiter: Timestamp, holder: Timestamp) {
        if let Some(holders) = self.waits.get_mut(&waiter) {
            if holders.get(&holder) == Some(&node) {
                holders.remove(&holder);
                self.edges -= 1;
            }
            if holders.is_empty() {
                self.waits.remove(&waiter);
            }
        }
    }

    /// Forgets what a node has said.
    pub fn forget(&mut self, node: NodeId) {
        self.waits.retain(|_, holders| {
            holders.retain(|_, of| *of != node);
            !holders.is_empty()
        });
        self.edges = self.waits.values().map(BTreeMap::len).sum();
    }

    #[must_use]
    pub const fn edges(&self) -> usize {
        self.edges
    }

    fn remove_waiter(&mut self, waiter: Timestamp) {
        self.edges -= self.waits.remove(&waiter).map_or(0, |holders| holders.len());
    }

    /// The way from one to another along the edges, both included; depth first, every transaction once.
    fn path(&self, from: Timestamp, to: Timestamp) -> Option<Vec<Timestamp>> {
        let mut came_from: BTreeMap<Timestamp, Timestamp> = BTreeMap::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == to {
                let mut path = vec![to];
                let mut last = to;
                while last != from {
                    last = came_from[&last];
                    path.push(last);
                }
                path.reverse();
                // It begins with the holder and ends with the waiter, who waits for the holder.
                return Some(path);
            }
            for holder in self.waits.get(&at).into_iter().flat_map(BTreeMap::keys) {
                if *holder != from && !came_from.contains_key(holder) {
                    came_from.insert(*holder, at);
                    open.push(*holder);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{Random as _, SeededRandom};

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);

    fn at(id: u64) -> Timestamp {
        Timestamp(id)
    }

    #[test]
    fn two_that_wait_for_each_other_are_told_apart_by_age() {
        let mut graph = Graph::default();
        assert_eq!(graph.add(HERE, at(5), at(9)), []);
        let found = graph.add(THERE, at(9), at(5)).remove(0);
        assert_eq!((found.victim, found.cycle), (at(9), vec![at(9), at(5)]));
        assert_eq!(found.nodes, [THERE].into());
        assert_eq!(graph.edges(), 1, "the victim waits no more");
        assert_eq!(graph.add(HERE, at(7), at(5)), []);
    }

    #[test]
    fn one_edge_may_close_two_cycles() {
        let mut graph = Graph::default();
        for (waiter, holder) in [(2, 3), (2, 4), (3, 1), (4, 1)] {
            assert_eq!(graph.add(HERE, at(waiter), at(holder)), []);
        }
        let found = graph.add(HERE, at(1), at(2));
        let mut victims: Vec<_> = found.iter().map(|deadlock| deadlock.victim).collect();
        victims.sort();
        assert_eq!(victims, [at(3), at(4)]);
    }

    #[test]
    fn three_over_two_nodes_make_one_cycle() {
        let mut graph = Graph::default();
        assert_eq!(graph.add(HERE, at(3), at(1)), []);
        assert_eq!(graph.add(THERE, at(2), at(3)), []);
        let found = graph.add(HERE, at(1), at(2)).remove(0);
        assert_eq!((found.victim, found.cycle), (at(3), vec![at(3), at(1), at(2)]));
    }

    #[test]
    fn what_is_over_makes_no_cycle() {
        let mut graph = Graph::default();
        graph.add(HERE, at(1), at(2));
        graph.remove(THERE, at(1), at(2));
        assert_eq!(graph.edges(), 1, "another node's edge");
        graph.remove(HERE, at(1), at(2));
        assert_eq!(graph.add(HERE, at(2), at(1)), []);
        graph.forget(HERE);
        assert_eq!(graph.edges(), 0);
    }

    /// Random edges against the definition: after every step no transaction can reach itself.
    #[test]
    fn no_cycle_is_ever_left() {
        for seed in 0..50 {
            println!("seed {seed}");
            let (mut random, mut graph) = (SeededRandom::new(seed), Graph::default());
            let mut found = 0;
            for _ in 0..300 {
                let (a, b) = (at(random.below(12) + 1), at(random.below(12) + 1));
                if random.below(4) == 0 {
                    graph.remove(HERE, a, b);
                } else {
                    for deadlock in graph.add(HERE, a, b) {
                        found += 1;
                        assert!(deadlock.cycle.iter().all(|id| *id <= deadlock.victim));
                    }
                }
                for id in 1..=12 {
                    for holder in graph.waits.get(&at(id)).into_iter().flat_map(BTreeMap::keys) {
                        assert_eq!(graph.path(*holder, at(id)), None, "a cycle is left");
                    }
                }
                let edges: usize = graph.waits.values().map(BTreeMap::len).sum();
                assert_eq!(graph.edges(), edges);
            }
            assert!(found > 0);
        }
    }
}
