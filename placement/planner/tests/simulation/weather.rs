//! What happens to the cluster from outside.

use crate::carry_out::majority;
use crate::world::{DELAY_ROUNDS, DISK_BYTES, DOWN_ROUNDS, World};
use rangedb_types::{NodeId, Random as _};

/// From here on ranges do not grow any more.
const RANGES_ENOUGH: usize = 80;
/// So many nodes never die.
const NODES_MIN: usize = 3;
/// After so many rounds no command is on its way any more that was planned before.
const DYING_ROUNDS: u64 = DELAY_ROUNDS + 2;

impl World {
    fn any_node(&mut self) -> NodeId {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        nodes[self.random.below(nodes.len() as u64) as usize]
    }

    /// Perhaps something bad, or at least something new.
    pub fn weather(&mut self) {
        let node_id = self.any_node();
        match self.random.below(40) {
            0 => self.kill(node_id),
            1..4 => self.send_away(node_id),
            4 => self.drain_or_not(node_id),
            5 => {
                let zones: Vec<_> =
                    self.nodes.values().map(|node| node.view.zone.clone()).collect();
                let zone = self.random.below(zones.len() as u64) as usize;
                if zones.len() < 12 {
                    self.add_node(&zones[zone]);
                }
            }
            6 => {
                let node = self.nodes.get_mut(&node_id).expect("it was chosen among them");
                node.other_bytes = if node.other_bytes == 0 { DISK_BYTES / 10 * 9 } else { 0 };
            }
            7 => self.policy.replication_factor = [3, 3, 5, 1, 4][self.random.below(5) as usize],
            8..11 => self.reheat(),
            11..14 => self.resize(),
            _ => {}
        }
        self.bury();
        self.come_back();
    }

    /// Goes away, and will be dead for good when all that was planned before is done or lost: no
    /// plan can provide against the death of a majority in the moment between a plan and its step.
    fn kill(&mut self, node_id: NodeId) {
        self.send_away(node_id);
        self.nodes.get_mut(&node_id).expect("the caller chose a node there is").dying = true;
    }

    /// Is dead for good, and known to be.
    pub fn kill_now(&mut self, node_id: NodeId) {
        let since = self.round.saturating_sub(DOWN_ROUNDS);
        let node = self.nodes.get_mut(&node_id).expect("the caller chose a node there is");
        (node.dead, node.away_since) = (true, Some(since));
    }

    /// Those that are dying die, unless that takes a majority from some range, or too many nodes.
    fn bury(&mut self) {
        let round = self.round;
        let due: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.dying)
            .filter(|node| node.away_since.is_some_and(|since| since + DYING_ROUNDS <= round))
            .map(|node| node.view.node_id)
            .collect();
        for node_id in due {
            let left = self.nodes.values().filter(|node| !node.dead).count();
            let dies = left > NODES_MIN && self.can_lose(node_id);
            let node = self.nodes.get_mut(&node_id).expect("it was found among them");
            (node.dying, node.dead) = (false, dies);
        }
    }

    pub fn can_lose(&self, node_id: NodeId) -> bool {
        self.ranges.iter().all(|range| {
            majority(range, |replica| {
                replica.node_id != node_id
                    && !self.is_dead(replica.node_id)
                    && range.filled.contains(&replica.replica_id)
            })
        })
    }

    fn send_away(&mut self, node_id: NodeId) {
        let round = self.round;
        let node = self.nodes.get_mut(&node_id).expect("the caller chose a node there is");
        node.away_since.get_or_insert(round);
    }

    fn come_back(&mut self) {
        let away: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.away_since.is_some() && !node.dead && !node.dying)
            .map(|node| node.view.node_id)
            .collect();
        for node_id in away {
            if self.one_in(12) {
                self.bring_back(node_id);
            }
        }
    }

    fn bring_back(&mut self, node_id: NodeId) {
        let round = self.round;
        let node = self.nodes.get_mut(&node_id).expect("the caller chose a node there is");
        node.away_since = None;
        node.dying = false;
        node.back_since = round;
    }

    fn drain_or_not(&mut self, node_id: NodeId) {
        let refused = rangedb_planner::can_drain(&self.view(), &self.policy, node_id).is_err();
        let node =
            &mut self.nodes.get_mut(&node_id).expect("the caller chose a node there is").view;
        if node.draining {
            node.draining = false;
            node.accepts_replicas = true;
        } else if !refused {
            node.draining = true;
            node.accepts_replicas = false;
        }
    }

    fn reheat(&mut self) {
        let hot = self.random.below(self.ranges.len() as u64) as usize;
        let (reads, quiet) = (self.random.below(8_000), self.random.below(200));
        for (index, range) in self.ranges.iter_mut().enumerate() {
            range.reads = if index == hot { reads } else { quiet };
            range.writes = range.reads / 2;
        }
    }

    fn resize(&mut self) {
        let most = if self.ranges.len() < RANGES_ENOUGH { 700 << 20 } else { 200 << 20 };
        for index in 0..self.ranges.len() {
            if self.one_in(3) {
                self.ranges[index].size_bytes = self.random.below(most);
            }
        }
    }

    /// Puts so much else on a disk that about half of the replicas there must go.
    pub fn fill_disk(&mut self, node_id: NodeId) {
        let used = self.used_bytes()[&node_id];
        let node = self.nodes.get_mut(&node_id).expect("the caller chose a node there is");
        node.other_bytes = DISK_BYTES / 100 * 96 - (used - node.other_bytes) / 2;
    }

    /// Nobody is away who can come back, nothing is lost, disks are empty again.
    pub fn clear_up(&mut self) {
        self.storm = false;
        let away: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.away_since.is_some() && !node.dead)
            .map(|node| node.view.node_id)
            .collect();
        for node_id in away {
            self.bring_back(node_id);
        }
        for node in self.nodes.values_mut() {
            node.other_bytes = 0;
        }
    }
}
