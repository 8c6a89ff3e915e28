//! Hundreds of nodes. `make sim` asks for a hundred thousand ranges.

use crate::invariants::{disks, even, few_moves, still, zones};
use crate::scale::{ROUNDS_MAX, needed};
use crate::world::World;
use rangedb_planner::{Policy, plan};
use rangedb_types::{NodeId, Random as _};
use std::time::Instant;

const NODES: usize = 300;
const RANGES: usize = 2_000;
/// More than in a real cluster: fewer rounds until all is done, more at once in each.
const MOVES_PER_NODE: usize = 64;

fn large_world(policy: Policy) -> World {
    let asked = std::env::var("RANGEDB_SIM_RANGES").ok();
    let ranges = asked.map_or(RANGES, |text| text.parse().expect("a number is expected"));
    let mut world = World::new(1, policy);
    for node in 0..NODES {
        world.add_node(&format!("z{}", node % 3));
    }
    world.add_ranges(ranges, 3);
    world
}

/// Comes to rest and stays there; returns the copies it took.
fn settle(world: &mut World, what: &str) -> Result<usize, String> {
    let (begun, copies, transfers) = (Instant::now(), world.copies, world.transfers);
    let rounds = still::converge(world, ROUNDS_MAX)?;
    still::check(world)?;
    zones::check(world)?;
    disks::check(world)?;
    let (copies, transfers) = (world.copies - copies, world.transfers - transfers);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what}: {rounds} rounds, {copies} copies, {transfers} transfers, {seconds:.1} s");
    Ok(copies)
}

/// Nodes that may die, or drain, without a majority lost.
fn some_nodes(world: &mut World, count: usize, mut take: impl FnMut(&mut World, NodeId)) {
    let mut taken = 0;
    while taken < count {
        let node_id = NodeId(1 + world.random.below(NODES as u64));
        let node = &world.nodes[&node_id];
        if !node.dead && !node.view.draining && world.can_lose(node_id) {
            take(world, node_id);
            taken += 1;
        }
    }
}

#[test]
fn a_large_cluster_comes_to_rest_after_all_that_happens_to_it() {
    let mut world = large_world(Policy { moves_per_node_max: MOVES_PER_NODE, ..Policy::default() });
    let replicas = world.ranges.len() * 3;
    settle(&mut world, "begun").unwrap();
    for node in 0..30 {
        world.add_node(&format!("z{}", node % 3));
    }
    let copies = settle(&mut world, "30 nodes more").unwrap();
    few_moves::check(&world, copies, needed(replicas, NODES, 30)).unwrap();
    even::check(&world).unwrap();
    some_nodes(&mut world, 12, World::kill_now);
    let lost = |world: &World| -> usize {
        let replicas = world.ranges.iter().flat_map(|range| &range.descriptor.replicas);
        replicas.filter(|replica| world.is_dead(replica.node_id)).count()
    };
    let needed = lost(&world);
    let copies = settle(&mut world, "12 nodes lost").unwrap();
    few_moves::check(&world, copies, needed).unwrap();
    assert_eq!(lost(&world), 0);
    even::check(&world).unwrap();
    some_nodes(&mut world, 12, |world, node_id| {
        let view = &mut world.nodes.get_mut(&node_id).unwrap().view;
        (view.draining, view.accepts_replicas) = (true, false);
    });
    settle(&mut world, "12 nodes drained").unwrap();
    even::check(&world).unwrap();
    for range in &world.ranges {
        let draining = |node_id: NodeId| world.nodes[&node_id].view.draining;
        assert!(!range.descriptor.replicas.iter().any(|replica| draining(replica.node_id)));
    }
    for index in 0..20 {
        let hot = index * world.ranges.len() / 20;
        world.ranges[hot].reads = 40_000;
    }
    settle(&mut world, "20 hot ranges").unwrap();
    even::check(&world).unwrap();
    some_nodes(&mut world, 12, World::fill_disk);
    settle(&mut world, "12 disks full").unwrap();
}

/// Planned in every kind of trouble; how long a plan takes is printed.
#[test]
fn large_clusters_are_planned() {
    let mut world = large_world(Policy::default());
    let timed = |world: &World, what: &str| {
        let view = world.view();
        let begun = Instant::now();
        let (operators, _) = plan(&view, &world.policy, 1);
        println!("{what}: {} steps in {:?}", operators.len(), begun.elapsed());
        operators.len()
    };
    timed(&world, "even");
    for _ in 0..30 {
        world.add_node("z1");
    }
    assert!(timed(&world, "30 nodes more") > 0);
    for node_id in 1..=20 {
        world.nodes.get_mut(&NodeId(node_id)).unwrap().away_since = Some(0);
    }
    assert!(timed(&world, "20 nodes lost") > 0);
    for node_id in 21..=40 {
        let view = &mut world.nodes.get_mut(&NodeId(node_id)).unwrap().view;
        (view.draining, view.accepts_replicas) = (true, false);
    }
    assert!(timed(&world, "20 nodes draining") > 0);
    world.policy.replication_factor = 5;
    assert!(timed(&world, "two replicas more") > 0);
    for range in &mut world.ranges {
        range.size_bytes = 1;
    }
    assert!(timed(&world, "all small") > 0);
}
