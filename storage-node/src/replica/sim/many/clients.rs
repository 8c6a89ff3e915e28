//! Clients: they write, delete and read keys, at whoever says that it leads.

use super::{Result, Violation, World};
use crate::replica::Input;
use crate::replica::proposals::Write;
use crate::replica::sim::invariants::registers::Told;
use crate::store::handle::{Leadership, ProposeError, ReadError, ReplicaHandle};
use parking_lot::Mutex;
use rangedb_engine::{Engine as _, Family};
use rangedb_mvcc::key::encode_key;
use rangedb_proto::internal::v1::{Mutation, WriteCommand};
use rangedb_types::{Random as _, RangeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys that clients use; ranges are split at them.
pub const KEYS: u64 = 24;

/// How a proposal ended, and when.
type Ends = Arc<Mutex<Vec<(u64, Vec<u8>, Result<(), ProposeError>, u64)>>>;

/// A write that was evaluated and not proposed yet.
struct Evaluated {
    at: usize,
    range_id: RangeId,
    leadership: Leadership,
    key: Vec<u8>,
    id: u64,
    value: Option<u64>,
}

/// A read that waits for its ReadIndex round.
struct Reading {
    at: usize,
    incarnation: u64,
    handle: Arc<ReplicaHandle>,
    leadership: Leadership,
    key: Vec<u8>,
    began: u64,
    answer: Arc<Mutex<Option<Result<(), ReadError>>>>,
}

/// All clients.
#[derive(Default)]
pub struct Clients {
    /// Grows with everything that begins or ends.
    time: Arc<AtomicU64>,
    last_id: u64,
    ends: Ends,
    evaluated: Vec<Evaluated>,
    reading: Vec<Reading>,
}

pub fn key(number: u64) -> Vec<u8> {
    format!("k{number:02}").into_bytes()
}

impl Clients {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }
}

impl World {
    pub(super) fn client_acts(&mut self) -> Result {
        self.note_ends()?;
        let key = key(self.random.below(KEYS));
        match self.random.below(8) {
            0..3 => self.evaluate(key),
            3..5 => {
                self.propose_evaluated();
                Ok(())
            }
            5 => self.read_by_lease(&key),
            6 => {
                self.begin_read(key);
                Ok(())
            }
            _ => self.end_reads(),
        }
    }

    /// Somebody who says that it leads the range of a key.
    pub(super) fn leader_of(
        &mut self,
        key: &[u8],
    ) -> Option<(usize, Arc<ReplicaHandle>, Leadership)> {
        let mut leaders = self.leaders();
        leaders.retain(|(_, handle)| handle.descriptor().span.contains(key));
        if leaders.is_empty() {
            return None;
        }
        let chosen = self.random.below(leaders.len() as u64) as usize;
        let (at, handle) = leaders.swap_remove(chosen);
        let leadership = handle.leadership()?;
        // As a request is routed: the range is looked at before its leadership.
        (handle.descriptor().epoch == leadership.epoch).then_some((at, handle, leadership))
    }

    fn evaluate(&mut self, key: Vec<u8>) -> Result {
        let Some((at, handle, leadership)) = self.leader_of(&key) else { return Ok(()) };
        self.clients.last_id += 1;
        let id = self.clients.last_id;
        let value = (self.random.below(4) > 0).then_some(id);
        let began = self.clients.now();
        self.watch.registers.write_began(&key, id, value, began);
        let range_id = handle.range_id();
        self.clients.evaluated.push(Evaluated { at, range_id, leadership, key, id, value });
        if self.random.below(3) > 0 {
            self.propose_evaluated();
        }
        Ok(())
    }

    fn propose_evaluated(&mut self) {
        for write in std::mem::take(&mut self.clients.evaluated) {
            self.propose(write);
        }
    }

