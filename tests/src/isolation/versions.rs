//! Which version of a key came before which. Owns: the three ways to know. Must not know: reads of
//! other keys.
//!
//! 1. Lists show the order of their elements.
//! 2. What was written by somebody who had read the key comes after what was read.
//! 3. Commit versions are in the order of commits.
//!
//! They need not agree: then the dependencies have a cycle.

use super::history::Key;
use super::index::{Index, Version};
use super::lists::Orders;
use std::collections::BTreeMap;

/// One version and a later one. Both are last writes of transactions that count; nothing is known to
/// lie between them in the order that told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Succession {
    pub key: Key,
    pub before: Version,
    pub after: u64,
}

pub fn successions(index: &Index<'_>, orders: &Orders<'_>) -> Vec<Succession> {
    let mut found = Vec::new();
    for (key, list) in orders {
        chain(*key, list.iter().copied(), index, &mut found);
    }
    let mut committed: BTreeMap<Key, Vec<(u64, u64)>> = BTreeMap::new();
    for (number, digest) in index.counted() {
        for write in &digest.writes {
            let (key, after) = (write.key, write.value);
            if let Some(before) = write.base
                && before.is_none_or(|value| index.author(key, value).is_some())
            {
                found.push(Succession { key, before, after });
            }
            match index.transactions[number].version() {
                Some(version) => committed.entry(key).or_default().push((version, after)),
                // Of what nobody knows more, it is known that there was nothing before all writes.
                None if write.base.is_none() => {
                    found.push(Succession { key, before: None, after });
                }
                None => {}
            }
        }
    }
    for (key, mut writes) in committed {
        writes.sort_unstable();
        chain(key, writes.into_iter().map(|(_, value)| value), index, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn chain(
    key: Key,
    values: impl Iterator<Item = u64>,
    index: &Index<'_>,
    found: &mut Vec<Succession>,
) {
    let mut before = None;
    for after in values.filter(|value| index.author(key, *value).is_some()) {
        found.push(Succession { key, before, after });
        before = Some(after);
    }
}
