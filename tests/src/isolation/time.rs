//! What time tells. Owns: the order of beginnings and ends, and the edges that follow from it. Must
//! not know: what transactions do.

use super::graph::{Edge, Kind};
use super::index::{Index, Number};
use std::collections::HashMap;

/// A moment of a transaction that counts. One whose outcome is unknown does not end: it may
/// be committed at any later time.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Begun(Number),
    Ended(Number),
}

/// All events in their order. Of two at the same time the beginning comes first, so that nothing
/// follows from it.
pub fn events(index: &Index<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for (number, _) in index.counted() {
        let transaction = &index.transactions[number];
        events.push((transaction.begun, 0, Event::Begun(number)));
        if transaction.version().is_some() {
            events.push((transaction.ended, 1, Event::Ended(number)));
        }
    }
    events.sort_by_key(|(time, kind, _)| (*time, *kind));
    events.into_iter().map(|(_, _, event)| event).collect()
}

/// Edges from what had ended to what began later; those that follow from others are left out.
pub fn edges(index: &Index<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut newest: Vec<Number> = Vec::new();
    let mut by_process: HashMap<u32, Number> = HashMap::new();
    for event in events(index) {
        match event {
            Event::Begun(number) => {
                let before = by_process.get(&index.transactions[number].process).copied();
                edges.extend(before.map(|before| Edge::in_time(before, number, Kind::Session)));
                let others = newest.iter().filter(|other| Some(**other) != before);
                edges.extend(others.map(|other| Edge::in_time(*other, number, Kind::RealTime)));
            }
            Event::Ended(number) => {
                let transaction = &index.transactions[number];
                newest.retain(|other| index.transactions[*other].ended >= transaction.begun);
                newest.push(number);
                by_process.insert(transaction.process, number);
            }
        }
    }
    edges
}
