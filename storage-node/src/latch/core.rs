//! The queue behind the latches, with no waiting in it.
//!
//! Every latch has a ticket, in order of arrival, and counts the earlier latches that overlap it; it
//! is held when that count is zero. Giving up a held latch and leaving the queue are therefore the
//! same: everything later that overlaps counts one less. Two latches over several keys count each other
//! once for every key they share.

use super::{LatchError, Scope};
use bytes::Bytes;
use rangedb_types::Span;
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::sync::oneshot;

/// Order of arrival.
pub(super) type Ticket = u64;

/// One latch that waits.
struct Waiting {
    /// Earlier latches that overlap.
    blockers: usize,
    wake: oneshot::Sender<()>,
}

/// The latches on one key. Almost always one, which then needs no allocation.
struct KeyQueue {
    first: Ticket,
    later: VecDeque<Ticket>,
}

impl KeyQueue {
    fn add_later(&self, ticket: Ticket, tickets: &mut Vec<Ticket>) {
        tickets.extend((self.first > ticket).then_some(self.first));
        tickets.extend(self.later.iter().filter(|other| **other > ticket));
    }
}

/// Latches held and waited for.
///
/// Invariants: every ticket stands in `keys` or in `spans`; `waiting` holds exactly those with
/// blockers.
#[derive(Default)]
pub(super) struct Core {
    next: Ticket,
    keys: HashMap<Bytes, KeyQueue>,
    spans: BTreeMap<Ticket, Span>,
    waiting: HashMap<Ticket, Waiting>,
    count: usize,
}

type Enqueued = (Ticket, Option<oneshot::Receiver<()>>);

impl Core {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a latch; with a receiver if it has to wait.
    pub(super) fn enqueue(
        &mut self,
        scope: &Scope,
        waiting_max: usize,
    ) -> Result<Enqueued, LatchError> {
        let blockers = self.count_overlapping(scope);
        if blockers > 0 && self.waiting.len() >= waiting_max {
            return Err(LatchError::TooManyWaiting);
        }
        let ticket = self.next;
        self.next += 1;
        self.count += 1;
        match scope {
            Scope::Key(key) => self.add_key(ticket, key),
            Scope::Keys(keys) => keys.iter().for_each(|key| self.add_key(ticket, key)),
            Scope::Span(span) => {
                self.spans.insert(ticket, span.clone());
            }
        }
        if blockers == 0 {
            return Ok((ticket, None));
        }
        let (wake, granted) = oneshot::channel();
        self.waiting.insert(ticket, Waiting { blockers, wake });
        Ok((ticket, Some(granted)))
    }

    /// Removes a latch; returns the waiters that hold theirs now.
    pub(super) fn release(&mut self, ticket: Ticket, scope: &Scope) -> Vec<oneshot::Sender<()>> {
        self.count -= 1;
        match scope {
            Scope::Key(key) => self.remove_key(ticket, key),
            Scope::Keys(keys) => keys.iter().for_each(|key| self.remove_key(ticket, key)),
            Scope::Span(_) => {
                self.spans.remove(&ticket);
            }
        }
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.remove(&ticket);
        let mut freed = Vec::new();
        for later in self.later_overlapping(ticket, scope) {
            let waiting = self.waiting.get_mut(&later).expect("a later overlapping latch waits");
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                let waiting = self.waiting.remove(&later).expect("found just above");
                freed.push(waiting.wake);
            }
        }
        freed
    }

    fn add_key(&mut self, ticket: Ticket, key: &Bytes) {
        match self.keys.get_mut(key) {
            Some(queue) => queue.later.push_back(ticket),
            None => {
                let queue = KeyQueue { first: ticket, later: VecDeque::new() };
                self.keys.insert(key.clone(), queue);
            }
        }
    }

    fn remove_key(&mut self, ticket: Ticket, key: &Bytes) {
        let queue = self.keys.get_mut(key).expect("a latched key has a queue");
        if queue.first != ticket {
            queue.later.retain(|later| *later != ticket);
            return;
        }
        match queue.later.pop_front() {
            Some(next) => queue.first = next,
            None => {
                self.keys.remove(key);
            }
        }
    }

    /// Counts a latch once for every key that it shares with `scope`, as `later_overlapping` does.
    fn count_overlapping(&self, scope: &Scope) -> usize {
        let over_key = |key: &Bytes| {
            let same = self.keys.get(key).map_or(0, |queue| 1 + queue.later.len());
            same + self.spans.values().filter(|span| span.contains(key)).count()
        };
        match scope {
            Scope::Key(key) => over_key(key),
            Scope::Keys(keys) => keys.iter().map(over_key).sum(),
            Scope::Span(span) => {
                let keys = self.keys.iter().filter(|(key, _)| span.contains(key));
                let keys: usize = keys.map(|(_, queue)| 1 + queue.later.len()).sum();
                keys + self.spans.values().filter(|other| other.overlaps(span)).count()
            }
        }
    }

    /// Tickets above `ticket` whose scope overlaps this one.
    fn later_overlapping(&self, ticket: Ticket, scope: &Scope) -> Vec<Ticket> {
        let mut later = Vec::new();
        let keys: &[Bytes] = match scope {
            Scope::Key(key) => std::slice::from_ref(key),
            Scope::Keys(keys) => keys,
            Scope::Span(_) => &[],
        };
        for key in keys {
            self.keys.get(key).into_iter().for_each(|queue| queue.add_later(ticket, &mut later));
            let spans = self.spans.range(ticket..);
            later.extend(spans.filter(|(_, span)| span.contains(key)).map(|(id, _)| *id));
        }
        match scope {
            Scope::Key(_) | Scope::Keys(_) => {}
            Scope::Span(span) => {
                let keys = self.keys.iter().filter(|(key, _)| span.contains(key));
                keys.for_each(|(_, queue)| queue.add_later(ticket, &mut later));
                let spans = self.spans.range(ticket..);
                later.extend(spans.filter(|(_, other)| other.overlaps(span)).map(|(id, _)| *id));
            }
        }
        later
    }
}
