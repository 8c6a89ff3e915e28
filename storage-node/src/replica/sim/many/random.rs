//! Random runs, and the rest that must follow them.

use super::clients::{KEYS, key};
use super::{Plan, Result, Violation, World};
use crate::replica::sim::invariants::no_gap;
use crate::store::handle::ReplicaHandle;
use rangedb_types::{RangeDescriptor, RangeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Seeds of a normal test run.
const SEEDS: u64 = 20;
/// Rounds of a good network in which the cluster must come to rest.
const ROUNDS_MAX: u32 = 1500;

impl World {
    /// Runs, heals, and looks whether all is well.
    pub(super) fn run(&mut self) -> Result {
        for _ in 0..self.plan.steps {
            self.step()?;
        }
        self.heal()?;
        self.read_all()
    }

    /// Everything works from now on, until all is at rest.
    fn heal(&mut self) -> Result {
        self.cut.clear();
        self.placement.right_ranges.clear();
        for node in &self.nodes {
            if node.running.is_some() {
                node.power.switch(true);
            }
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].running.is_none() {
                self.start(at)?;
            }
        }
        self.show_unreachable();
        let mut why = String::new();
        for _ in 0..ROUNDS_MAX {
            self.good_round()?;
            match self.unrest() {
                Some(unrest) => why = unrest,
                None => return Ok(()),
            }
        }
        Err(Violation { rule: "the cluster heals", text: format!("{why}\n{}", self.describe()) })
    }

    /// Every replica in a line, for whoever looks for a fault.
    fn describe(&self) -> String {
        let line = |(at, handle): (usize, Arc<ReplicaHandle>)| {
            let status = handle.status();
            let range = &status.descriptor;
            let members: Vec<_> = range
                .replicas
                .iter()
                .map(|it| (it.replica_id.get(), it.node_id.get(), it.role))
                .collect();
            format!(
                "node {} range {} replica {} {:?} {:?} {members:?} leads {} term {} applied {} \
                 last {} frozen {:?} down {:?} held {}\n",
                self.nodes[at].id,
                range.range_id,
                status.replica_id,
                (
                    String::from_utf8_lossy(&range.span.start),
                    String::from_utf8_lossy(&range.span.end)
                ),
                (range.epoch.version, range.epoch.conf_version),
                status.is_leader,
                status.term,
                status.applied_index,
                status.last_index,
                status.frozen,
                status.down,
                status.slowest_match,
            )
        };
        self.handles().into_iter().map(line).collect()
    }

    fn good_round(&mut self) -> Result {
        self.calm_round()?;
        self.note_ends()?;
        self.end_merges();
        for (at, handle) in self.leaders() {
            if handle.descriptor().is_joint() {
                self.move_on(at, &handle.status());
            }
        }
        Ok(())
    }

    /// Everything arrives and is worked on.
    pub(super) fn calm_round(&mut self) -> Result {
        self.pass_time(50)?;
        for _ in 0..4 {
            for packet in std::mem::take(&mut self.packets) {
                self.deliver(packet);
            }
            for transfer in std::mem::take(&mut self.transfers) {
                self.carry(transfer, true, true);
            }
            for at in 0..self.nodes.len() {
                self.run_node(at, true)?;
            }
        }
        Ok(())
    }

    /// Each range as its newest replica has it.
    fn newest(&self) -> Vec<RangeDescriptor> {
        let mut ranges: BTreeMap<RangeId, RangeDescriptor> = BTreeMap::new();
        for (_, handle) in self.handles() {
            let range = handle.descriptor();
            let known = ranges.entry(range.range_id).or_insert_with(|| (*range).clone());
            let age = |range: &RangeDescriptor| (range.epoch.version, range.epoch.conf_version);
            if age(&range) > age(known) {
                *known = (*range).clone();
            }
        }
        let mut ranges: Vec<_> = ranges.into_values().collect();
        ranges.sort_by(|a, b| a.span.start.cmp(&b.span.start));
        // What was merged away may be left where nobody has told it; it is older.
        let all = ranges.clone();
        ranges.retain(|range| {
            !all.iter().any(|other| {
                other.span.overlaps(&range.span) && other.epoch.version > range.epoch.version
            })
        });
        ranges
    }

    /// Why the cluster is not at rest yet.
    fn unrest(&self) -> Option<String> {
        let ranges = self.newest();
        if let Err(why) = no_gap::check_exact(&ranges) {
            return Some(why);
        }
        for range in &ranges {
            if let Some(why) = self.unrest_of(range) {
                return Some(format!("{why}: {range:?}"));
            }
        }
        None
    }

    fn unrest_of(&self, range: &RangeDescriptor) -> Option<&'static str> {
        let mut led = false;
        let mut indexes = Vec::new();
        for member in &range.replicas {
            let at = self.nodes.iter().position(|node| node.id == member.node_id)?;
            let Some(handle) = self.handle(at, range.range_id) else {
                return Some("a member has no replica");
            };
            if handle.replica_id() != member.replica_id || *handle.descriptor() != *range {
                return Some("a member is behind");
            }
            if handle.frozen().is_some() {
                return Some("a member is frozen");
            }
            led |= handle.leadership().is_some();
            indexes.push(handle.applied_index());
        }
        if range.is_joint() {
            return Some("it is in a joint configuration");
        }
        if !led {
            return Some("nobody leads it");
        }
        indexes.dedup();
        (indexes.len() > 1).then_some("its members have not applied the same")
    }

    /// Every key can be read, and holds what it should.
    fn read_all(&mut self) -> Result {
        let mut rounds = 0..ROUNDS_MAX;
        for number in 0..KEYS {
            // Not by lease: there is none in a term in which a transfer was begun.
            self.forget_reads();
            let before = self.watch.registers.reads;
            while self.watch.registers.reads == before {
                if rounds.next().is_none() {
                    let text = format!("{number} of {KEYS} keys can be read\n{}", self.describe());
                    return Err(Violation { rule: "the cluster heals", text });
                }
                // One that meets a leader which hands over fails, and is repeated.
                self.begin_read(key(number));
                self.good_round()?;
                self.end_reads()?;
            }
        }
        Ok(())
    }
}

