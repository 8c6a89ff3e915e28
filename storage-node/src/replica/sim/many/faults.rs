//! What goes wrong: power, disks that are in the middle of a write, connections, logs that are cut.

use super::{Result, Violation, World};
use rangedb_types::Random as _;

/// Writes after which the power may fail.
const WRITES_MAX: u64 = 12;
/// Most nodes that are down at once, as a part of all.
const DOWN_PART: usize = 3;

impl World {
    pub(super) fn something_fails(&mut self) -> Result {
        let at = self.any_node();
        match self.random.below(16) {
            0..2 => self.fail_power(at),
            2 => {
                let gently = self.random.below(2) == 0;
                self.crash_if_allowed(at, gently);
            }
            3..8 => return self.start_one(),
            8..10 => {
                let (one, other) = (self.nodes[at].id, self.any_node());
                let other = self.nodes[other].id;
                if one != other {
                    self.cut.insert((one.min(other), one.max(other)));
                }
            }
            10 => {
                self.cut_off(at);
            }
            11..14 => self.cut.clear(),
            _ => self.cut_logs(at)?,
        }
        self.show_unreachable();
        Ok(())
    }

    /// A node hears nobody any more.
    pub(super) fn cut_off(&mut self, at: usize) {
        let one = self.nodes[at].id;
        let others = self.nodes.iter().map(|node| node.id).filter(|other| *other != one);
        self.cut.extend(others.map(|other| (one.min(other), one.max(other))));
    }

    /// The power of a node fails at one of its next writes.
    fn fail_power(&mut self, at: usize) {
        if self.may_go_down(at) {
            let (writes, made) = (self.random.below(WRITES_MAX), self.random.below(2) == 0);
            self.nodes[at].power.fail_after(writes, made);
        }
    }

    fn may_go_down(&self, at: usize) -> bool {
        let down = self.nodes.iter().filter(|node| node.running.is_none()).count();
        self.nodes[at].running.is_some() && down < self.nodes.len().div_ceil(DOWN_PART)
    }

    fn crash_if_allowed(&mut self, at: usize, gently: bool) {
        if self.may_go_down(at) {
            self.crash(at, gently);
        }
    }

    pub(super) fn crash(&mut self, at: usize, gently: bool) {
        self.nodes[at].crash(gently, &mut self.random);
        self.watch.crashes += 1;
        self.watch.forget(self.nodes[at].id);
        self.show_unreachable();
    }

    pub(super) fn start_one(&mut self) -> Result {
        let down: Vec<_> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].running.is_none()).collect();
        if down.is_empty() {
            return Ok(());
        }
        let at = down[self.random.below(down.len() as u64) as usize];
        if self.random.below(8) == 0 {
            // It fails again while it starts, or soon after.
            let (writes, made) = (self.random.below(WRITES_MAX / 2), self.random.below(2) == 0);
            self.nodes[at].power.fail_after(writes, made);
        }
        self.start(at)
    }

    pub(super) fn start(&mut self, at: usize) -> Result {
        self.watch.disk(&self.nodes[at])?;
        let started = self.nodes[at].start();
        self.collect(at)?;
        if self.nodes[at].power.is_off() {
            self.crash(at, false);
            return Ok(());
        }
        let id = self.nodes[at].id;
        let failed = |why| Violation::of("a store starts")(format!("node {id}: {why}"));
        started.map_err(failed)?;
        self.show_unreachable();
        self.watch.node(&self.nodes[at])
    }

    /// Logs of a node are cut as far as they may be, so that who lags needs a snapshot.
    pub(super) fn cut_logs(&mut self, at: usize) -> Result {
        let node = &mut self.nodes[at];
        let Some(running) = &mut node.running else { return Ok(()) };
        for handle in running.store.handles() {
            if self.random.below(2) == 0 {
                node.log.pin(handle.replica_id());
            }
        }
        let result = running.store.compact();
        if node.power.is_off() {
            self.crash(at, false);
            return Ok(());
        }
        result.map_err(Violation::of("a store goes on"))
    }

    /// What a broken connection tells.
    pub(super) fn show_unreachable(&self) {
        for node in &self.nodes {
            let Some(running) = &node.running else { continue };
            let gone = self
                .nodes
                .iter()
                .filter(|other| other.running.is_none() || !self.hears(node.id, other.id));
            *running.wire.unreachable.lock() = gone.map(|other| other.id).collect();
        }
    }
}
