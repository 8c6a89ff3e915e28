//! Who waits for which key, in the order they came.
//!
//! Owns: the queues of one range's leader. Must not know: intents, the engine, who is a deadlock's victim and
//! why. Invariants: of those who wait for a key one is at the head, and only the head tries to get it; a place
//! is given up by dropping it, and taken up again by the same transaction until then; nothing is kept for a
//! key that nobody waits for.

use crate::latch::Scope;
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Most transactions that wait in one range at a time.
pub const WAITING_MAX: usize = 10_000;

/// The queues of one range.
#[derive(Clone, Default)]
pub struct Waits {
    queues: Arc<Mutex<Queues>>,
}

#[derive(Default)]
struct Queues {
    keys: HashMap<Bytes, VecDeque<Arc<Waiting>>>,
    count: usize,
}

/// One that waits.
struct Waiting {
    transaction: Timestamp,
    /// The head changed, or the key was released, or it is to give up.
    woken: Notify,
    given_up: Mutex<Option<Vec<Timestamp>>>,
    /// Calls that stand here: one that ends leaves its place to the next of its transaction for a while.
    calls: AtomicUsize,
}

/// A place in a queue.
pub struct Place {
    key: Bytes,
    waiting: Arc<Waiting>,
    queues: Arc<Mutex<Queues>>,
}

impl Waits {
    /// Takes a place at the end of a key's queue, or the one that the transaction has; `None` if too many wait.
    #[must_use]
    pub fn enter(&self, key: &Bytes, transaction: Timestamp) -> Option<Place> {
        let mut queues = self.queues.lock();
        let mut known = queues.keys.get(key).into_iter().flatten();
        if let Some(waiting) = known.find(|waiting| waiting.transaction == transaction) {
            waiting.calls.fetch_add(1, Ordering::Relaxed);
            let (waiting, queues) = (Arc::clone(waiting), Arc::clone(&self.queues));
            return Some(Place { key: key.clone(), waiting, queues });
        }
        if queues.count >= WAITING_MAX {
            return None;
        }
        queues.count += 1;
        let waiting = Arc::new(Waiting {
            transaction,
            woken: Notify::new(),
            given_up: Mutex::new(None),
            calls: AtomicUsize::new(1),
        });
        queues.keys.entry(key.clone()).or_default().push_back(Arc::clone(&waiting));
        Some(Place { key: key.clone(), waiting, queues: Arc::clone(&self.queues) })
    }

    /// True if nobody waits for a key.
    #[must_use]
    pub fn is_free(&self, key: &[u8]) -> bool {
        !self.queues.lock().keys.contains_key(key)
    }

    /// Keys may be free now.
    pub fn released(&self, scope: &Scope) {
        let queues = self.queues.lock();
        if queues.count == 0 {
            return;
        }
        for (_, queue) in queues.keys.iter().filter(|(key, _)| scope.covers(key)) {
            if let Some(head) = queue.front() {
                head.woken.notify_one();
            }
        }
    }

    /// A transaction is a deadlock's victim: it waits no more, wherever it does.
    pub fn give_up(&self, transaction: Timestamp, cycle: &[Timestamp]) {
        for waiting in self.queues.lock().keys.values().flatten() {
            if waiting.transaction == transaction {
                *waiting.given_up.lock() = Some(cycle.to_vec());
                waiting.woken.notify_one();
            }
        }
    }
}

impl Place {
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// The transaction whose turn it is to try, unless that is this one.
    #[must_use]
    pub fn behind(&self) -> Option<Timestamp> {
        let queues = self.queues.lock();
        let head = queues.keys.get(&self.key).and_then(VecDeque::front)?;
        (!Arc::ptr_eq(head, &self.waiting)).then_some(head.transaction)
    }

    /// The cycle this one was made the victim of.
    #[must_use]
    pub fn given_up(&self) -> Option<Vec<Timestamp>> {
        self.waiting.given_up.lock().clone()
    }

    /// Resolves when it is worth looking again.
    pub async fn woken(&self) {
        self.waiting.woken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        if self.waiting.calls.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let Some(queue) = queues.keys.get_mut(&self.key) else { return };
        let was_head = queue.front().is_some_and(|head| Arc::ptr_eq(head, &self.waiting));
        queue.retain(|waiting| !Arc::ptr_eq(waiting, &self.waiting));
        if queue.is_empty() {
            queues.keys.remove(&self.key);
        } else if was_head {
            // They wait for another one from now on.
            queue.iter().for_each(|waiting| waiting.woken.notify_one());
        }
        queues.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn at(id: u64) -> Timestamp {
        Timestamp(id)
    }

    #[tokio::test]
    async fn the_head_tries_and_the_next_follows_it() {
        let (waits, key) = (Waits::default(), Bytes::from_static(b"k"));
        assert!(waits.is_free(&key));
        let first = waits.enter(&key, at(9)).unwrap();
        let second = waits.enter(&key, at(5)).unwrap();
        let third = waits.enter(&key, at(7)).unwrap();
        assert_eq!((first.behind(), second.behind()), (None, Some(at(9))));
        waits.released(&Scope::Key(key.clone()));
        first.woken().await;
        assert!(second.woken().now_or_never().is_none(), "in the order they came");
        drop(second);
        assert!(third.woken().now_or_never().is_none(), "the head is still there");
        let again = waits.enter(&key, at(9)).unwrap();
        drop(first);
        assert_eq!(third.behind(), Some(at(9)), "the next call of the same took its place");
        drop(again);
        third.woken().await;
        assert_eq!(third.behind(), None);
        drop(third);
        assert!(waits.is_free(&key));
    }

    #[tokio::test]
    async fn a_victim_is_told_of_its_cycle() {
        let (waits, key) = (Waits::default(), Bytes::from_static(b"k"));
        let place = waits.enter(&key, at(9)).unwrap();
        let other = waits.enter(&key, at(8)).unwrap();
        waits.give_up(at(9), &[at(9), at(8)]);
        place.woken().await;
        assert_eq!(place.given_up(), Some(vec![at(9), at(8)]));
        assert_eq!(other.given_up(), None);
    }

    #[test]
    fn the_queues_are_bounded() {
        let (waits, key) = (Waits::default(), Bytes::from_static(b"k"));
        let places: Vec<_> =
            (0..WAITING_MAX as u64).map(|id| waits.enter(&key, at(id)).unwrap()).collect();
        assert!(waits.enter(&key, at(WAITING_MAX as u64)).is_none());
        assert!(waits.enter(&key, at(0)).is_some(), "the next call of one that waits");
        places.into_iter().rev().for_each(drop);
        assert!(waits.enter(&key, at(0)).is_some());
    }
}
