//! Which replicas of a Raft thread are awake, and who wakes the others when a node falls silent,
//! comes back or starts anew. At most so many wake in one tick: a node that goes takes the leaders of
//! many ranges with it, and all of them at once would drown those that are in use. Who is asked for
//! something wakes at once.

use super::IdSet;
use super::peers::Heard;
use super::worker::Worker;
use rangedb_types::{MonotonicTime, NodeId, RangeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Replicas that wake in one tick of one Raft thread without being asked for anything.
const WAKE_MAX: usize = 256;

/// Who is awake on a Raft thread, and who is to be.
#[derive(Default)]
pub struct Sleepers {
    awake: IdSet<RangeId>,
    /// To be woken, each at most once; those who have lost their leader first.
    orphans: VecDeque<RangeId>,
    waking: VecDeque<RangeId>,
    queued: IdSet<RangeId>,
    /// Nodes that were not heard from for an election time-out.
    silent: BTreeSet<NodeId>,
    streams: BTreeMap<NodeId, u64>,
}

impl Sleepers {
    pub fn note_awake(&mut self, range_id: RangeId) {
        self.awake.insert(range_id);
    }

    pub fn wake_later(&mut self, range_id: RangeId) {
        if self.queued.insert(range_id) {
            self.waking.push_back(range_id);
        }
    }

    fn wake_soon(&mut self, range_id: RangeId) {
        if self.queued.insert(range_id) {
            self.orphans.push_back(range_id);
        }
    }

    fn next(&mut self) -> Option<RangeId> {
        let range_id = self.orphans.pop_front().or_else(|| self.waking.pop_front())?;
        self.queued.remove(&range_id);
        Some(range_id)
    }

    /// Takes in who was heard; returns the nodes for which that changed anything.
    fn listen(&mut self, heard: &[Heard], now: MonotonicTime, limit: Duration) -> Vec<NodeId> {
        let mut changed = Vec::new();
        for peer in heard {
            let silent = now.since(peer.at) > limit;
            let was_silent = self.silent.contains(&peer.node_id);
            let streams = self.streams.insert(peer.node_id, peer.streams).unwrap_or(peer.streams);
            if silent {
                self.silent.insert(peer.node_id);
            } else {
                self.silent.remove(&peer.node_id);
            }
            if silent != was_silent || streams != peer.streams {
                changed.push(peer.node_id);
            }
        }
        changed
    }
}

impl Worker {
    /// A replica was loaded: it wakes with the others, a few at a time.
    pub(super) fn begin_asleep(&mut self, range_id: RangeId, now: MonotonicTime) {
        if let Some(hosted) = self.replicas.get_mut(&range_id) {
            hosted.core.begin_asleep(now);
            self.sleepers.wake_later(range_id);
        }
    }

    /// One tick for all that are awake.
    pub(super) fn tick(&mut self, now: MonotonicTime) {
        self.listen(now);
        self.wake_some(now);
        let silent = self.sleepers.silent.clone();
        let mut awake = std::mem::take(&mut self.sleepers.awake);
        awake.retain(|range_id| {
            let Some(hosted) = self.replicas.get_mut(range_id) else { return false };
            self.touched.insert(*range_id);
            let is_silent = |node_id| silent.contains(&node_id);
            hosted.tick(now, &self.shared, is_silent, &mut self.outbound);
            !hosted.core.is_asleep()
        });
        self.sleepers.awake = awake;
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.shared.metrics.replicas.set(gauge(self.replicas.len()));
        self.shared.metrics.awake.set(gauge(self.sleepers.awake.len()));
    }

    /// Wakes, in a while, those to whom it matters that a node fell silent, came back or started.
    fn listen(&mut self, now: MonotonicTime) {
        let limit = self.shared.settings.replica.election_timeout();
        let changed = self.sleepers.listen(&self.shared.peers.all(), now, limit);
        if changed.is_empty() {
            return;
        }
        for (range_id, hosted) in &self.replicas {
            let core = &hosted.core;
            let concerned = |node_id: &NodeId| core.descriptor().replica_on(*node_id).is_some();
            if !core.is_asleep() || !changed.iter().any(concerned) {
                continue;
            }
            let leader = core.leader_id().and_then(|id| core.descriptor().replica(id));
            if leader.is_some_and(|member| self.sleepers.silent.contains(&member.node_id)) {
                self.sleepers.wake_soon(*range_id);
            } else {
                self.sleepers.wake_later(*range_id);
            }
        }
    }

    fn wake_some(&mut self, now: MonotonicTime) {
        for _ in 0..WAKE_MAX {
            let Some(range_id) = self.sleepers.next() else { return };
            let Some(hosted) = self.replicas.get_mut(&range_id) else { continue };
            let leader = hosted.core.leader_id();
            let member = leader.and_then(|id| hosted.core.descriptor().replica(id).copied());
            let silent = member.is_some_and(|one| self.sleepers.silent.contains(&one.node_id));
            hosted.core.wake(now, silent);
            self.sleepers.note_awake(range_id);
            self.touched.insert(range_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(node: u64, at_ms: u64, streams: u64) -> Heard {
        let at = MonotonicTime(Duration::from_millis(at_ms));
        Heard { node_id: NodeId(node), at, streams }
    }

    #[test]
    fn silence_return_and_a_new_start_are_noticed_once() {
        let mut sleepers = Sleepers::default();
        let now = |ms| MonotonicTime(Duration::from_millis(ms));
        let limit = Duration::from_secs(1);
        assert!(sleepers.listen(&[heard(1, 100, 1)], now(200), limit).is_empty());
        assert!(sleepers.listen(&[heard(1, 100, 1)], now(1_100), limit).is_empty());
        assert_eq!(sleepers.listen(&[heard(1, 100, 1)], now(1_101), limit), [NodeId(1)]);
        assert!(sleepers.listen(&[heard(1, 100, 1)], now(9_000), limit).is_empty());
        assert_eq!(sleepers.listen(&[heard(1, 9_100, 1)], now(9_101), limit), [NodeId(1)]);
        assert_eq!(sleepers.listen(&[heard(1, 9_200, 2)], now(9_201), limit), [NodeId(1)]);
        assert!(sleepers.listen(&[heard(1, 9_300, 2)], now(9_301), limit).is_empty());
    }

    #[test]
    fn who_has_lost_its_leader_wakes_first() {
        let mut sleepers = Sleepers::default();
        sleepers.wake_later(RangeId(1));
        sleepers.wake_soon(RangeId(2));
        sleepers.wake_soon(RangeId(1));
        assert_eq!([sleepers.next(), sleepers.next(), sleepers.next()], [2, 1, 0].map(some));
    }

    fn some(id: u64) -> Option<RangeId> {
        (id > 0).then_some(RangeId(id))
    }

    #[test]
    fn a_replica_is_queued_once() {
        let mut sleepers = Sleepers::default();
        sleepers.wake_later(RangeId(1));
        sleepers.wake_later(RangeId(1));
        assert_eq!(sleepers.waking.len(), 1);
    }
}
