//! A toy database that runs random transactions in a random order of steps, at a given level, and
//! keeps the history. Owns: three textbook executions: one after the other, snapshots of which the
//! first to commit wins, and reads of what is committed; and two with a mistake. Must not know: the checker.

use super::history::{Key, Op, Outcome, Transaction};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    Serial,
    Snapshot,
    ReadCommitted,
    /// Snapshots, but nobody looks whether another one wrote the same key.
    LastWins,
    /// Snapshots of a moment before the beginning.
    OldSnapshot,
}

/// Keys of a run: lists, then registers that spans may read.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub lists: u32,
    pub registers: u32,
}

/// After so many elements a list is left alone, and another takes its place.
const ELEMENTS_MAX: usize = 40;
/// Clients that run at the same time.
const CLIENTS: u32 = 8;
/// How long before a transaction its old snapshot was taken.
const AGE: u64 = 4;
const REGISTERS_FROM: u32 = 1_000_000;

#[derive(Clone, Debug)]
enum Value {
    List(Vec<u64>),
    Register(u64),
}

/// A transaction under way.
struct Running {
    begun: u64,
    snapshot: u64,
    left: usize,
    ops: Vec<Op>,
    seen: HashMap<Key, Option<Value>>,
    writes: BTreeMap<Key, Value>,
}

pub struct Toy {
    execution: Execution,
    keys: Keys,
    random: StdRng,
    /// Every version of every key, oldest first.
    versions: BTreeMap<Key, Vec<(u64, Value)>>,
    clock: u64,
    next_value: u64,
    running: Vec<Option<Running>>,
    history: Vec<Transaction>,
    /// Which list stands in each place now.
    lists: Vec<u32>,
}

/// A history of so many transactions.
pub fn run(execution: Execution, keys: Keys, transactions: usize, seed: u64) -> Vec<Transaction> {
    let mut toy = Toy {
        execution,
        keys,
        random: StdRng::seed_from_u64(seed),
        versions: BTreeMap::new(),
        clock: 0,
        next_value: 0,
        running: (0..CLIENTS).map(|_| None).collect(),
        history: Vec::new(),
        lists: (0..keys.lists).collect(),
    };
    while toy.history.len() < transactions {
        let client = toy.random.random_range(0..CLIENTS);
        toy.turn(client);
        while execution == Execution::Serial && toy.running[client as usize].is_some() {
            toy.turn(client);
        }
    }
    toy.history
}

impl Toy {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn turn(&mut self, client: u32) {
        let Some(mut running) = self.running[client as usize].take() else {
            let begun = self.tick();
            let old = if self.execution == Execution::OldSnapshot { AGE } else { 0 };
            self.running[client as usize] = Some(Running {
                begun,
                snapshot: begun.saturating_sub(old),
                left: self.random.random_range(1..=4),
                ops: Vec::new(),
                seen: HashMap::new(),
                writes: BTreeMap::new(),
            });
            return;
        };
        if running.left == 0 {
            self.end(client, running);
            return;
        }
        running.left -= 1;
        self.step(&mut running);
        self.running[client as usize] = Some(running);
    }

    fn step(&mut self, running: &mut Running) {
        let value = self.next_value;
        self.next_value += 1;
        let list = self.list();
        let register = REGISTERS_FROM + self.random.random_range(0..self.keys.registers);
        match self.random.random_range(0..7) {
            0 | 1 => {
                let mut elements = self.read_list(running, list);
                running.ops.push(Op::Append { key: list, element: value });
                elements.push(value);
                running.writes.insert(list, Value::List(elements));
            }
            2 => drop(self.read_list(running, list)),
            3 | 4 => {
                if self.random.random_bool(0.7) {
                    self.read_register(running, Key(register));
                }
                running.ops.push(Op::Write { key: Key(register), value });
                running.writes.insert(Key(register), Value::Register(value));
            }
            5 => self.read_register(running, Key(register)),
            _ => self.read_span(running, Key(register), Key(register + 3)),
        }
    }

    /// A list that is not full yet.
    fn list(&mut self) -> Key {
        let place = self.random.random_range(0..self.lists.len());
        let key = Key(self.lists[place]);
        let full = |list: &Value| matches!(list, Value::List(all) if all.len() >= ELEMENTS_MAX);
        if self.versions.get(&key).and_then(|all| all.last()).is_some_and(|(_, list)| full(list)) {
            self.lists[place] += self.keys.lists;
        }
        Key(self.lists[place])
    }

    fn look(&mut self, running: &mut Running, key: Key) -> Option<Value> {
        if let Some(own) = running.writes.get(&key) {
            return Some(own.clone());
        }
        let until = match self.execution {
            Execution::Snapshot | Execution::LastWins | Execution::OldSnapshot => running.snapshot,
            Execution::Serial | Execution::ReadCommitted => u64::MAX,
        };
        let versions = self.versions.get(&key).into_iter().flatten().rev();
        let found = versions.into_iter().find(|(version, _)| *version <= until);
        let found = found.map(|(_, value)| value.clone());
        running.seen.insert(key, found.clone());
        found
    }

    fn read_list(&mut self, running: &mut Running, key: Key) -> Vec<u64> {
        let found = match self.look(running, key) {
            Some(Value::List(elements)) => elements,
            _ => Vec::new(),
        };
        running.ops.push(Op::ReadList { key, found: found.clone() });
        found
    }

    fn read_register(&mut self, running: &mut Running, key: Key) {
        let found = match self.look(running, key) {
            Some(Value::Register(value)) => Some(value),
            _ => None,
        };
        running.ops.push(Op::Read { key, found });
    }

    fn read_span(&mut self, running: &mut Running, start: Key, end: Key) {
        let mut found = BTreeMap::new();
        for key in (start.0..end.0).map(Key) {
            if let Some(Value::Register(value)) = self.look(running, key) {
                found.insert(key, value);
            }
        }
        running.ops.push(Op::ReadSpan { start, end, found });
    }

    fn end(&mut self, process: u32, running: Running) {
        let version = self.tick();
        let newest = |key: &Key| Some(self.versions.get(key)?.last()?.0);
        let loses = matches!(self.execution, Execution::Snapshot | Execution::OldSnapshot)
            && running.writes.keys().any(|key| newest(key) > Some(running.snapshot));
        let gives_up = loses || self.random.random_bool(0.02);
        let outcome = if gives_up {
            Outcome::Aborted
        } else if running.writes.is_empty() {
            Outcome::Committed(running.snapshot)
        } else if self.random.random_bool(0.02) {
            Outcome::Unknown
        } else {
            Outcome::Committed(version)
        };
        // What nobody knows the outcome of comes about every second time.
        let applied = match outcome {
            Outcome::Committed(_) => true,
            Outcome::Unknown => self.random.random_bool(0.5),
            Outcome::Aborted => false,
        };
        for (key, value) in running.writes.into_iter().filter(|_| applied) {
            self.versions.entry(key).or_default().push((version, value));
        }
        let (begun, ops) = (running.begun, running.ops);
        let ended = self.tick();
        self.history.push(Transaction { process, begun, ended, outcome, ops });
    }
}
