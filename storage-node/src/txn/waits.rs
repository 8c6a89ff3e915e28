//! Who waits for which key, in the order they came.
//!
//! Owns: the queues of one range's leader. Must not know: intents, the engine, who is a deadlock's victim and
//! why. Invariants: of those who wait for a key one is at the head, and only the head tries to get it; a place
//! is given up by dropping it; nothing is kept for a key that nobody waits for.

use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
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
    /// It is at the head, or the key was released, or it is to give up.
    woken: Notify,
    given_up: Mutex<Option<Vec<Timestamp>>>,
}

/// A place in a queue.
pub struct Place {
    key: Bytes,
    waiting: Arc<Waiting>,
    queues: Arc<Mutex<Queues>>,
}

impl Waits {
    /// Takes a place at the end of a key's queue; `None` if too many wait.
    #[must_use]
    pub fn enter(&self, key: &Bytes, transaction: Timestamp) -> Option<Place> {
        let mut queues = self.queues.lock();
        if queues.count >= WAITING_MAX {
            return None;
        }
        queues.count += 1;
        let waiting =
            Arc::new(Waiting { transaction, woken: Notify::new(), given_up: Mutex::new(None) });
        queues.keys.entry(key.clone()).or_default().push_back(Arc::clone(&waiting));
        Some(Place { key: key.clone(), waiting, queues: Arc::clone(&self.queues) })
    }

    /// True if nobody waits for a key.
    #[must_use]
    pub fn is_free(&self, key: &[u8]) -> bool {
        !self.queues.lock().keys.contains_key(key)
    }

    /// A key may be free now.
    pub fn released(&self, keys: impl IntoIterator<Item = Bytes>) {
        let queues = self.queues.lock();
        if queues.count == 0 {
            return;
        }
        for key in keys {
            if let Some(head) = queues.keys.get(&key).and_then(VecDeque::front) {
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

    /// Everybody who waits, and for which key.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Timestamp, Vec<Bytes>> {
        let queues = self.queues.lock();
        let mut all: BTreeMap<Timestamp, Vec<Bytes>> = BTreeMap::new();
        for (key, queue) in &queues.keys {
            for waiting in queue {
                all.entry(waiting.transaction).or_default().push(key.clone());
            }
        }
        all
    }
}

impl Place {
    /// True if it is this one's turn to try.
    #[must_use]
    pub fn is_head(&self) -> bool {
        let queues = self.queues.lock();
        let queue = queues.keys.get(&self.key);
        queue.and_then(VecDeque::front).is_some_and(|head| Arc::ptr_eq(head, &self.waiting))
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
        let Some(queue) = queues.keys.get_mut(&self.key) else { return };
        let was_head = queue.front().is_some_and(|head| Arc::ptr_eq(head, &self.waiting));
        queue.retain(|waiting| !Arc::ptr_eq(waiting, &self.waiting));
        match queue.front() {
            Some(head) if was_head => head.woken.notify_one(),
            Some(_) => {}
            None => {
                queues.keys.remove(&self.key);
            }
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
        assert!(first.is_head() && !second.is_head() && !waits.is_free(&key));
        waits.released([key.clone()]);
        first.woken().await;
        assert!(second.woken().now_or_never().is_none(), "in the order they came");
        drop(second);
        assert!(third.woken().now_or_never().is_none(), "the head is still there");
        drop(first);
        third.woken().await;
        assert!(third.is_head());
        drop(third);
        assert!(waits.is_free(&key) && waits.all().is_empty());
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
        assert!(waits.enter(&key, at(0)).is_none());
        places.into_iter().rev().for_each(drop);
        assert!(waits.enter(&key, at(0)).is_some());
    }
}
