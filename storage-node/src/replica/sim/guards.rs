//! One test for each fault of raft-rs and each demand of its contract that the core guards against.

use super::{Cluster, member, options};
use crate::raft_log::RaftLog as _;
use crate::replica::Input;
use crate::replica::membership::ReplicaChangeKind;
use crate::store::handle::ReadError;
use parking_lot::Mutex;
use raft::eraftpb::{Message, MessageType};
use rangedb_types::{Epoch, ReplicaId, ReplicaRole};
use std::sync::Arc;
use std::time::Duration;

fn read(cluster: &mut Cluster, id: u64) -> Arc<Mutex<Option<Result<(), ReadError>>>> {
    let answer = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&answer);
    cluster.step(id, Input::Read(Box::new(move |result| *slot.lock() = Some(result))));
    answer
}

#[test]
fn three_voters_elect_commit_and_agree() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    for value in 1..=10 {
        cluster.propose(leader, value);
    }
    cluster.settle();
    cluster.tick();
    cluster.settle();
    assert_eq!(cluster.answers.lock().iter().filter(|(_, result)| result.is_ok()).count(), 10);
    cluster.assert_same_history();
    assert_eq!(cluster.nodes[&leader].applied.len(), 10);
}

/// The library's own lease-based reads trust a leader that was cut off for too long.
#[test]
fn the_librarys_lease_reads_stay_off_and_its_limits_are_set() {
    let config = options().raft_config(ReplicaId(1), 10);
    assert_eq!(config.read_only_option, raft::ReadOnlyOption::Safe);
    assert!(config.check_quorum && config.pre_vote);
    let (batch, default) = (config.max_committed_size_per_ready, raft::Config::default());
    assert!(
        batch < u64::MAX && config.max_uncommitted_size < u64::MAX && config.max_size_per_msg > 0
    );
    assert_eq!(default.max_uncommitted_size, u64::MAX, "the library's default has no limit");
    assert!(options().lease_length() + options().tick <= options().election_timeout());
    config.validate().unwrap();
}

/// An entry that changes members is appended once the change before it is committed, and a log that
/// holds it must know that after a crash, too: else a replica campaigns among members of two changes
/// ago, and is elected beside the real leader.
#[test]
fn what_is_committed_is_written_with_the_next_entries() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    cluster.propose(leader, 1);
    for _ in 0..4 {
        cluster.settle();
        cluster.tick();
    }
    let known: Vec<u64> = cluster.nodes.values().map(|node| node.applier.applied.index).collect();
    cluster.propose(leader, 2);
    cluster.settle();
    for (node, known) in cluster.nodes.values().zip(known) {
        node.disk.crash();
        let state = node.disk.load(ReplicaId(1)).expect("it reads").expect("it is there");
        assert!(state.hard_state.commit >= known, "{} of {known}", state.hard_state.commit);
    }
}

/// A sole voter with learners may otherwise announce a term that a crash would take back.
#[test]
fn nothing_leaves_before_a_new_term_or_vote_is_synced() {
    let members = [member(1, ReplicaRole::Voter), member(2, ReplicaRole::Learner)];
    let mut cluster = Cluster::new(&members);
    cluster.tick();
    let now = cluster.now;
    let term = cluster.replica(1).term();
    let effects = cluster.replica(1).ready(now).expect("it campaigns");
    assert!(term > 1 && effects.must_sync && !effects.log.is_empty());
    assert!(effects.send_now.is_empty(), "{:?}", effects.send_now);
}

/// After a restart a follower has forgotten that it promised a leader its lease.
#[test]
fn a_restarted_replica_is_silent_for_one_election_timeout() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    let other = (1..=3).find(|id| *id != leader).expect("three replicas");
    cluster.crash(other, false);
    cluster.start(other);
    let mut vote = Message::default();
    vote.set_msg_type(MessageType::MsgRequestVote);
    vote.to = other;
    vote.from = (1..=3).find(|id| *id != leader && *id != other).expect("three replicas");
    vote.term = cluster.replica(other).term() + 1;
    vote.index = 1000;
    vote.log_term = vote.term;
    cluster.deliver(vote.clone());
    cluster.work(other);
    assert!(cluster.network.is_empty(), "it votes too early: {:?}", cluster.network);
    for _ in 0..options().election_ticks - 1 {
        cluster.now = cluster.now + options().tick;
        let now = cluster.now;
        cluster.replica(other).tick(now);
        cluster.work(other);
    }
    assert!(cluster.network.is_empty(), "it campaigns too early");
    cluster.now = cluster.now + options().tick;
    cluster.deliver(vote);
    cluster.work(other);
    assert!(!cluster.network.is_empty(), "it never votes again");
}

