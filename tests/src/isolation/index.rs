//! A history, looked through once. Owns: who wrote what, which transactions count, and what each of
//! them read and wrote as seen from outside. Must not know: what follows from it.
//!
//! A version of a key is named by the value written; of a list, by its last element. The state
//! before all writes is `None`.

use super::history::{Key, Op, Outcome, Transaction};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A transaction by its place in the history.
pub type Number = usize;
/// A version of a key.
pub type Version = Option<u64>;

/// Who wrote a value.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub by: Number,
    /// The last that this transaction wrote to the key: what others may see.
    pub is_last: bool,
}

/// A read of what others wrote.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub key: Key,
    pub version: Version,
    /// A span read that did not find the key.
    pub is_absence: bool,
}

/// What a transaction left in a key.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub key: Key,
    pub value: u64,
    /// What it had read there last before it wrote, if it had.
    pub base: Option<Version>,
}

/// A transaction as seen from outside.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    pub reads: Vec<Read>,
    pub writes: Vec<Write>,
}

pub struct Index<'a> {
    pub transactions: &'a [Transaction],
    pub writers: HashMap<(Key, u64), Writer>,
    /// Those that committed, or must have because a write of theirs was seen.
    pub counts: Vec<bool>,
    /// Of all transactions, also of those that do not count.
    pub digests: Vec<Digest>,
    registers: BTreeSet<Key>,
}

impl<'a> Index<'a> {
    pub fn new(transactions: &'a [Transaction]) -> Self {
        let mut index = Self {
            transactions,
            writers: HashMap::new(),
            counts: Vec::new(),
            digests: Vec::new(),
            registers: BTreeSet::new(),
        };
        index.note_writers();
        index.counts = index.count();
        index.digests = transactions.iter().map(|txn| index.digest(txn)).collect();
        index
    }

    fn note_writers(&mut self) {
        let mut lists = HashSet::new();
        for (by, transaction) in self.transactions.iter().enumerate() {
            let mut last = HashMap::new();
            for op in &transaction.ops {
                let (key, value) = match op {
                    Op::Append { key, element } => {
                        lists.insert(*key);
                        (*key, *element)
                    }
                    Op::Write { key, value } => {
                        self.registers.insert(*key);
                        (*key, *value)
                    }
                    _ => continue,
                };
                let before = self.writers.insert((key, value), Writer { by, is_last: true });
                assert!(before.is_none(), "{value} is written to {key} twice");
                if let Some(over) = last.insert(key, value)
                    && let Some(writer) = self.writers.get_mut(&(key, over))
                {
                    writer.is_last = false;
                }
            }
        }
        let both = self.registers.iter().find(|key| lists.contains(*key));
        assert!(both.is_none(), "{both:?} is a list and a register");
    }

    fn count(&self) -> Vec<bool> {
        let committed = |txn: &Transaction| matches!(txn.outcome, Outcome::Committed(_));
        let mut counts: Vec<bool> = self.transactions.iter().map(committed).collect();
        let mut see = |reader: Number, key: Key, value: u64| {
            if let Some(writer) = self.writers.get(&(key, value))
                && writer.by != reader
                && self.transactions[writer.by].outcome == Outcome::Unknown
            {
                counts[writer.by] = true;
            }
        };
        let may_have_one: bool =
            self.transactions.iter().any(|txn| txn.outcome == Outcome::Unknown);
        for (reader, transaction) in self.transactions.iter().enumerate().filter(|_| may_have_one) {
            for op in &transaction.ops {
                match op {
                    Op::ReadList { key, found } => {
                        found.iter().for_each(|element| see(reader, *key, *element));
                    }
                    Op::Read { key, found } => found.iter().for_each(|v| see(reader, *key, *v)),
                    Op::ReadSpan { found, .. } => {
                        found.iter().for_each(|(key, value)| see(reader, *key, *value));
                    }
                    Op::Append { .. } | Op::Write { .. } => {}
                }
            }
        }
        counts
    }

    /// The registers of a span that were ever written.
    pub fn registers(&self, start: Key, end: Key) -> impl Iterator<Item = Key> {
        self.registers.range(start..end.max(start)).copied()
    }

    fn digest(&self, transaction: &Transaction) -> Digest {
        let mut digest = Digest::default();
        let mut written: HashMap<Key, usize> = HashMap::new();
        let mut seen: HashMap<Key, Version> = HashMap::new();
        for op in &transaction.ops {
            let mut read = |key: Key, version: Version, is_absence: bool| {
                if !written.contains_key(&key) {
                    // The same again tells nothing new.
                    if seen.insert(key, version) != Some(version) {
                        digest.reads.push(Read { key, version, is_absence });
                    }
                }
            };
            match op {
                Op::ReadList { key, found } => read(*key, found.last().copied(), false),
                Op::Read { key, found } => read(*key, *found, false),
                Op::ReadSpan { start, end, found } => {
                    for key in self.registers(*start, *end) {
                        let version = found.get(&key).copied();
                        read(key, version, version.is_none());
                    }
                }
                Op::Append { key, element: value } | Op::Write { key, value } => {
                    let at = *written.entry(*key).or_insert_with(|| {
                        let base = seen.get(key).copied();
                        digest.writes.push(Write { key: *key, value: *value, base });
                        digest.writes.len() - 1
                    });
                    digest.writes[at].value = *value;
                }
            }
        }
        digest
    }

    /// Those that count, with what they did.
    pub fn counted(&self) -> impl Iterator<Item = (Number, &Digest)> {
        self.digests.iter().enumerate().filter(|(number, _)| self.counts[*number])
    }

    /// Who wrote a version, if that transaction counts and the version is its last of the key.
    pub fn author(&self, key: Key, value: u64) -> Option<Number> {
        let writer = self.writers.get(&(key, value))?;
        (writer.is_last && self.counts[writer.by]).then_some(writer.by)
    }

    /// The commit version of a version, zero before all writes; `None` if it is not known.
    pub fn committed_at(&self, key: Key, version: Version) -> Option<u64> {
        let Some(value) = version else { return Some(0) };
        self.transactions[self.writers.get(&(key, value))?.by].version()
    }
}