    fn propose(&mut self, write: Evaluated) {
        let Evaluated { at, range_id, mut leadership, key, id, value } = write;
        if self.plan.sabotage.no_epoch_check
            && let Some(now) = self.handle(at, range_id).and_then(|handle| handle.leadership())
        {
            leadership.epoch = now.epoch;
        }
        let mutation = Mutation {
            family: Family::Lock.number(),
            key: encode_key(&key).into(),
            value: value.map(|value| value.to_be_bytes().to_vec().into()),
        };
        let (ends, time) = (Arc::clone(&self.clients.ends), Arc::clone(&self.clients.time));
        let write = Write {
            term: leadership.term,
            epoch_version: leadership.epoch.version,
            command: WriteCommand { mutations: vec![mutation], commit_version: id, freed_bytes: 0 },
            size_bytes: 64,
            reply: Box::new(move |result| {
                ends.lock().push((id, key, result, time.fetch_add(1, Ordering::SeqCst)));
            }),
        };
        if let Some(running) = &self.nodes[at].running {
            running.store.input(range_id, Input::Propose(write));
        }
    }

    /// Takes the answers that have come.
    pub(super) fn note_ends(&mut self) -> Result {
        for (id, key, result, at) in std::mem::take(&mut *self.clients.ends.lock()) {
            let told = match result {
                Ok(()) => Told::Done,
                Err(ProposeError::OutcomeUnknown | ProposeError::Stopping) => continue,
                Err(_) => Told::Refused,
            };
            let noted = self.watch.registers.write_ended(&key, id, told, at);
            noted.map_err(Violation::of("acknowledged writes stay"))?;
        }
        Ok(())
    }

    fn value_at(&self, at: usize, key: &[u8]) -> Option<u64> {
        let value =
            self.nodes[at].engine.get(Family::Lock, &encode_key(key)).expect("it is memory");
        value.map(|value| u64::from_be_bytes(value.as_ref().try_into().expect("eight bytes")))
    }

    /// Reads from everybody who holds the lease of a key.
    pub(super) fn read_by_lease(&mut self, key: &[u8]) -> Result {
        for (at, handle) in self.handles() {
            let Some(leadership) = handle.leadership() else { continue };
            let range = handle.descriptor();
            if range.span.contains(key)
                && range.epoch == leadership.epoch
                && handle.lease_holds(leadership.term)
            {
                let (value, began) = (self.value_at(at, key), self.clients.now());
                self.note_ends()?;
                let ended = self.clients.now();
                let read = self.watch.registers.read(key, value, began, ended);
                read.map_err(Violation::of("acknowledged writes stay"))?;
            }
        }
        Ok(())
    }

    pub(super) fn begin_read(&mut self, key: Vec<u8>) {
        let Some((at, handle, leadership)) = self.leader_of(&key) else { return };
        let answer = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&answer);
        let reply = Box::new(move |result| *slot.lock() = Some(result));
        let began = self.clients.now();
        if let Some(running) = &self.nodes[at].running {
            running.store.input(handle.range_id(), Input::Read(reply));
        }
        let incarnation = self.nodes[at].incarnation;
        let reading = Reading { at, incarnation, handle, leadership, key, began, answer };
        self.clients.reading.push(reading);
    }

    /// Nobody waits any more for what was asked.
    pub(super) fn forget_reads(&mut self) {
        self.clients.reading.clear();
    }

    /// Confirmed reads take their snapshot, and look at the leadership again.
    pub(super) fn end_reads(&mut self) -> Result {
        self.note_ends()?;
        for reading in std::mem::take(&mut self.clients.reading) {
            let answer = reading.answer.lock().clone();
            match answer {
                // Its node died, or it may still come.
                None if Arc::strong_count(&reading.answer) == 1 => {}
                None => self.clients.reading.push(reading),
                Some(Err(_)) => {}
                Some(Ok(())) => self.end_read(&reading)?,
            }
        }
        Ok(())
    }

    fn end_read(&mut self, reading: &Reading) -> Result {
        if self.nodes[reading.at].incarnation != reading.incarnation {
            return Ok(());
        }
        let value = self.value_at(reading.at, &reading.key);
        let current = reading.handle.leadership().is_some_and(|now| {
            now.term == reading.leadership.term
                && now.epoch.version == reading.leadership.epoch.version
        });
        if !current {
            return Ok(());
        }
        let ended = self.clients.now();
        let read = self.watch.registers.read(&reading.key, value, reading.began, ended);
        read.map_err(Violation::of("acknowledged writes stay"))
    }
}
