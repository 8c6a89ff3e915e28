//! Names cycles. Owns: which cycles are looked for, and what each is called. Must not know: how one
//! is found.

use super::anomaly::{Anomaly, Order};
use super::direct::shown;
use super::graph::{Edge, Graph, Kind, Kinds, Walks};
use super::index::{Index, Number};
use super::report::Report;
use super::search;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Weakest first, so that a cycle is met before longer ones that it is part of.
const ORDERS: [(Kinds, Kinds); 3] = [
    (Kinds::NONE, Kinds::NONE),
    (Kinds::of(&[Kind::Session]), Kinds::of(&[Kind::Session])),
    (Kinds::of(&[Kind::Session, Kind::RealTime]), Kinds::of(&[Kind::RealTime])),
];

/// Kinds of edges of a cycle, one of which it must have if time tells nothing, and whether its
/// anti-dependencies stand apart.
const CLASSES: [(Kinds, Kinds, bool); 5] = [
    (Kinds::of(&[Kind::Ww]), Kinds::of(&[Kind::Ww]), false),
    (Kinds::of(&[Kind::Ww, Kind::Wr]), Kinds::of(&[Kind::Wr]), false),
    (ALL, Kinds::ANTI, true),
    (Kinds::of(&[Kind::Ww, Kind::Wr, Kind::Rw]), Kinds::of(&[Kind::Rw]), false),
    (ALL, Kinds::of(&[Kind::RwPredicate]), false),
];
const ALL: Kinds = Kinds::of(&[Kind::Ww, Kind::Wr, Kind::Rw, Kind::RwPredicate]);

pub fn check(index: &Index<'_>, edges: Vec<Edge>, report: &mut Report<'_>) {
    lost_updates(index, report);
    let graph = Graph::new(index.transactions.len(), edges);
    report.statistics.edges = graph.edges().len();
    let mut told = HashSet::new();
    for (time, with_time) in ORDERS {
        for (kinds, with, apart) in CLASSES {
            let walks = Walks { graph: &graph, kinds: kinds.and(time), apart };
            let with = if with_time == Kinds::NONE { with } else { with_time };
            let (cycles, components) = search::cycles(walks, with);
            report.statistics.components += components;
            for cycle in cycles {
                let cycle: Vec<Edge> = cycle.into_iter().map(|at| graph.edges()[at]).collect();
                let mut same = cycle.clone();
                same.sort_unstable();
                if told.insert(same) {
                    tell(&cycle, report);
                }
            }
        }
    }
    report.statistics.cycles = told.len();
}

/// Two that wrote a key, both after having read the same version of it.
fn lost_updates(index: &Index<'_>, report: &mut Report<'_>) {
    let mut writes: BTreeMap<_, Vec<(Number, u64)>> = BTreeMap::new();
    for (number, digest) in index.counted() {
        for write in &digest.writes {
            if let Some(base) = write.base {
                writes.entry((write.key, base)).or_default().push((number, write.value));
            }
        }
    }
    for ((key, base), writes) in writes {
        let [(one, first), others @ ..] = &writes[..] else { continue };
        for (other, second) in others {
            let text = format!(
                "T{one} and T{other} both read {} of {key}, and wrote {first} and {second}",
                shown(base)
            );
            report.told(Anomaly::LostUpdate, &[*one, *other], &text);
        }
    }
}

fn tell(cycle: &[Edge], report: &mut Report<'_>) {
    let (anomaly, order) = name(cycle);
    let lines: Vec<String> = cycle.iter().map(line).collect();
    let mut numbers: Vec<Number> = cycle.iter().map(|edge| edge.from).collect();
    numbers.sort_unstable();
    numbers.dedup();
    report.told_in(order, anomaly, &numbers, &lines.join("\n    "));
}

/// What a cycle is, by its edges.
fn name(cycle: &[Edge]) -> (Anomaly, Order) {
    let mut count: HashMap<Kind, usize> = HashMap::new();
    cycle.iter().for_each(|edge| *count.entry(edge.kind).or_default() += 1);
    let has = |kind| count.contains_key(&kind);
    let order = if has(Kind::RealTime) {
        Order::RealTime
    } else if has(Kind::Session) {
        Order::Session
    } else {
        Order::Plain
    };
    let anti: Vec<bool> = cycle.iter().map(|edge| Kinds::ANTI.has(edge.kind)).collect();
    let follow = (0..anti.len()).any(|at| anti[at] && anti[(at + 1) % anti.len()]);
    // Both wrote the key, and at least one had read it before the other's write.
    let update_of_one_key =
        cycle.len() == 2 && cycle[0].key == cycle[1].key && !has(Kind::Wr) && order == Order::Plain;
    let anomaly = match anti.iter().filter(|anti| **anti).count() {
        0 if has(Kind::Wr) => Anomaly::G1c,
        0 => Anomaly::G0,
        _ if update_of_one_key => Anomaly::LostUpdate,
        1 => Anomaly::GSingle,
        _ if !follow => Anomaly::GNonadjacent,
        _ if has(Kind::RwPredicate) => Anomaly::G2,
        _ => Anomaly::G2Item,
    };
    (anomaly, order)
}

fn line(edge: &Edge) -> String {
    let Edge { from, to, kind, key, before, after } = *edge;
    let key = key.map_or_else(String::new, |key| key.to_string());
    let (before, after) = (shown(before), shown(after));
    match kind {
        Kind::Ww => format!("ww: T{from} wrote {before} to {key}, and T{to} later {after}"),
        Kind::Wr => format!("wr: T{from} wrote {before} to {key}, which T{to} read"),
        Kind::Rw => format!("rw: T{from} read {before} of {key}, and T{to} wrote {after} later"),
        Kind::RwPredicate => {
            format!("rw: T{from} read a span without {key}, and T{to} wrote {after} there later")
        }
        Kind::Session => format!("session: T{from} was run before T{to} by the same client"),
        Kind::RealTime => format!("real time: T{from} had ended before T{to} began"),
    }
}
