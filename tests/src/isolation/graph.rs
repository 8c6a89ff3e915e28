//! A graph of transactions. Owns: edges of several kinds, and walks over some kinds of them. Must
//! not know: what the kinds mean, but that some are anti-dependencies.

use super::history::Key;
use super::index::{Number, Version};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It wrote a version, and the other one a later one.
    Ww,
    /// The other one read what it wrote.
    Wr,
    /// It read a version, and the other one wrote a later one.
    Rw,
    /// It read a span and did not find a key there, which the other one wrote.
    RwPredicate,
    /// The same client ran it before the other one.
    Session,
    /// It had ended before the other one began.
    RealTime,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    pub const NONE: Self = Self(0);
    pub const ANTI: Self = Self::of(&[Kind::Rw, Kind::RwPredicate]);

    pub const fn of(kinds: &[Kind]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    pub from: Number,
    pub to: Number,
    pub kind: Kind,
    /// Of a dependency: the key, the version that `from` wrote or read, and the one `to` wrote.
    pub key: Option<Key>,
    pub before: Version,
    pub after: Version,
}

impl Edge {
    pub const fn in_time(from: Number, to: Number, kind: Kind) -> Self {
        Self { from, to, kind, key: None, before: None, after: None }
    }

    pub const fn of_key(
        from: Number,
        to: Number,
        kind: Kind,
        key: Key,
        before: Version,
        after: Version,
    ) -> Self {
        Self { from, to, kind, key: Some(key), before, after }
    }
}

/// Edges, by where they begin.
pub struct Graph {
    edges: Vec<Edge>,
    /// Of each transaction, where its edges begin; one more at the end.
    first: Vec<usize>,
}

impl Graph {
    /// Of several edges of a kind between the same two, one is kept.
    pub fn new(size: usize, mut edges: Vec<Edge>) -> Self {
        edges.sort_unstable();
        edges.dedup_by_key(|edge| (edge.from, edge.to, edge.kind));
        let mut first = vec![0; size + 1];
        for edge in &edges {
            first[edge.from + 1] += 1;
        }
        for at in 0..size {
            first[at + 1] += first[at];
        }
        Self { edges, first }
    }

    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }
}

/// A place in a walk.
pub type State = usize;

/// Some of a graph's edges. If `apart`, no anti-dependency may follow another: then there are two
/// states of each transaction, by whether the walk came there by one.
#[derive(Clone, Copy)]
pub struct Walks<'a> {
    pub graph: &'a Graph,
    pub kinds: Kinds,
    pub apart: bool,
}

impl<'a> Walks<'a> {
    pub fn states(&self) -> usize {
        (self.graph.first.len() - 1) * if self.apart { 2 } else { 1 }
    }

    const fn number(&self, state: State) -> Number {
        if self.apart { state / 2 } else { state }
    }

    /// The edges that begin at a state, as numbers for [`Self::step`].
    pub fn out(&self, state: State) -> std::ops::Range<usize> {
        let number = self.number(state);
        self.graph.first[number]..self.graph.first[number + 1]
    }

    /// Where an edge leads from a state; `None` if it must not be walked from there.
    pub fn step(&self, state: State, edge: usize) -> Option<State> {
        let Edge { to, kind, .. } = self.graph.edges[edge];
        let anti = Kinds::ANTI.has(kind);
        if !self.kinds.has(kind) || (self.apart && anti && state % 2 == 1) {
            return None;
        }
        Some(if self.apart { to * 2 + usize::from(anti) } else { to })
    }

    /// The states at which an edge begins.
    pub fn sources(&self, edge: usize) -> impl Iterator<Item = State> + use<'a> {
        let from = self.graph.edges[edge].from;
        if self.apart { from * 2..from * 2 + 2 } else { from..from + 1 }
    }
}
