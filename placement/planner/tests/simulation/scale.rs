//! Nodes come and go one after the other, in fair weather.

use crate::invariants::{Verdict, disks, even, few_moves, still};
use crate::world::{Sabotage, World};
use rangedb_planner::Policy;
use rangedb_types::{NodeId, Random as _};

pub const ROUNDS_MAX: usize = 5_000;

/// The copies that make `old` nodes and `new` empty ones even.
pub fn needed(replicas: usize, old: usize, new: usize) -> usize {
    replicas * new / (old + new)
}

pub fn scale_out(seed: u64, sabotage: Sabotage) -> Verdict {
    let mut world = World::new(seed, Policy::default());
    world.sabotage = sabotage;
    world.add_node("");
    let ranges = 30 + world.random.below(200) as usize;
    world.add_ranges(ranges, 1);
    for (old, new) in [(1, 2), (3, 2), (5, 1), (6, 6)] {
        for _ in 0..new {
            world.add_node("");
        }
        let before = world.copies;
        let rounds = still::converge(&mut world, ROUNDS_MAX)?;
        still::check(&mut world)?;
        even::check(&world)?;
        let copies = world.copies - before;
        let needed = if old == 1 { ranges * 2 } else { needed(ranges * 3, old, new) };
        println!(
            "{ranges} ranges, {old} nodes + {new}: {copies} copies of {needed}, {rounds} rounds"
        );
        few_moves::check(&world, copies, needed)?;
    }
    Ok(())
}

#[test]
fn growing_takes_few_copies() {
    crate::for_seeds(|seed| scale_out(seed, Sabotage::None).unwrap());
}

#[test]
fn drained_nodes_become_empty() {
    crate::for_seeds(|seed| {
        let mut world = World::new(seed, Policy::default());
        for _ in 0..5 {
            world.add_node("");
        }
        world.add_ranges(60, 3);
        still::converge(&mut world, ROUNDS_MAX).unwrap();
        let before = world.copies;
        for node_id in [NodeId(2), NodeId(4)] {
            rangedb_planner::can_drain(&world.view(), &world.policy, node_id).unwrap();
            let view = &mut world.nodes.get_mut(&node_id).unwrap().view;
            (view.draining, view.accepts_replicas) = (true, false);
        }
        let rounds = still::converge(&mut world, ROUNDS_MAX).unwrap();
        still::check(&mut world).unwrap();
        even::check(&world).unwrap();
        let copies = world.copies - before;
        println!("drained 2 of 5 nodes: {copies} copies, {rounds} rounds");
        few_moves::check(&world, copies, 60 * 3 * 2 / 5).unwrap();
        for range in &world.ranges {
            assert!(range.descriptor.replica_on(NodeId(2)).is_none());
            assert!(range.descriptor.replica_on(NodeId(4)).is_none());
        }
        rangedb_planner::can_drain(&world.view(), &world.policy, NodeId(1)).unwrap_err();
    });
}

/// Other data fills some disks: the nodes keep no more replicas than there is room for.
pub fn full_disks(seed: u64, sabotage: Sabotage) -> Verdict {
    let mut world = World::new(seed, Policy::default());
    for _ in 0..6 {
        world.add_node("");
    }
    world.add_ranges(60, 3);
    still::converge(&mut world, ROUNDS_MAX)?;
    world.sabotage = sabotage;
    for node_id in [NodeId(1), NodeId(2)] {
        world.fill_disk(node_id);
    }
    let before = world.copies;
    still::converge(&mut world, ROUNDS_MAX)?;
    println!("two disks filled: {} copies", world.copies - before);
    still::check(&mut world)?;
    disks::check(&world)
}

#[test]
fn nearly_full_disks_give_replicas_away() {
    crate::for_seeds(|seed| full_disks(seed, Sabotage::None).unwrap());
}

#[test]
fn a_hot_span_is_split_and_spread() {
    crate::for_seeds(|seed| {
        let mut world = World::new(seed, Policy::default());
        for _ in 0..3 {
            world.add_node("");
        }
        world.add_ranges(50, 3);
        world.ranges[20].reads = 40_000;
        let rounds = still::converge(&mut world, ROUNDS_MAX).unwrap();
        even::check(&world).unwrap();
        let mut load = std::collections::BTreeMap::new();
        for range in &world.ranges {
            *load.entry(range.leader.unwrap()).or_default() += range.reads + range.writes;
        }
        let mean = load.values().sum::<u64>() / 3;
        println!("hot: {rounds} rounds, {} splits, load {load:?}", world.splits);
        assert!(load.values().all(|load| *load <= mean * 3 / 2), "{load:?}");
    });
}

#[test]
fn what_was_deleted_merges_back() {
    crate::for_seeds(|seed| {
        let mut world = World::new(seed, Policy::default());
        for _ in 0..5 {
            world.add_node("");
        }
        world.add_ranges(60, 3);
        still::converge(&mut world, ROUNDS_MAX).unwrap();
        for range in &mut world.ranges {
            (range.size_bytes, range.reads, range.writes) = (0, 0, 0);
        }
        let rounds = still::converge(&mut world, ROUNDS_MAX).unwrap();
        println!("merged to {} in {rounds} rounds, {} copies", world.ranges.len(), world.copies);
        let pending = world.plan().1.pending();
        assert_eq!(world.ranges.len(), 1, "{pending:?}");
    });
}
