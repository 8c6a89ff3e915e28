//! What a transaction reads in a span, under what it writes there itself.

use crate::Version;
use crate::range::{Entry, RangeQuery};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What a transaction writes in a span; `None`: it removes the key.
pub(crate) type OwnWrites = Vec<(Bytes, Option<Bytes>)>;

/// What to ask for if so many entries are wanted: what is written here hides as many at most.
pub(crate) fn asked(query: RangeQuery, limit: usize, own: &OwnWrites) -> RangeQuery {
    let asked = if limit == usize::MAX { 0 } else { limit + own.len() };
    query.limit(u32::try_from(asked).unwrap_or(0))
}

/// What was found, under what the transaction itself writes.
pub(crate) fn with_own(
    found: Vec<Entry>,
    own: OwnWrites,
    limit: usize,
    reverse: bool,
) -> Vec<Entry> {
    let found = found.into_iter().map(|entry| (entry.key.clone(), entry));
    let mut entries: BTreeMap<Bytes, Entry> = found.collect();
    for (key, value) in own {
        match value {
            Some(value) => {
                let entry = Entry { key: key.clone(), value, version: Version::ZERO };
                entries.insert(key, entry);
            }
            None => drop(entries.remove(&key)),
        }
    }
    let entries = entries.into_values();
    if reverse { entries.rev().take(limit).collect() } else { entries.take(limit).collect() }
}

/// What such a read depends on: nothing beyond its last entry, if it has as many as were wanted.
pub(crate) fn span_read(
    all: &RangeQuery,
    entries: &[Entry],
    limit: usize,
    reverse: bool,
) -> (Bytes, Bytes) {
    let (start, end) = all.bounds();
    match entries.last().filter(|_| entries.len() >= limit) {
        Some(last) if reverse => (last.key.clone(), end),
        Some(last) => (start, [&last.key[..], &[0]].concat().into()),
        None => (start, end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.to_owned().into(), value: value.to_owned().into(), version: Version(7) }
    }

    fn keys(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|it| String::from_utf8_lossy(&it.key).into_owned()).collect()
    }

    #[test]
    fn own_writes_lie_over_what_was_found() {
        let found = vec![entry("a", "1"), entry("b", "2"), entry("d", "4")];
        let own: OwnWrites = vec![
            ("b".into(), None),
            ("c".into(), Some("3".into())),
            ("d".into(), Some("5".into())),
        ];
        let all = with_own(found.clone(), own.clone(), usize::MAX, false);
        assert_eq!(keys(&all), ["a", "c", "d"]);
        assert_eq!((&all[2].value[..], all[2].version), (&b"5"[..], Version::ZERO));
        assert_eq!(keys(&with_own(found, own, 2, true)), ["d", "c"]);
    }

    #[test]
    fn a_read_with_a_limit_depends_on_nothing_beyond_its_last_entry() {
        let all = RangeQuery::between("a", "z");
        let found = [entry("b", ""), entry("c", "")];
        let span = |limit, reverse| span_read(&all, &found, limit, reverse);
        assert_eq!(span(2, false), ("a".into(), Bytes::from_static(b"c\0")));
        assert_eq!(span(2, true), ("c".into(), "z".into()));
        assert_eq!(span(3, false), ("a".into(), "z".into()), "there was nothing more");
    }
}
