//! The lead goes to where it is wanted at once, so that nobody waits for it.

use super::World;
use super::found::LEFT;
use super::settings::Plan;
use crate::replica::membership::ReplicaChangeKind;
use rangedb_types::{MonotonicClock as _, Replica as Member, ReplicaRole};
use std::time::Duration;

/// Less than an election takes.
const LIMIT: Duration = Duration::from_millis(300);

/// It had just begun, and kept silent as if it had forgotten a promise of an earlier life: whoever moved a
/// range stopped its writes for a second.
#[test]
fn a_replica_that_a_snapshot_filled_takes_the_lead_at_once() {
    let mut world = World::new(1, Plan { nodes: 4, raft_threads: 1, ..Plan::of_seed(1) });
    world.until("a leader", |world| world.led(LEFT).is_some());
    let (at, left) = world.led(LEFT).expect("it is led");
    let (replica_id, node_id) = (world.placement.new_replica_id(LEFT), world.nodes[3].id);
    let learner = Member { replica_id, node_id, role: ReplicaRole::Learner };
    let kinds = [ReplicaChangeKind::AddLearner, ReplicaChangeKind::Promote];
    for kind in kinds {
        let epoch = left.descriptor().epoch;
        let changes = vec![(kind, learner)];
        world.change(at, LEFT, epoch, changes, false);
        world.until("the change", |world| world.epoch(LEFT) != epoch);
        world.until("it has caught up", |world| {
            let (_, leader) = world.led(LEFT).expect("it is led");
            leader.status().caught_up.contains(&replica_id)
        });
    }
    let epoch = left.descriptor().epoch;
    world.change(at, LEFT, epoch, Vec::new(), true);
    world.until("no joint configuration", |world| world.epoch(LEFT) != epoch);
    let asked = world.nodes[at].clock.now();
    world.transfer_to(at, LEFT, replica_id);
    world.until("the new leader", |world| world.led(LEFT).is_some_and(|(at, _)| at == 3));
    let took = world.nodes[at].clock.now().since(asked);
    assert!(took < LIMIT, "it took {took:?}");
}
