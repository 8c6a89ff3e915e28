//! Dependencies between transactions. Owns: what follows from who wrote and who read which version.
//! Must not know: cycles.

use super::graph::{Edge, Kind};
use super::history::Key;
use super::index::{Index, Number, Version};
use super::versions::Succession;
use std::collections::HashMap;

pub fn dependencies(index: &Index<'_>, successions: &[Succession]) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut readers: HashMap<(Key, Version), Vec<(Number, bool)>> = HashMap::new();
    for (number, digest) in index.counted() {
        for read in &digest.reads {
            readers.entry((read.key, read.version)).or_default().push((number, read.is_absence));
            let writer = read.version.and_then(|value| index.writers.get(&(read.key, value)));
            if let Some(writer) = writer.filter(|writer| index.counts[writer.by]) {
                let kind = Kind::Wr;
                edges.push(Edge::of_key(writer.by, number, kind, read.key, read.version, None));
            }
        }
    }
    for Succession { key, before, after } in successions.iter().copied() {
        let Some(over) = index.author(key, after) else { continue };
        let edge = |from, kind| Edge::of_key(from, over, kind, key, before, Some(after));
        let author = before.and_then(|value| index.author(key, value));
        edges.extend(author.map(|author| edge(author, Kind::Ww)));
        for (reader, is_absence) in readers.get(&(key, before)).into_iter().flatten() {
            let kind = if *is_absence { Kind::RwPredicate } else { Kind::Rw };
            edges.push(edge(*reader, kind));
        }
    }
    edges.retain(|edge| edge.from != edge.to);
    edges
}
