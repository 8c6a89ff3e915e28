//! Faults that random runs found, each told by hand.

use super::World;
use super::clients::key;
use super::network::{Job, Packet};
use super::placement::Changes;
use super::settings::Plan;
use crate::raft_log::{LogChange, LogWrite, RaftLog as _};
use crate::replica::Input;
use crate::replica::apply::Freeze;
use crate::replica::command::{BoundaryChange, MergeName, MergePlan, SplitPlan};
use crate::replica::membership::ReplicaChangeKind;
use crate::store::handle::ReplicaHandle;
use crate::transport::Inbound;
use raft::eraftpb::HardState;
use rangedb_types::{
    Epoch, MonotonicClock as _, NodeId, RangeDescriptor, RangeId, Replica as Member, ReplicaRole,
    Span,
};
use std::sync::Arc;
use std::time::Duration;

pub(super) const LEFT: RangeId = RangeId(1);
const RIGHT: RangeId = RangeId(2);
/// Longer than it takes until an election may begin.
const ELECTION: Duration = Duration::from_secs(1);
/// Rounds after which a calm cluster has done what it was asked.
const ROUNDS: u32 = 400;

impl World {
    /// Three nodes with two ranges, and nothing that fails.
    pub(super) fn calm() -> Self {
        let mut world = Self::new(1, Plan { nodes: 3, raft_threads: 1, ..Plan::of_seed(1) });
        world.until("a leader", |world| world.led(LEFT).is_some());
        let plan = world.split_plan(12);
        world.bounds(LEFT, BoundaryChange::Split(plan));
        world.until("a right range", |world| world.led(RIGHT).is_some());
        world
    }

    /// How the left range, or one with as many replicas, is split.
    fn split_plan(&mut self, number: u64) -> SplitPlan {
        let copies = self.led(LEFT).expect("it is led").1.descriptor().replicas.len();
        let new_range_id = self.placement.new_range_id();
        let new_replica_ids =
            (0..copies).map(|_| self.placement.new_replica_id(new_range_id)).collect();
        let (left_bytes, right_bytes) = (0, 0);
        SplitPlan { key: key(number), new_range_id, new_replica_ids, left_bytes, right_bytes }
    }

