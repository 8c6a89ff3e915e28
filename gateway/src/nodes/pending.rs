//! Requests that wait for an answer, found by tag.
//!
//! Owns: tags. Must not know: the network. Invariant: a tag is never used twice within 2^32 uses of
//! its slot, so a late answer to a request that was given up finds nothing.

use super::Outcome;
use super::waiter::Waiter;
use rangedb_proto::internal::v1::DataRequest;
use tokio::time::Instant;

/// One request on its way.
pub struct Pending {
    /// Present until the request is handed to the stream.
    pub request: Option<DataRequest>,
    pub waiter: Box<dyn Waiter>,
    pub expires: Instant,
    pub cost_bytes: usize,
}

impl Pending {
    /// How the request ends if its stream does.
    #[must_use]
    pub const fn broken(&self) -> Outcome {
        if self.request.is_some() { Outcome::NotSent } else { Outcome::Lost }
    }

    /// How the request ends if its time does.
    #[must_use]
    pub const fn expired(&self) -> Outcome {
        if self.request.is_some() { Outcome::NotSent } else { Outcome::TimedOut }
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

/// A slab of pending requests.
#[derive(Default)]
pub struct PendingTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl PendingTable {
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps a request; the tag finds it again.
    pub fn insert(&mut self, pending: Pending) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("links hold far fewer than 2^32 requests")
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.pending = Some(pending);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    pub fn get_mut(&mut self, tag: u64) -> Option<&mut Pending> {
        let (index, generation) = split(tag);
        let slot = self.slots.get_mut(index)?;
        if slot.generation == generation { slot.pending.as_mut() } else { None }
    }

    pub fn remove(&mut self, tag: u64) -> Option<Pending> {
        let (index, generation) = split(tag);
        let slot = self.slots.get_mut(index)?;
        if slot.generation != generation {
            return None;
        }
        let pending = slot.pending.take()?;
        self.free.push(u32::try_from(index).expect("an index came out of 32 bits"));
        Some(pending)
    }

    /// Takes out every request whose time is over.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Pending> {
        self.take_where(|pending| pending.expires <= now)
    }

    /// Takes out everything.
    pub fn take_all(&mut self) -> Vec<Pending> {
        self.take_where(|_| true)
    }

    fn take_where(&mut self, wanted: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let mut taken = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.pending.as_ref().is_some_and(&wanted) {
                taken.extend(slot.pending.take());
                self.free.push(u32::try_from(index).expect("an index came out of 32 bits"));
            }
        }
        taken
    }
}

fn split(tag: u64) -> (usize, u32) {
    let index = u32::try_from(tag & u64::from(u32::MAX)).expect("masked to 32 bits");
    let generation = u32::try_from(tag >> 32).expect("shifted to 32 bits");
    (index as usize, generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::waiter::oneshot_waiter;
    use std::time::Duration;

    fn pending(expires: Instant) -> Pending {
        let (waiter, _) = oneshot_waiter();
        Pending { request: None, waiter, expires, cost_bytes: 1 }
    }

    #[test]
    fn a_late_answer_finds_nothing() {
        let mut table = PendingTable::default();
        let now = Instant::now();
        let first = table.insert(pending(now));
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        let second = table.insert(pending(now));
        assert_ne!(first, second, "the slot is used again under another tag");
        assert!(table.remove(first).is_none() && table.get_mut(second).is_some());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn only_what_expired_is_taken() {
        let mut table = PendingTable::default();
        let now = Instant::now();
        let old = table.insert(pending(now));
        let new = table.insert(pending(now + Duration::from_secs(1)));
        assert_eq!(table.take_expired(now).len(), 1);
        assert!(table.get_mut(old).is_none() && table.get_mut(new).is_some());
        assert_eq!(table.take_all().len(), 1);
        assert!(table.is_empty());
    }
}