#[test]
fn a_sole_voter_leads_at_once_after_a_restart() {
    let mut cluster = Cluster::voters(1);
    cluster.tick();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
}

/// MsgTimeoutNow makes its receiver win an election that leases do not hold back.
#[test]
fn a_transfer_ends_the_lease_for_the_rest_of_the_term() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    for _ in 0..3 {
        cluster.tick();
        cluster.settle();
    }
    let (term, now) = (cluster.replica(leader).term(), cluster.now);
    assert!(cluster.replica(leader).lease().holds(term, now));
    let to = (1..=3).find(|id| *id != leader).expect("three replicas");
    cluster.step(leader, Input::TransferLeader { to: ReplicaId(to) });
    assert!(!cluster.replica(leader).lease().holds(term, now));
    // The transfer is lost on the way, and the leader goes on: by ReadIndex only.
    cluster.work(leader);
    cluster.network.clear();
    for _ in 0..12 {
        cluster.tick();
        cluster.settle();
    }
    let (now, replica) = (cluster.now, cluster.replica(leader));
    if replica.term() == term {
        assert!(!replica.lease().holds(term, now));
    }
}

#[test]
fn a_lease_ends_when_the_followers_fall_silent() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    for _ in 0..3 {
        cluster.tick();
        cluster.settle();
    }
    let (term, begun) = (cluster.replica(leader).term(), cluster.now);
    assert!(cluster.replica(leader).lease().holds(term, begun));
    for _ in 0..8 {
        cluster.tick();
        cluster.work_all();
        cluster.network.clear();
    }
    let now = cluster.now;
    assert!(now.since(begun) < options().election_timeout());
    assert!(
        !cluster.replica(leader).lease().holds(term, now),
        "it outlives its followers' promise"
    );
}

/// Followers of raft-rs forward proposals and reads without a word; ours never take them in.
#[test]
fn forwarded_proposals_and_reads_are_dropped() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    let before = cluster.replica(leader).last_index();
    for kind in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = if leader == 1 { 2 } else { 1 };
        message.to = leader;
        message.mut_entries().push(raft::eraftpb::Entry::default());
        cluster.deliver(message);
    }
    cluster.work(leader);
    assert_eq!(cluster.replica(leader).last_index(), before);
    let follower = (1..=3).find(|id| *id != leader).expect("three replicas");
    cluster.propose(follower, 9);
    cluster.settle();
    assert!(cluster.answers.lock().iter().all(|(_, result)| result.is_err()));
    assert_eq!(cluster.replica(leader).last_index(), before);
}

/// raft-rs drops a ReadIndex without a word before the term's first commit.
#[test]
fn reads_before_the_terms_first_commit_are_refused_as_not_ready() {
    let mut cluster = Cluster::voters(3);
    let candidate = loop {
        cluster.tick();
        cluster.work_all();
        // Votes travel, appends do not: the leader cannot commit.
        let messages = std::mem::take(&mut cluster.network);
        for message in messages {
            if message.get_msg_type() != MessageType::MsgAppend {
                cluster.deliver(message);
            }
        }
        let leads = (1..=3).find(|id| cluster.replica(*id).is_leader());
        if let Some(id) = leads {
            break id;
        }
    };
    let answer = read(&mut cluster, candidate);
    assert_eq!(*answer.lock(), Some(Err(ReadError::NotReady)));
    cluster.elect();
    let leader = cluster.leader().expect("somebody leads");
    let answer = read(&mut cluster, leader);
    cluster.settle();
    assert_eq!(*answer.lock(), Some(Ok(())));
}