    pub(super) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..ROUNDS {
            if done(self) {
                return;
            }
            self.calm_round().expect("nothing is broken");
        }
        panic!("{what} does not come");
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.calm_round().expect("nothing is broken");
        }
    }

    pub(super) fn led(&self, range_id: RangeId) -> Option<(usize, Arc<ReplicaHandle>)> {
        let mut leaders = self.leaders();
        leaders.retain(|(_, handle)| handle.range_id() == range_id);
        leaders.pop().filter(|(_, handle)| handle.status().leader.is_some())
    }

    pub(super) fn epoch(&self, range_id: RangeId) -> Epoch {
        self.led(range_id).expect("it is led").1.descriptor().epoch
    }

    /// A change of bounds is proposed and applied.
    fn bounds(&mut self, range_id: RangeId, change: BoundaryChange) {
        for _ in 0..ROUNDS {
            if let Some((at, _)) = self.led(range_id) {
                let epoch = self.epoch(range_id);
                let answer = self.propose_boundary(at, range_id, epoch, change.clone());
                self.rounds(4);
                if *answer.lock() == Some(Ok(())) {
                    return;
                }
            } else {
                self.rounds(1);
            }
        }
        panic!("{change:?} is not applied");
    }

    /// The right range's replicas are changed.
    fn members(&mut self, changes: &Changes, leave_joint: bool) {
        let before = self.epoch(RIGHT);
        for _ in 0..ROUNDS {
            if let Some((at, _)) = self.led(RIGHT) {
                if self.epoch(RIGHT) != before {
                    return;
                }
                self.change(at, RIGHT, before, changes.clone(), leave_joint);
            }
            self.rounds(2);
        }
        panic!("{changes:?} is not applied");
    }

    /// A follower leaves the right range; it is told, or cut off first. Returns its node.
    fn remove_follower(&mut self, cut_off: bool) -> usize {
        let behind = self.follower();
        let range = self.led(RIGHT).expect("it is led").1.descriptor();
        let member = *range.replica_on(self.nodes[behind].id).expect("it is a member");
        self.members(&vec![(ReplicaChangeKind::Demote, member)], false);
        self.members(&Vec::new(), true);
        if cut_off {
            self.cut_off(behind);
        }
        let learner = Member { role: ReplicaRole::Learner, ..member };
        self.members(&vec![(ReplicaChangeKind::Remove, learner)], false);
        self.cut.clear();
        self.until("its end", |world| world.handle(behind, RIGHT).is_none());
        behind
    }

    /// Goes on while all snapshots are on their way.
    fn until_without_snapshots(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..ROUNDS {
            if done(self) {
                return;
            }
            self.pass_time(50).expect("nothing is broken");
            for packet in std::mem::take(&mut self.packets) {
                self.deliver(packet);
            }
            for at in 0..self.nodes.len() {
                self.run_node(at, true).expect("nothing is broken");
            }
        }
        panic!("no snapshot is sent");
    }

    /// A round in which one node takes what comes to it, and does nothing of it yet.
    fn round_without(&mut self, at: usize) {
        self.pass_time(50).expect("nothing is broken");
        for packet in std::mem::take(&mut self.packets) {
            self.deliver(packet);
        }
        for transfer in std::mem::take(&mut self.transfers) {
            self.carry(transfer, true, true);
        }
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.run_node(other, true).expect("nothing is broken");
        }
    }

    /// Rounds in which the apply threads of a node stand still.
    fn rounds_without_applying(&mut self, at: usize, count: u32) {
        for _ in 0..count {
            self.round_without(at);
            let running = self.nodes[at].running.as_mut().expect("it runs");
            running.store.raft(0, 64).expect("it goes on");
            self.collect(at).expect("nothing is broken");
        }
    }

    /// Goes on until a node is about to install a snapshot.
    fn until_install(&mut self, at: usize) {
        for _ in 0..ROUNDS {
            self.round_without(at);
            let running = self.nodes[at].running.as_mut().expect("it runs");
            running.store.raft(0, 64).expect("it goes on");
            running.store.apply(0, 64).expect("it goes on");
            let installs = matches!(running.wire.jobs.lock().front(), Some(Job::Install(..)));
            self.collect(at).expect("nothing is broken");
            if installs {
                return;
            }
        }
        panic!("no snapshot is installed");
    }

    fn freeze(&mut self) -> MergeName {
        let left_version = self.epoch(LEFT).version;
        let name = MergeName { left_range_id: LEFT, left_version };
        self.bounds(RIGHT, BoundaryChange::Freeze(name));
        name
    }

    /// The right range is frozen; how the left one is to take it in.
    fn freeze_for(&mut self, left: RangeId, right: RangeId) -> MergePlan {
        let name = MergeName { left_range_id: left, left_version: self.epoch(left).version };
        self.bounds(right, BoundaryChange::Freeze(name));
        let (_, handle) = self.led(right).expect("it is led");
        let freeze = handle.frozen().expect("it is frozen").position;
        MergePlan { right: (*handle.descriptor()).clone(), freeze }
    }

    fn thaw(&mut self, name: MergeName) {
        self.bounds(LEFT, BoundaryChange::RaiseVersion(name.left_version));
        self.bounds(RIGHT, BoundaryChange::Thaw(name));
    }

    /// A node that does not lead the right range.
    fn follower(&self) -> usize {
        let (leader, _) = self.led(RIGHT).expect("it is led");
        (leader + 1) % self.nodes.len()
    }

    /// A range's leader keeps nothing of its log that it can do without.
    fn cut_log(&mut self, range_id: RangeId) {
        let (at, handle) = self.led(range_id).expect("it is led");
        let node = &mut self.nodes[at];
        node.log.pin(handle.replica_id());
        node.running.as_mut().expect("it runs").store.compact().expect("the disks work");
        self.rounds(2);
    }

    fn frozen(&self, at: usize) -> Option<Freeze> {
        self.handle(at, RIGHT).expect("it is there").frozen()
    }
}

/// A snapshot would not tell that the range is frozen, so there is none; raft-rs must not take that
/// for a broken disk, and end the process.
#[test]
fn a_frozen_leader_survives_a_follower_that_needs_a_snapshot() {
    let mut world = World::calm();
    let behind = world.follower();
    world.crash(behind, true);
    let name = world.freeze();
    world.cut_log(RIGHT);
    world.start(behind).expect("it starts");
    world.rounds(40);
    assert_eq!(world.watch.snapshots, 0);
    world.thaw(name);
    world.until("a snapshot", |world| world.watch.snapshots > 0);
    world.until("the follower", |world| {
        let leader = world.led(RIGHT).expect("it is led").1;
        let follower = world.handle(behind, RIGHT);
        follower.is_some_and(|follower| follower.applied_index() == leader.applied_index())
    });
}

