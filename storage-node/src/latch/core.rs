//! The queue behind the latches, with no waiting in it.
//!
//! Every latch has a ticket, in order of arrival, and counts the earlier latches that overlap it; it
//! is held when that count is zero. Giving up a held latch and leaving the queue are therefore the
//! same: everything later that overlaps counts one less. Two latches over several keys count each other
//! once for every key they share; two shared ones do not count each other at all.

use super::{LatchError, Mode, Scope};
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

/// One latch in a queue.
#[derive(Clone, Copy)]
struct Place {
    ticket: Ticket,
    mode: Mode,
}

/// The latches on one key, by their tickets. Almost always one, which then needs no allocation.
struct KeyQueue {
    first: Place,
    later: VecDeque<Place>,
    /// How many of them are exclusive.
    exclusive: usize,
}

impl KeyQueue {
    fn new(first: Place) -> Self {
        Self { first, later: VecDeque::new(), exclusive: first.mode.exclusive() }
    }

    fn push(&mut self, place: Place) {
        self.exclusive += place.mode.exclusive();
        self.later.push_back(place);
    }

    /// Removes a latch that stands in it. True if it was the last one.
    fn remove(&mut self, Place { ticket, mode }: Place) -> bool {
        self.exclusive -= mode.exclusive();
        if self.first.ticket == ticket {
            let Some(next) = self.later.pop_front() else { return true };
            self.first = next;
        } else {
            let at = self.later.binary_search_by_key(&ticket, |place| place.ticket);
            self.later.remove(at.expect("a latch stands in the queues of its keys"));
        }
        false
    }

    /// How many a new latch would have to wait for.
    fn excluding(&self, mode: Mode) -> usize {
        match mode {
            Mode::Shared => self.exclusive,
            Mode::Exclusive => 1 + self.later.len(),
        }
    }

    fn add_later(&self, place: Place, tickets: &mut Vec<Ticket>) {
        if self.excluding(place.mode) == 0 {
            return;
        }
        let after = std::iter::once(&self.first).chain(&self.later);
        let after = after.filter(|other| other.ticket > place.ticket && other.excludes(place.mode));
        tickets.extend(after.map(|other| other.ticket));
    }
}

impl Place {
    const fn excludes(&self, mode: Mode) -> bool {
        self.mode.exclusive() + mode.exclusive() > 0
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
    spans: BTreeMap<Ticket, (Span, Mode)>,
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
        mode: Mode,
        waiting_max: usize,
    ) -> Result<Enqueued, LatchError> {
        let blockers = self.count_overlapping(scope, mode);
        if blockers > 0 && self.waiting.len() >= waiting_max {
            return Err(LatchError::TooManyWaiting);
        }
        let ticket = self.next;
        self.next += 1;
        self.count += 1;
        match scope {
            Scope::Span(span) => {
                self.spans.insert(ticket, (span.clone(), mode));
            }
            keys => keys.listed().iter().for_each(|key| self.add_key(Place { ticket, mode }, key)),
        }
        if blockers == 0 {
            return Ok((ticket, None));
        }
        let (wake, granted) = oneshot::channel();
        self.waiting.insert(ticket, Waiting { blockers, wake });
        Ok((ticket, Some(granted)))
    }

    /// Removes a latch; returns the waiters that hold theirs now.
    pub(super) fn release(
        &mut self,
        ticket: Ticket,
        scope: &Scope,
        mode: Mode,
    ) -> Vec<oneshot::Sender<()>> {
        let place = Place { ticket, mode };
        self.count -= 1;
        match scope {
            Scope::Span(_) => {
                self.spans.remove(&ticket);
            }
            keys => keys.listed().iter().for_each(|key| self.remove_key(place, key)),
        }
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.remove(&ticket);
        let mut freed = Vec::new();
        for later in self.later_overlapping(place, scope) {
            let waiting = self.waiting.get_mut(&later).expect("a later overlapping latch waits");
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                let waiting = self.waiting.remove(&later).expect("found just above");
                freed.push(waiting.wake);
            }
        }
        freed
    }

    fn add_key(&mut self, place: Place, key: &Bytes) {
        match self.keys.get_mut(key) {
            Some(queue) => queue.push(place),
            None => {
                self.keys.insert(key.clone(), KeyQueue::new(place));
            }
        }
    }

    fn remove_key(&mut self, place: Place, key: &Bytes) {
        let queue = self.keys.get_mut(key).expect("a latched key has a queue");
        if queue.remove(place) {
            self.keys.remove(key);
        }
    }

    /// Counts a latch once for every key that it shares with `scope`, as `later_overlapping` does.
    fn count_overlapping(&self, scope: &Scope, mode: Mode) -> usize {
        let spans = |overlaps: &dyn Fn(&Span) -> bool| {
            let excluding = self.excluding_spans(0, mode);
            excluding.filter(|(_, span)| overlaps(span)).count()
        };
        match scope {
            Scope::Span(span) => {
                let keys = self.keys.iter().filter(|(key, _)| span.contains(key));
                let keys: usize = keys.map(|(_, queue)| queue.excluding(mode)).sum();
                keys + spans(&|other| other.overlaps(span))
            }
            keys => {
                let over_key = |key: &Bytes| {
                    let same = self.keys.get(key).map_or(0, |queue| queue.excluding(mode));
                    same + spans(&|span| span.contains(key))
                };
                keys.listed().iter().map(over_key).sum()
            }
        }
    }

    /// Tickets above that of `place` whose scope overlaps this one, and who cannot be held beside it.
    fn later_overlapping(&self, place: Place, scope: &Scope) -> Vec<Ticket> {
        let mut later = Vec::new();
        for key in scope.listed() {
            self.keys.get(key).into_iter().for_each(|queue| queue.add_later(place, &mut later));
            let spans = self.excluding_spans(place.ticket, place.mode);
            later.extend(spans.filter(|(_, span)| span.contains(key)).map(|(id, _)| id));
        }
        if let Scope::Span(span) = scope {
            let keys = self.keys.iter().filter(|(key, _)| span.contains(key));
            keys.for_each(|(_, queue)| queue.add_later(place, &mut later));
            let spans = self.excluding_spans(place.ticket, place.mode);
            later.extend(spans.filter(|(_, other)| other.overlaps(span)).map(|(id, _)| id));
        }
        later
    }

    /// Latches over spans, from a ticket on, that cannot be held beside one of this mode.
    fn excluding_spans(&self, from: Ticket, mode: Mode) -> impl Iterator<Item = (Ticket, &Span)> {
        let spans = self.spans.range(from..);
        spans.filter_map(move |(ticket, (span, other))| {
            let place = Place { ticket: *ticket, mode: *other };
            place.excludes(mode).then_some((*ticket, span))
        })
    }
}