/// Runs one seed.
fn run(seed: u64, plan: Plan) -> Result<World> {
    let mut world = World::new(seed, plan);
    world.run()?;
    Ok(world)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number is expected"))
}

#[test]
fn many_ranges_survive_random_faults() {
    let seeds = match number("RANGEDB_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("RANGEDB_SIM_SEEDS").unwrap_or(SEEDS),
    };
    // RUST_LOG tells what the nodes do, for finding out why a seed fails.
    let told = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .finish();
    let _told = tracing::subscriber::set_default(told);
    let mut asleep = 0;
    for seed in seeds {
        let began = std::time::Instant::now();
        let world = match run(seed, Plan::of_seed(seed)) {
            Ok(world) => world,
            Err(Violation { rule, text }) => panic!("RANGEDB_SIM_SEED={seed}: {rule}: {text}"),
        };
        let watch = &world.watch;
        eprintln!(
            "RANGEDB_SIM_SEED={seed}: {} ranges made, {} merges, {} snapshots, {} crashes, {} \
             removals, {} writes, {} reads, asleep {} times, {:?}",
            world.placement.ranges_made(),
            watch.merges,
            watch.snapshots,
            watch.crashes,
            watch.removals,
            watch.registers.acknowledged,
            watch.registers.reads,
            watch.asleep,
            began.elapsed()
        );
        asleep += watch.asleep;
    }
    assert!(asleep > 0, "ranges that rest fall asleep");
}

/// What a seed does depends on nothing but the seed.
#[test]
fn one_seed_replays_exactly() {
    let traces = [7, 7, 8].map(|seed| {
        let plan = Plan { steps: 3000, ..Plan::of_seed(7) };
        run(seed, plan).expect("nothing is broken").watch.trace()
    });
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
}