/// It would lead later, and serve nobody.
#[test]
fn a_replica_that_is_thawed_by_a_snapshot_serves() {
    let mut world = World::calm();
    let name = world.freeze();
    let behind = world.follower();
    world.until("the freeze everywhere", |world| world.frozen(behind).is_some());
    // Alive, and cut off: a restart would read what is on disk.
    world.cut_off(behind);
    world.thaw(name);
    world.cut_log(RIGHT);
    world.cut.clear();
    world.until("a snapshot", |world| world.watch.snapshots > 0);
    world.rounds(10);
    assert_eq!(world.frozen(behind), None);
    let to = world.handle(behind, RIGHT).expect("it is there").replica_id();
    let (at, _) = world.led(RIGHT).expect("it is led");
    world.nodes[at]
        .running
        .as_ref()
        .expect("it runs")
        .store
        .input(RIGHT, Input::TransferLeader { to });
    world.until("the new leader", |world| {
        world.handle(behind, RIGHT).is_some_and(|handle| handle.leadership().is_some())
    });
}

/// A node is behind a merge. It hears of the merged range from another that was split off since, and
/// removes what was merged away; then the log, not a snapshot, brings the merge.
#[test]
fn a_merge_whose_right_range_is_gone_waits_for_a_snapshot() {
    let mut world = World::calm();
    let (at, left) = world.led(LEFT).expect("it is led");
    let right = world.led(RIGHT).expect("it is led").1.descriptor();
    if let Some(to) = right.replica_on(world.nodes[at].id).map(|member| member.replica_id) {
        let (from, _) = world.led(RIGHT).expect("it is led");
        world.transfer_to(from, RIGHT, to);
    }
    world.rounds(20);
    world.freeze();
    world.rounds(20);
    let freeze = world.led(RIGHT).expect("it is led").1.frozen().expect("it is frozen");
    let behind = (at + 1) % world.nodes.len();
    world.cut_off(behind);
    let plan = MergePlan { right: (*right).clone(), freeze: freeze.position };
    world.bounds(LEFT, BoundaryChange::Merge(plan));
    world.nodes[behind].running.as_ref().expect("it runs").store.merged_away(RIGHT);
    world.rounds(2);
    assert!(world.handle(behind, RIGHT).is_none());
    world.cut.clear();
    world.until("the merge", |world| {
        let follower = world.handle(behind, LEFT).expect("it is there");
        follower.descriptor().span == Span::all()
            && follower.applied_index() >= left.applied_index()
    });
}

/// A node is behind two merges, the right range of the first of which is gone from it: what is to be
/// taken in by the second stands still, and gets no snapshot, for it is frozen.
#[test]
fn a_merge_whose_right_range_stands_still_waits_for_a_snapshot() {
    let mut world = World::calm();
    let plan = world.split_plan(6);
    let middle = plan.new_range_id;
    world.bounds(LEFT, BoundaryChange::Split(plan));
    world.until("a middle range", |world| world.led(middle).is_some());
    let first = world.freeze_for(middle, RIGHT);
    let behind = world.follower();
    world.rounds(20);
    world.cut_off(behind);
    world.rounds(60);
    world.bounds(middle, BoundaryChange::Merge(first));
    let second = world.freeze_for(LEFT, middle);
    world.nodes[behind].running.as_ref().expect("it runs").store.merged_away(RIGHT);
    world.cut.clear();
    world.rounds(60);
    world.bounds(LEFT, BoundaryChange::Merge(second));
    world.until("the merge", |world| {
        let follower = world.handle(behind, LEFT).expect("it is there");
        follower.descriptor().span == Span::all()
    });
}

