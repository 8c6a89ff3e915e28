//! Idle ranges sleep, and wake whole.

use super::{Cluster, options};
use crate::replica::{Input, Sleep};
use crate::store::handle::ReadError;
use parking_lot::Mutex;
use rangedb_types::ReplicaId;
use std::sync::Arc;
use std::time::Duration;

/// Far longer than it takes to fall asleep.
const TICKS: u32 = 100;

/// Lets time pass until the leader sleeps; tells those in `told`.
fn fall_asleep(cluster: &mut Cluster, leader: u64, told: &[u64]) -> Option<Sleep> {
    for _ in 0..TICKS {
        cluster.tick();
        cluster.settle();
        let now = cluster.now;
        let Some(sleep) = cluster.replica(leader).fall_asleep(now, |_| false) else { continue };
        for id in told {
            cluster.step(*id, Input::Sleep { from: ReplicaId(leader), sleep });
        }
        return Some(sleep);
    }
    None
}

/// Three replicas that sleep, and which one leads.
fn sleeping() -> (Cluster, u64, [u64; 2]) {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    cluster.propose(leader, 1);
    cluster.settle();
    let mut others = (1..=3).filter(|id| *id != leader);
    let others = [others.next().unwrap(), others.next().unwrap()];
    fall_asleep(&mut cluster, leader, &others).expect("nothing keeps it awake");
    assert!((1..=3).all(|id| cluster.replica(id).is_asleep()));
    (cluster, leader, others)
}

#[test]
fn an_idle_range_says_nothing_and_wakes_for_a_write() {
    let (mut cluster, leader, _) = sleeping();
    for _ in 0..TICKS {
        cluster.tick();
        cluster.work_all();
        assert!(cluster.network.is_empty(), "{:?}", cluster.network);
    }
    assert_eq!(cluster.leader(), Some(leader));
    cluster.propose(leader, 2);
    cluster.settle();
    assert!(cluster.answers.lock().contains(&(2, Ok(()))));
    cluster.tick();
    cluster.tick();
    cluster.settle();
    assert!((1..=3).all(|id| !cluster.replica(id).is_asleep()));
    assert!(cluster.nodes.values().all(|node| node.applied == [1, 2]));
}

/// The lease runs out in sleep, and is not taken up again without a majority.
#[test]
fn after_a_sleep_the_first_read_asks_a_majority() {
    let (mut cluster, leader, others) = sleeping();
    for _ in 0..TICKS {
        cluster.tick();
    }
    let (term, now) = (cluster.replica(leader).term(), cluster.now);
    assert!(!cluster.replica(leader).lease().holds(term, now));
    let answer: Arc<Mutex<Option<Result<(), ReadError>>>> = Arc::default();
    let slot = Arc::clone(&answer);
    cluster.step(leader, Input::Read(Box::new(move |result| *slot.lock() = Some(result))));
    cluster.work(leader);
    assert_eq!(*answer.lock(), None, "nobody has confirmed it yet");
    cluster.settle();
    assert_eq!(*answer.lock(), Some(Ok(())));
    assert!(others.iter().all(|id| !cluster.replica(*id).is_asleep()), "its round woke them");
}

#[test]
fn a_follower_that_lacks_something_keeps_the_leader_awake() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(behind, false);
    cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(fall_asleep(&mut cluster, leader, &[]), None);
    // Unless its node is known to be silent, and it was reported as down for that.
    cluster.now = cluster.now + options().peer_down_after + Duration::from_secs(1);
    let now = cluster.now;
    let contact = (1..=3).find(|id| *id != leader && *id != behind).unwrap();
    cluster.tick();
    cluster.settle();
    let silent = |node: rangedb_types::NodeId| node.get() == behind;
    let asleep = (0..TICKS).any(|_| {
        cluster.tick();
        cluster.settle();
        let now = cluster.now;
        cluster.replica(leader).fall_asleep(now, silent).is_some()
    });
    assert!(asleep, "at {now:?}, with {contact} in touch");
}

#[test]
fn a_follower_that_is_elsewhere_stays_awake_and_wakes_the_leader() {
    let (mut cluster, leader, others) = sleeping();
    cluster.propose(leader, 2);
    cluster.settle();
    // One of the two is not told.
    fall_asleep(&mut cluster, leader, &others[..1]).expect("nothing keeps it awake");
    let stale = Sleep { term: 1, index: 5 };
    cluster.step(others[1], Input::Sleep { from: ReplicaId(leader), sleep: stale });
    assert!(!cluster.replica(others[1]).is_asleep());
    let term = cluster.replica(leader).term();
    for _ in 0..TICKS {
        cluster.tick();
        cluster.settle();
    }
    assert!(!cluster.replica(leader).is_asleep());
    assert_eq!((cluster.leader(), cluster.replica(leader).term()), (Some(leader), term));
}

/// Its vote would be a needless election, and the other sleeper is still bound to the leader.
#[test]
fn a_follower_that_starts_anew_does_not_depose_a_sleeping_leader() {
    let (mut cluster, leader, others) = sleeping();
    let term = cluster.replica(leader).term();
    cluster.crash(others[0], true);
    cluster.now = cluster.now + Duration::from_secs(60);
    cluster.start(others[0]);
    for _ in 0..TICKS {
        cluster.tick();
        cluster.settle();
    }
    assert_eq!((cluster.leader(), cluster.replica(leader).term()), (Some(leader), term));
    assert_eq!(cluster.replica(others[0]).leader_id(), Some(ReplicaId(leader)));
}

#[test]
fn followers_whose_leaders_node_is_silent_elect_another_one() {
    let (mut cluster, leader, others) = sleeping();
    cluster.crash(leader, true);
    for _ in 0..TICKS {
        cluster.tick();
        cluster.settle();
    }
    assert_eq!(cluster.leader(), None, "they sleep");
    let now = cluster.now;
    for id in others {
        cluster.replica(id).wake(now, true);
    }
    let mut ticks = 0;
    while cluster.network.is_empty() {
        cluster.tick();
        cluster.work_all();
        ticks += 1;
        assert!(ticks < options().election_ticks, "the time they slept counts");
    }
    while cluster.leader().is_none() {
        cluster.tick();
        cluster.settle();
        ticks += 1;
        // Both may have campaigned at the same moment, and more than once.
        assert!(ticks <= 10 * options().election_ticks, "nobody is elected");
    }
}

/// A follower that is woken while the leader's node speaks counts only the time it was awake.
#[test]
fn sleep_does_not_release_a_follower_from_its_promise() {
    let (mut cluster, leader, others) = sleeping();
    cluster.now = cluster.now + Duration::from_secs(60);
    let now = cluster.now;
    for id in others {
        cluster.replica(id).wake(now, false);
    }
    for _ in 0..options().election_ticks / 2 {
        cluster.tick();
        cluster.work_all();
        assert!(cluster.network.is_empty(), "nobody campaigns yet");
    }
    assert!(cluster.replica(leader).is_asleep());
}