#[test]
fn a_leader_without_its_followers_confirms_no_read() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.crash(id, false);
    }
    let answer = read(&mut cluster, leader);
    for _ in 0..5 {
        cluster.tick();
        cluster.settle();
    }
    assert_eq!(*answer.lock(), None);
    for _ in 0..30 {
        cluster.tick();
        cluster.settle();
    }
    assert_eq!(*answer.lock(), Some(Err(ReadError::NotLeader)), "check-quorum ends its term");
}

/// raft-rs leaves a demoted leader in office.
#[test]
fn a_demoted_leader_steps_down() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    let epoch = Epoch { version: 1, conf_version: 1 };
    let changes = vec![(ReplicaChangeKind::Demote, member(leader, ReplicaRole::Voter))];
    cluster.step(leader, Input::ChangeReplicas { epoch, changes, leave_joint: false });
    cluster.settle();
    assert!(cluster.replica(leader).descriptor().is_joint());
    let epoch = Epoch { version: 1, conf_version: 2 };
    cluster.step(leader, Input::ChangeReplicas { epoch, changes: Vec::new(), leave_joint: true });
    cluster.settle();
    assert!(!cluster.replica(leader).descriptor().is_joint());
    assert!(!cluster.replica(leader).is_leader());
    let next = cluster.elect();
    assert_ne!(next, leader);
}

/// Leaving a joint configuration is an explicit step of ours: the library's may never happen.
#[test]
fn a_joint_configuration_waits_to_be_left() {
    let mut cluster = Cluster::new(&[
        member(1, ReplicaRole::Voter),
        member(2, ReplicaRole::Learner),
        member(3, ReplicaRole::Learner),
    ]);
    cluster.elect();
    cluster.propose(1, 7);
    cluster.settle();
    let changes: Vec<_> =
        [2, 3].map(|id| (ReplicaChangeKind::Promote, member(id, ReplicaRole::Learner))).into();
    let epoch = Epoch { version: 1, conf_version: 1 };
    cluster.step(1, Input::ChangeReplicas { epoch, changes: changes.clone(), leave_joint: false });
    cluster.settle();
    for _ in 0..20 {
        cluster.tick();
        cluster.settle();
    }
    let leader = cluster.leader().expect("somebody leads");
    assert!(cluster.replica(leader).descriptor().is_joint());
    // A command made for an older epoch changes nothing.
    cluster.step(leader, Input::ChangeReplicas { epoch, changes: Vec::new(), leave_joint: true });
    cluster.settle();
    assert!(cluster.replica(leader).descriptor().is_joint());
    let epoch = Epoch { version: 1, conf_version: 2 };
    cluster.step(leader, Input::ChangeReplicas { epoch, changes: Vec::new(), leave_joint: true });
    cluster.settle();
    for id in 1..=3 {
        let range = cluster.replica(id).descriptor();
        assert_eq!(range.with_role(ReplicaRole::Voter).count(), 3, "replica {id}");
    }
}

#[test]
fn a_learner_that_has_not_caught_up_is_not_promoted() {
    let members = [member(1, ReplicaRole::Voter), member(2, ReplicaRole::Learner)];
    let mut cluster = Cluster::new(&members);
    cluster.crash(2, false);
    cluster.elect();
    let epoch = Epoch { version: 1, conf_version: 1 };
    let changes = vec![(ReplicaChangeKind::Promote, member(2, ReplicaRole::Learner))];
    cluster.step(1, Input::ChangeReplicas { epoch, changes, leave_joint: false });
    cluster.settle();
    assert_eq!(cluster.replica(1).descriptor().epoch, epoch);
}

#[test]
fn a_silent_follower_is_reported_down() {
    let mut cluster = Cluster::voters(3);
    let leader = cluster.elect();
    let gone = (1..=3).find(|id| *id != leader).expect("three replicas");
    cluster.crash(gone, false);
    let limit = options().peer_down_after + Duration::from_secs(1);
    let begun = cluster.now;
    while cluster.now.since(begun) < limit {
        cluster.tick();
        cluster.settle();
    }
    let now = cluster.now;
    assert_eq!(cluster.replica(leader).down(now), [ReplicaId(gone)]);
}