/// A split is committed by a node that holds it and then cannot apply the merge before it: a snapshot
/// brings that node beyond it, as it does another that slept: the new range has a replica on one node only.
#[test]
fn a_range_whose_other_replicas_no_split_made_is_led() {
    let mut world = World::calm();
    let merge = world.freeze_for(LEFT, RIGHT);
    world.rounds(20);
    let (at, left) = world.led(LEFT).expect("it is led");
    let (stuck, asleep) = ((at + 1) % 3, (at + 2) % 3);
    world.crash(asleep, true);
    let epoch = world.epoch(LEFT);
    let version = epoch.version.max(merge.right.epoch.version) + 1;
    world.propose_boundary(at, LEFT, epoch, BoundaryChange::Merge(merge));
    world.rounds_without_applying(stuck, 20);
    let plan = world.split_plan(18);
    let new = plan.new_range_id;
    let split = BoundaryChange::Split(plan);
    world.propose_boundary(at, LEFT, Epoch { version, ..epoch }, split);
    world.rounds_without_applying(stuck, 20);
    assert_eq!(left.descriptor().span.end, key(18));
    world.nodes[stuck].running.as_ref().expect("it runs").store.merged_away(RIGHT);
    world.rounds_without_applying(stuck, 1);
    world.cut_log(LEFT);
    world.start(asleep).expect("it starts");
    world.until("its leader", |world| world.led(new).is_some());
    world.until("its replicas", |world| {
        (0..3).all(|at| world.handle(at, new).is_some() && world.handle(at, RIGHT).is_none())
    });
}

/// A snapshot of a range and one of what was split off it since come to a node that has neither: both
/// found their keys free, and were installed one over the other.
#[test]
fn snapshots_of_the_same_keys_are_not_installed_over_each_other() {
    let mut world = World::new(1, Plan { nodes: 4, raft_threads: 1, ..Plan::of_seed(1) });
    world.until("a leader", |world| world.led(LEFT).is_some());
    let (at, left) = world.led(LEFT).expect("it is led");
    let (replica_id, node_id) = (world.placement.new_replica_id(LEFT), world.nodes[3].id);
    let learner = Member { replica_id, node_id, role: ReplicaRole::Learner };
    let add = vec![(ReplicaChangeKind::AddLearner, learner)];
    world.change(at, LEFT, left.descriptor().epoch, add, false);
    let on_its_way = |range_id| {
        move |world: &World| {
            world.transfers.iter().any(|transfer| transfer.job.descriptor.range_id == range_id)
        }
    };
    world.until_without_snapshots(on_its_way(LEFT));
    let plan = world.split_plan(12);
    let epoch = world.epoch(LEFT);
    world.propose_boundary(at, LEFT, epoch, BoundaryChange::Split(plan));
    world.until_without_snapshots(on_its_way(RIGHT));
    for transfer in std::mem::take(&mut world.transfers) {
        world.carry(transfer, true, true);
    }
    world.until("both", |world| [LEFT, RIGHT].iter().all(|id| world.handle(3, *id).is_some()));
}

/// Its end was on its way from the apply thread; raft-rs took the missing state for a broken disk, and
/// ended the process.
#[test]
fn a_leader_that_was_just_merged_survives_a_follower_that_needs_a_snapshot() {
    let mut world = World::calm();
    let (at, _) = world.led(RIGHT).expect("it is led");
    let asleep = world.follower();
    world.crash(asleep, true);
    let merge = world.freeze_for(LEFT, RIGHT);
    world.rounds(60);
    world.cut_log(RIGHT);
    let (left_at, _) = world.led(LEFT).expect("it is led");
    assert_eq!(world.led(RIGHT).expect("it is led").0, at);
    let epoch = world.epoch(LEFT);
    world.propose_boundary(left_at, LEFT, epoch, BoundaryChange::Merge(merge));
    world.rounds_without_applying(at, 20);
    world.start(asleep).expect("it starts");
    let from = world.nodes[asleep].id;
    let speaks = |packet: &Packet| {
        packet.inbound.from_node == from
            && packet.inbound.range_id == RIGHT
            && packet.to == NodeId(at as u64 + 1)
    };
    for _ in 0..ROUNDS {
        world.rounds_without_applying(at, 1);
        if world.packets.iter().any(speaks) {
            break;
        }
    }
    let store = &mut world.nodes[at].running.as_mut().expect("it runs").store;
    for packet in world.packets.iter().filter(|packet| speaks(packet)) {
        store.deliver(packet.inbound.clone());
    }
    store.apply(0, 64).expect("it goes on");
    store.raft(0, 64).expect("it goes on");
    assert!(world.handle(at, RIGHT).is_none());
}

/// It never campaigns, so nobody had an occasion to tell it.
#[test]
fn a_learner_that_was_removed_while_it_was_cut_off_goes() {
    World::calm().remove_follower(true);
}

