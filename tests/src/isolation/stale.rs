//! Reads that miss what was known before their transaction began. Owns: that comparison, by commit
//! versions, which holds at every level. Must not know: dependencies.

use super::anomaly::Anomaly;
use super::direct::shown;
use super::history::Key;
use super::index::{Index, Number};
use super::report::Report;
use super::time::{Event, events};
use std::collections::HashMap;

/// The newest version of a key that is known, and the transaction that knows it.
type Known = (u64, Number);

pub fn check(index: &Index<'_>, report: &mut Report<'_>) {
    let mut newest: HashMap<Key, Known> = HashMap::new();
    for event in events(index) {
        match event {
            Event::Ended(number) => learn(index, number, &mut newest),
            Event::Begun(number) => compare(index, number, &newest, report),
        }
    }
}

/// What its client knows after a transaction.
fn learn(index: &Index<'_>, number: Number, newest: &mut HashMap<Key, Known>) {
    let digest = &index.digests[number];
    let own = index.transactions[number].version();
    let written = digest.writes.iter().filter_map(|write| Some((write.key, own?)));
    let read = digest
        .reads
        .iter()
        .filter_map(|read| Some((read.key, index.committed_at(read.key, read.version)?)));
    for (key, version) in written.chain(read) {
        let known = newest.entry(key).or_insert((0, number));
        if version > known.0 {
            *known = (version, number);
        }
    }
}

fn compare(
    index: &Index<'_>,
    number: Number,
    newest: &HashMap<Key, Known>,
    report: &mut Report<'_>,
) {
    for read in &index.digests[number].reads {
        let Some((known, witness)) = newest.get(&read.key) else { continue };
        let Some(found) = index.committed_at(read.key, read.version) else { continue };
        if found < *known {
            let text = format!(
                "T{number} read {} of {} (version {found}); T{witness}, which had ended before, knew of version {known}",
                shown(read.version),
                read.key
            );
            report.told(Anomaly::StaleRead, &[number, *witness], &text);
        }
    }
}
