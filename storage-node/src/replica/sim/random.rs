//! Random crashes, losses, repetitions and delays: what was acknowledged stays, and all agree.

use super::Cluster;
use crate::replica::Input;
use rangedb_types::{Random, ReplicaId, SeededRandom};

/// Steps of one run.
const STEPS: u64 = 3000;

fn run(seed: u64) {
    let mut random = SeededRandom::new(seed);
    let mut cluster = Cluster::voters(3);
    let mut next_value = 1;
    for _ in 0..STEPS {
        match random.below(100) {
            0..40 => {
                cluster.tick();
                cluster.work_all();
            }
            40..60 => {
                if let Some(leader) = cluster.leader() {
                    cluster.propose(leader, next_value);
                    next_value += 1;
                    cluster.work(leader);
                }
            }
            60..61 => {
                let id = 1 + random.below(3);
                cluster.crash(id, true);
            }
            61..65 => {
                let stopped: Vec<u64> = stopped(&cluster);
                for id in stopped {
                    cluster.start(id);
                }
            }
            65..66 => {
                if let Some(leader) = cluster.leader() {
                    let to = ReplicaId(1 + random.below(3));
                    cluster.step(leader, Input::TransferLeader { to });
                    cluster.work(leader);
                }
            }
            _ => deliver_some(&mut cluster, &mut random),
        }
        one_leader_a_term(&cluster);
        cluster.assert_same_history();
    }
    for id in stopped(&cluster) {
        cluster.start(id);
    }
    heal(&mut cluster, seed);
    let history = &cluster.nodes[&1].applied;
    for (value, result) in cluster.answers.lock().iter() {
        let count = history.iter().filter(|applied| *applied == value).count();
        assert!(count <= 1, "seed {seed}: write {value} was applied {count} times");
        if result.is_ok() {
            assert_eq!(count, 1, "seed {seed}: acknowledged write {value} was lost");
        }
    }
}

/// On a good network the cluster takes writes again: at once, or when a transfer that was under way
/// has been given up.
fn heal(cluster: &mut Cluster, seed: u64) {
    for attempt in 0..10 {
        let leader = cluster.elect();
        let value = u64::MAX - attempt;
        cluster.propose(leader, value);
        for _ in 0..20 {
            cluster.tick();
            cluster.settle();
        }
        cluster.assert_same_history();
        if cluster.nodes.values().all(|node| node.applied.last() == Some(&value)) {
            return;
        }
    }
    panic!("seed {seed}: the cluster does not heal");
}

fn stopped(cluster: &Cluster) -> Vec<u64> {
    let down = cluster.nodes.iter().filter(|(_, node)| node.replica.is_none());
    down.map(|(id, _)| *id).collect()
}

/// Any message may be lost, late, out of order, or come twice.
fn deliver_some(cluster: &mut Cluster, random: &mut SeededRandom) {
    for _ in 0..random.below(12) {
        if cluster.network.is_empty() {
            return;
        }
        let at = random.below(cluster.network.len() as u64) as usize;
        let message = cluster.network.remove(at);
        match random.below(20) {
            0 => {}
            1 => {
                cluster.network.push(message.clone());
                cluster.deliver(message);
            }
            _ => cluster.deliver(message),
        }
    }
    cluster.work_all();
}

fn one_leader_a_term(cluster: &Cluster) {
    let mut leaders: Vec<u64> = cluster
        .nodes
        .values()
        .filter_map(|node| node.replica.as_ref())
        .filter(|replica| replica.is_leader())
        .map(crate::replica::Replica::term)
        .collect();
    leaders.sort_unstable();
    assert!(leaders.windows(2).all(|pair| pair[0] != pair[1]), "two leaders in a term");
}

#[test]
fn acknowledged_writes_survive_random_faults() {
    let seeds = match std::env::var("RANGEDB_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("RANGEDB_SIM_SEED is a number")],
        Err(_) => {
            let count = std::env::var("RANGEDB_SIM_SEEDS").ok();
            let count = count.map_or(100, |text| text.parse().expect("a number is expected"));
            (1..=count).collect()
        }
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        run(seed);
    }
}
