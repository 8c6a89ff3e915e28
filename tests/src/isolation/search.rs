//! Finding cycles. Owns: strongly connected components (Tarjan, "Depth-First Search and Linear Graph
//! Algorithms", SIAM J. Comput. 1972), and short cycles in them. Must not know: what edges mean.

use super::graph::{Kinds, State, Walks};
use std::collections::{BTreeMap, VecDeque};

/// Components in which a cycle is looked for; there may be thousands.
const COMPONENTS_MAX: usize = 200;
/// Edges of a component through which the shortest cycle is looked for.
const TRIES_MAX: usize = 12;
const NONE: usize = usize::MAX;

/// Cycles, as numbers of edges, of which at least one is of a kind in `with`: a short one of each
/// component. And how many components have one.
pub fn cycles(walks: Walks<'_>, with: Kinds) -> (Vec<Vec<usize>>, usize) {
    let components = components(walks);
    let mut through: BTreeMap<usize, Vec<(State, usize, State)>> = BTreeMap::new();
    for (edge, is_with) in walks.graph.edges().iter().map(|e| with.has(e.kind)).enumerate() {
        for from in walks.sources(edge).filter(|_| is_with) {
            if let Some(to) = walks.step(from, edge)
                && components[from] == components[to]
            {
                through.entry(components[from]).or_default().push((from, edge, to));
            }
        }
    }
    let came_by = vec![None; walks.states()];
    let mut search = Search { walks, components: &components, came_by, reached: Vec::new() };
    let mut found = Vec::new();
    for edges in through.values().take(COMPONENTS_MAX) {
        let every = edges.len().div_ceil(TRIES_MAX);
        let tried = edges.iter().step_by(every).filter_map(|(from, edge, to)| {
            let mut cycle = search.path(*to, *from)?;
            cycle.insert(0, *edge);
            Some(cycle)
        });
        found.extend(tried.min_by_key(Vec::len));
    }
    (found, through.len())
}

struct Search<'a> {
    walks: Walks<'a>,
    components: &'a [usize],
    /// Of each state that was reached: from where, and by which edge.
    came_by: Vec<Option<(State, usize)>>,
    /// The states of which `came_by` tells.
    reached: Vec<State>,
}

impl Search<'_> {
    /// The shortest path inside a component.
    fn path(&mut self, from: State, to: State) -> Option<Vec<usize>> {
        for state in self.reached.drain(..) {
            self.came_by[state] = None;
        }
        let mut queue = VecDeque::from([from]);
        while let Some(state) = queue.pop_front() {
            if state == to {
                return Some(self.back(from, to));
            }
            for edge in self.walks.out(state) {
                let Some(next) = self.walks.step(state, edge) else { continue };
                let inside = self.components[next] == self.components[from];
                if inside && next != from && self.came_by[next].is_none() {
                    self.came_by[next] = Some((state, edge));
                    self.reached.push(next);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    fn back(&self, from: State, to: State) -> Vec<usize> {
        let (mut path, mut at) = (Vec::new(), to);
        while let Some((before, edge)) = self.came_by[at].filter(|_| at != from) {
            path.push(edge);
            at = before;
        }
        path.reverse();
        path
    }
}

/// A component's number for each state.
fn components(walks: Walks<'_>) -> Vec<usize> {
    let size = walks.states();
    let mut tarjan = Tarjan {
        walks,
        found: vec![NONE; size],
        low: vec![NONE; size],
        component: vec![NONE; size],
        stack: Vec::new(),
        visited: 0,
        components: 0,
    };
    for state in 0..size {
        if tarjan.found[state] == NONE {
            tarjan.visit(state);
        }
    }
    tarjan.component
}

struct Tarjan<'a> {
    walks: Walks<'a>,
    /// When each state was found.
    found: Vec<usize>,
    /// The earliest state that is known to be reachable and in the same component.
    low: Vec<usize>,
    component: Vec<usize>,
    stack: Vec<State>,
    visited: usize,
    components: usize,
}

impl Tarjan<'_> {
    fn enter(&mut self, state: State) -> (State, std::ops::Range<usize>) {
        self.found[state] = self.visited;
        self.low[state] = self.visited;
        self.visited += 1;
        self.stack.push(state);
        (state, self.walks.out(state))
    }

    /// With a stack of its own: a chain of transactions may be deeper than a thread's.
    fn visit(&mut self, root: State) {
        let mut calls = vec![self.enter(root)];
        while let Some((state, edges)) = calls.last_mut() {
            let state = *state;
            if let Some(edge) = edges.next() {
                let Some(next) = self.walks.step(state, edge) else { continue };
                if self.found[next] == NONE {
                    calls.push(self.enter(next));
                } else if self.component[next] == NONE {
                    self.low[state] = self.low[state].min(self.found[next]);
                }
                continue;
            }
            calls.pop();
            if let Some((above, _)) = calls.last() {
                self.low[*above] = self.low[*above].min(self.low[state]);
            }
            if self.low[state] == self.found[state] {
                self.close(state);
            }
        }
    }

    fn close(&mut self, root: State) {
        while let Some(state) = self.stack.pop() {
            self.component[state] = self.components;
            if state == root {
                break;
            }
        }
        self.components += 1;
    }
}
