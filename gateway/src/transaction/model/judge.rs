//! Whether what clients were told can be true of what stands in the store.
//!
//! Owns: the promises, each a check that says what is broken. Must not know: how anything came to be.

use super::script::{Event, How, Keys, SHARED, Script, Seen, value_of};
use super::store::Version;
use crate::errors::Failure;
use rangedb_mvcc::record::WriteKind;
use rangedb_types::Timestamp;
use std::collections::BTreeSet;

pub(super) struct Judge<'a> {
    pub(super) scripts: &'a [Script],
    pub(super) events: &'a [(usize, Event)],
    pub(super) versions: &'a [Version],
    pub(super) shared: Timestamp,
}

/// What is broken.
type Verdict = Result<(), String>;

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(broken()) }
}

impl Judge<'_> {
    pub(super) fn judge(&self) -> Verdict {
        for (number, script) in self.scripts.iter().enumerate() {
            match script {
                Script::Update { writes, .. } | Script::WriteAll(writes) => {
                    self.wrote(number, &value_of(number), writes)?;
                }
                Script::CommitShared { writes, .. } => self.wrote(number, SHARED, writes)?,
                Script::Read(_) | Script::RollBackShared(_) | Script::FateOfShared(_) => {}
            }
            if let Script::Update { reads, how, .. } = script {
                self.is_isolated(number, reads, *how)?;
            }
        }
        for (number, event) in self.events {
            self.event(*number, event)?;
        }
        Ok(())
    }

    /// At most one transaction wrote this value, and if one did, all of it.
    fn committed(&self, value: &str, writes: Keys) -> Result<Option<&Version>, String> {
        let own = |version: &&Version| version.value == value.as_bytes();
        let ids: BTreeSet<_> = self.versions.iter().filter(own).map(|it| it.id).collect();
        ensure(ids.len() <= 1, || format!("`{value}` was committed more than once: {ids:?}"))?;
        let Some(id) = ids.first() else { return Ok(None) };
        let group: Vec<_> = self.versions.iter().filter(|version| version.id == *id).collect();
        let marked = group.iter().any(|version| version.kind == WriteKind::Rollback);
        ensure(!marked, || format!("`{value}` is committed and rolled back: {group:?}"))?;
        let keys: Vec<&[u8]> = group.iter().map(|version| &version.key[..]).collect();
        let all: Vec<&[u8]> = writes.iter().map(|name| name.as_bytes()).collect();
        ensure(keys == all, || format!("`{value}` is not on all of its keys: {group:?}"))?;
        let versions: BTreeSet<_> = group.iter().map(|version| version.at).collect();
        ensure(versions.len() == 1, || format!("`{value}` has several versions: {group:?}"))?;
        ensure(group[0].at > *id, || format!("`{value}` is older than its beginning: {group:?}"))?;
        Ok(Some(group[0]))
    }

    /// What a commit was answered is so.
    fn wrote(&self, number: usize, value: &str, writes: Keys) -> Verdict {
        let committed = self.committed(value, writes)?.map(|version| version.at);
        for event in self.of(number) {
            match event {
                Event::Committed(Ok(version)) => ensure(committed == Some(*version), || {
                    format!("{number} was told {version}, and committed is {committed:?}")
                })?,
                Event::Committed(Err(failure)) if !self.leaves_open(number, failure) => {
                    ensure(committed.is_none(), || {
                        format!("{number} was told `{failure}`, and committed is {committed:?}")
                    })?;
                }
                Event::Began { told, .. } => ensure(committed.is_none_or(|at| at > *told), || {
                    format!(
                        "{number} committed at {committed:?}, below what was told before: {told}"
                    )
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a failed commit may have taken place: by its own doing or, if it is everybody's, by another's.
    fn leaves_open(&self, number: usize, failure: &Failure) -> bool {
        let shared = matches!(self.scripts[number], Script::CommitShared { .. });
        match failure {
            Failure::TransactionUnknown { .. } => true,
            Failure::KeyLocked { .. }
            | Failure::RangeUnavailable { .. }
            | Failure::PlacementUnavailable { .. } => shared,
            _ => false,
        }
    }

    fn of(&self, number: usize) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |(of, _)| *of == number).map(|(_, event)| event)
    }

    /// What a key showed at a version.
    fn state_at(&self, name: &str, at: Timestamp) -> Seen {
        let shows = |version: &&Version| {
            version.key == name.as_bytes() && version.at <= at && version.kind == WriteKind::Put
        };
        let newest = self.versions.iter().filter(shows).max_by_key(|version| version.at)?;
        Some((newest.value.clone(), newest.at))
    }

    fn shows(&self, at: Timestamp, seen: &[(&str, Seen)]) -> bool {
        seen.iter().all(|(name, seen)| self.state_at(name, at) == *seen)
    }

    /// Nobody wrote what a transaction wrote between its snapshot and its commit, nor, if it is serializable, what
    /// it read.
    fn is_isolated(&self, number: usize, reads: Keys, how: How) -> Verdict {
        let began = self.of(number).find_map(|event| match event {
            Event::Began { id, .. } => Some(*id),
            _ => None,
        });
        let own = value_of(number);
        let own = self.versions.iter().filter(|version| version.value == own.as_bytes());
        let Some(id) = began.filter(|_| how != How::ReadCommitted) else { return Ok(()) };
        for written in own {
            let checked = if how == How::Serializable { reads } else { &[] };
            let mut names: BTreeSet<&[u8]> = checked.iter().map(|name| name.as_bytes()).collect();
            names.insert(&written.key);
            let between = self.versions.iter().find(|other| {
                names.contains(&other.key[..])
                    && other.kind == WriteKind::Put
                    && other.at > id
                    && other.at <= written.at
                    && other.id != written.id
            });
            ensure(between.is_none(), || {
                format!("{number} began at {id} and committed {written:?} over {between:?}")
            })?;
        }
        Ok(())
    }

    fn event(&self, number: usize, event: &Event) -> Verdict {
        let shared = || self.versions.iter().find(|version| version.value == SHARED.as_bytes());
        match event {
            Event::Began { id, told } => {
                ensure(id > told, || format!("{number} began at {id}, below {told}"))
            }
            Event::Read { at: Some(at), told, seen } => {
                ensure(at >= told, || format!("{number} reads at {at}, below {told}"))?;
                ensure(self.shows(*at, seen), || {
                    let now: Vec<_> = seen.iter().map(|(n, _)| self.state_at(n, *at)).collect();
                    format!("{number} read {seen:?} at {at}, where now is {now:?}")
                })
            }
            Event::Read { at: None, told, seen } => {
                let versions = self.versions.iter().map(|version| version.at).chain([*told]);
                let mut later = versions.filter(|at| at >= told);
                ensure(later.any(|at| self.shows(at, seen)), || {
                    format!("{number} read {seen:?}, which was so at no time from {told} on")
                })
            }
            Event::RolledBack(Ok(())) | Event::Fate(Ok(None)) => ensure(shared().is_none(), || {
                format!("{number} was told {event:?} of {}, which is committed", self.shared)
            }),
            Event::Fate(Ok(Some(version)))
            | Event::RolledBack(Err(Failure::Committed { version })) => {
                ensure(shared().is_some_and(|found| found.at == *version), || {
                    format!("{number} was told {event:?}, and committed is {:?}", shared())
                })
            }
            Event::Committed(_)
            | Event::RolledBack(Err(_))
            | Event::Fate(Err(_))
            | Event::ReadFailed(_) => Ok(()),
        }
    }
}