/// The split is on the disk, and the replica that it made on its way to its Raft thread: a message
/// that came before it made another, whose log knew a term, and no store started from that any more.
#[test]
fn a_message_does_not_overtake_the_replica_that_a_split_makes() {
    let mut world = World::calm();
    let (at, _) = world.led(LEFT).expect("it is led");
    let behind = (at + 1) % world.nodes.len();
    let plan = world.split_plan(6);
    let (new, replica_id) = (plan.new_range_id, plan.new_replica_ids[behind]);
    let epoch = world.epoch(LEFT);
    world.propose_boundary(at, LEFT, epoch, BoundaryChange::Split(plan));
    for _ in 0..ROUNDS {
        world.rounds_without_applying(behind, 1);
        if world.led(new).is_some()
            && world.packets.iter().any(|packet| packet.inbound.to_replica == replica_id)
        {
            break;
        }
    }
    let mut packets = std::mem::take(&mut world.packets);
    packets.retain(|packet| packet.inbound.to_replica == replica_id);
    assert!(!packets.is_empty());
    let store = &mut world.nodes[behind].running.as_mut().expect("it runs").store;
    for packet in &packets {
        store.deliver(packet.inbound.clone());
    }
    store.apply(0, 64).expect("it goes on");
    for _ in &packets {
        store.raft(0, 1).expect("it goes on");
        assert!(store.cores().all(|(range_id, _)| range_id != new));
    }
    // As a replica had it that an earlier message made, before the left one's bounds were known here.
    let hard_state = HardState { term: 2, ..HardState::default() };
    let changes = vec![LogChange::SetHardState { replica_id, hard_state }];
    world.nodes[behind].log.write(LogWrite { changes }, true).expect("the disk works");
    world.crash(behind, false);
    world.start(behind).expect("it starts");
    world.until("the new range", |world| world.handle(behind, new).is_some());
}

/// Its state would come after its end: on the disk, and known to nobody.
#[test]
fn a_replica_is_not_removed_while_it_installs_a_snapshot() {
    let mut world = World::calm();
    let behind = world.remove_follower(false);
    let replica_id = world.placement.new_replica_id(RIGHT);
    let node_id = world.nodes[behind].id;
    let learner = Member { replica_id, node_id, role: ReplicaRole::Learner };
    let (at, leader) = world.led(RIGHT).expect("it is led");
    let range = (*leader.descriptor()).clone();
    world.change(at, RIGHT, range.epoch, vec![(ReplicaChangeKind::AddLearner, learner)], false);
    world.until_install(behind);
    let epoch = Epoch { conf_version: range.epoch.conf_version + 9, ..range.epoch };
    let store = &world.nodes[behind].running.as_ref().expect("it runs").store;
    store.deliver(Inbound {
        from_node: world.nodes[at].id,
        range_id: RIGHT,
        from_replica: leader.replica_id(),
        to_replica: replica_id,
        epoch,
        span: range.span.clone(),
        message: None,
        sleep: None,
        removed_by: Some(RangeDescriptor { epoch, ..range }),
    });
    // The leader's next message would mend it.
    world.cut_off(behind);
    world.rounds(2);
    assert!(world.handle(behind, RIGHT).is_some());
}

/// Followers that have applied a split no longer keep the promise for the right part's keys.
#[test]
fn the_lease_runs_out_while_the_bounds_change() {
    let mut world = World::calm();
    let holds = |world: &World| {
        let (_, left) = world.led(LEFT).expect("it is led");
        left.leadership().is_some_and(|leadership| left.lease_holds(leadership.term))
    };
    world.until("a lease", holds);
    let (at, left) = world.led(LEFT).expect("it is led");
    let (plan, epoch, term) = (world.split_plan(5), world.epoch(LEFT), left.status().term);
    world.propose_boundary(at, LEFT, epoch, BoundaryChange::Split(plan));
    let begun = world.nodes[at].clock.now();
    while world.nodes[at].clock.now().since(begun) < 2 * ELECTION {
        world.rounds_without_applying(at, 1);
    }
    assert!(left.status().is_leader && left.status().term == term, "it leads on");
    assert!(left.descriptor().epoch == epoch && !holds(&world), "it is not renewed");
    world.until("a lease again", |world| world.epoch(LEFT) != epoch && holds(world));
}
