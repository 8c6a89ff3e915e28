//! Each key is a register: a write that was acknowledged is never lost, one that was refused is never
//! seen, what was overwritten or deleted never comes back.
//!
//! A write takes effect between its beginning and its end: the moment it was acknowledged, or first
//! seen. A value may be read if its write had begun, and no write that began after its end had ended
//! before the read began.

use std::collections::{BTreeMap, BTreeSet};

/// How a write ended, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Done,
    /// Surely not applied.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    /// `None` deletes.
    value: Option<u64>,
    began: u64,
    ended: Option<u64>,
    refused: bool,
}

#[derive(Debug, Default)]
struct Register {
    writes: BTreeMap<u64, Write>,
    last_read: Option<(Option<u64>, u64)>,
    /// Values that were seen, and then no more, and when.
    buried: BTreeMap<u64, u64>,
}

/// All keys.
#[derive(Default)]
pub struct Registers {
    keys: BTreeMap<Vec<u8>, Register>,
    /// Acknowledged writes, to know that something happened.
    pub acknowledged: u64,
    pub reads: u64,
}

impl Registers {
    pub fn write_began(&mut self, key: &[u8], id: u64, value: Option<u64>, at: u64) {
        let register = self.keys.entry(key.to_vec()).or_default();
        let write = Write { value, began: at, ended: None, refused: false };
        register.writes.insert(id, write);
    }

    pub fn write_ended(&mut self, key: &[u8], id: u64, told: Told, at: u64) -> Result<(), String> {
        let register = self.keys.get_mut(key).expect("it began");
        let write = register.writes.get_mut(&id).expect("it began");
        match told {
            Told::Done => {
                self.acknowledged += 1;
                write.ended = Some(write.ended.map_or(at, |seen| seen.min(at)));
                register.forget_the_past();
                Ok(())
            }
            Told::Refused if write.ended.is_some() && write.value.is_some() => {
                Err(format!("{write:?} was seen before it was refused"))
            }
            Told::Refused => {
                write.refused = true;
                Ok(())
            }
        }
    }

    pub fn read(
        &mut self,
        key: &[u8],
        value: Option<u64>,
        began: u64,
        ended: u64,
    ) -> Result<(), String> {
        self.reads += 1;
        let register = self.keys.entry(key.to_vec()).or_default();
        let text = String::from_utf8_lossy(key).into_owned();
        register.read(value, began, ended).map_err(|why| format!("key {text}: {why}"))
    }
}

impl Register {
    fn read(&mut self, value: Option<u64>, began: u64, ended: u64) -> Result<(), String> {
        if let Some(number) = value
            && self.buried.get(&number).is_some_and(|buried| *buried < began)
        {
            return Err(format!("{number} had been overwritten and is back"));
        }
        // The last write that surely took effect before the read, by its beginning.
        let settled = self.writes.values().filter(|write| write.ended.is_some_and(|at| at < began));
        let settled: Vec<Write> = settled.filter(|write| !write.refused).copied().collect();
        let overtaken = |end: u64| settled.iter().any(|write| write.began > end);
        let fits = |write: &Write| {
            write.value == value
                && !write.refused
                && write.began < ended
                && !write.ended.is_some_and(overtaken)
        };
        let never_written = value.is_none() && settled.is_empty();
        let found: Vec<u64> =
            self.writes.iter().filter(|(_, write)| fits(write)).map(|(id, _)| *id).collect();
        if found.is_empty() && !never_written {
            return Err(format!("{value:?} was read from {began} to {ended}: {:?}", self.writes));
        }
        if let [only] = found[..]
            && !never_written
            && let Some(write) = self.writes.get_mut(&only)
        {
            write.ended = Some(write.ended.map_or(ended, |at| at.min(ended)));
        }
        if let Some((Some(before), at)) = self.last_read
            && at < began
            && value != Some(before)
        {
            self.buried.entry(before).or_insert(ended);
        }
        if self.last_read.is_none_or(|(_, at)| at < began) {
            self.last_read = Some((value, ended));
        }
        self.forget_the_past();
        Ok(())
    }

    /// Writes that ended before another one began that has ended too can be seen by no later read.
    /// The newest of them stay, for reads that are under way.
    fn forget_the_past(&mut self) {
        const KEPT: usize = 64;
        if self.writes.len() < KEPT {
            return;
        }
        let ended = self.writes.values().filter(|write| write.ended.is_some() && !write.refused);
        let newest = ended.map(|write| write.began).max().unwrap_or_default();
        let past: BTreeSet<u64> = self
            .writes
            .iter()
            .filter(|(_, write)| write.refused || write.ended.is_some_and(|end| end < newest))
            .map(|(id, _)| *id)
            .take(KEPT / 2)
            .collect();
        self.writes.retain(|id, _| !past.contains(id));
    }
}
