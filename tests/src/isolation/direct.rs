//! What is wrong with a read by itself. Owns: internal inconsistencies, and reads of what nobody may
//! see. Must not know: dependencies.
//!
//! It looks at all transactions, whatever became of them: what is not committed nobody may see.

use super::anomaly::Anomaly;
use super::history::{Key, Op, Outcome};
use super::index::{Index, Number, Version};
use super::report::Report;
use std::collections::{HashMap, HashSet};

pub fn check<'b>(index: &Index<'b>, report: &mut Report<'b>) {
    let mut sound_lists = HashMap::new();
    for number in 0..index.transactions.len() {
        Inside { index, report, number, known: HashMap::new() }.check();
        values(index, report, number);
        elements(index, report, number, &mut sound_lists);
        dirty_updates(index, report, number);
    }
}

/// A transaction's own view of a key.
#[derive(Clone, Debug)]
enum View {
    Register {
        value: Version,
        is_own: bool,
    },
    /// `own` of its elements, the last, are this transaction's; `whole` if it is known what stood before.
    List {
        elements: Vec<u64>,
        own: usize,
        whole: bool,
    },
}

struct Inside<'a, 'b> {
    index: &'a Index<'b>,
    report: &'a mut Report<'b>,
    number: Number,
    known: HashMap<Key, View>,
}

impl Inside<'_, '_> {
    fn check(mut self) {
        for op in &self.index.transactions[self.number].ops {
            match op {
                Op::Append { key, element } => self.append(*key, *element),
                Op::Write { key, value } => {
                    self.known.insert(*key, View::Register { value: Some(*value), is_own: true });
                }
                Op::Read { key, found } => self.register(*key, *found),
                Op::ReadList { key, found } => self.list(*key, found),
                Op::ReadSpan { start, end, found } => {
                    for key in self.index.registers(*start, *end) {
                        self.register(key, found.get(&key).copied());
                    }
                }
            }
        }
    }

    fn append(&mut self, key: Key, element: u64) {
        let blind = View::List { elements: Vec::new(), own: 0, whole: false };
        if let View::List { elements, own, .. } = self.known.entry(key).or_insert(blind) {
            elements.push(element);
            *own += 1;
        }
    }

    fn register(&mut self, key: Key, found: Version) {
        if let Some(View::Register { value, is_own }) = self.known.get(&key).cloned() {
            if value == found {
                return;
            }
            let anomaly = if is_own { Anomaly::Internal } else { Anomaly::NonRepeatableRead };
            let (value, found) = (shown(value), shown(found));
            let text = format!("read {found} of {key}, after {value}");
            self.report.told(anomaly, &[self.number], &text);
            if is_own {
                return;
            }
        }
        self.known.insert(key, View::Register { value: found, is_own: false });
    }

    fn list(&mut self, key: Key, found: &[u64]) {
        if let Some(View::List { elements, own, whole }) = self.known.get(&key) {
            let agrees = if *whole { found == elements } else { found.ends_with(elements) };
            if !agrees {
                let anomaly = if *own > 0 { Anomaly::Internal } else { Anomaly::NonRepeatableRead };
                let text = format!("read {found:?} of {key}, after {elements:?}");
                self.report.told(anomaly, &[self.number], &text);
            }
            if *own > 0 {
                return;
            }
        }
        self.known.insert(key, View::List { elements: found.to_vec(), own: 0, whole: true });
    }
}

pub fn shown(version: Version) -> String {
    version.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

/// Versions that were read from outside: written, not aborted, not in the middle.
fn values(index: &Index<'_>, report: &mut Report<'_>, number: Number) {
    for read in &index.digests[number].reads {
        let Some(value) = read.version else { continue };
        let key = read.key;
        let Some(writer) = index.writers.get(&(key, value)) else {
            let text = format!("read {value} of {key}, which nobody wrote");
            report.told(Anomaly::Unwritten, &[number], &text);
            continue;
        };
        if index.transactions[writer.by].outcome == Outcome::Aborted {
            let text = format!("T{number} read {value} of {key}, which T{} wrote", writer.by);
            report.told(Anomaly::G1a, &[number, writer.by], &text);
        }
        if !writer.is_last && writer.by != number {
            let text = format!(
                "T{number} read {value} of {key}, which T{} wrote and wrote over",
                writer.by
            );
            report.told(Anomaly::G1b, &[number, writer.by], &text);
        }
    }
}

/// What stands in lists before their last elements. Most lists are beginnings of one that was found
/// to be sound before.
fn elements<'a>(
    index: &'a Index<'_>,
    report: &mut Report<'_>,
    number: Number,
    sound: &mut HashMap<Key, &'a [u64]>,
) {
    for op in &index.transactions[number].ops {
        let Op::ReadList { key, found } = op else { continue };
        if sound.get(key).is_some_and(|list| list.starts_with(found)) {
            continue;
        }
        if element_by_element(index, report, number, *key, found)
            && sound.get(key).is_none_or(|list| list.len() < found.len())
        {
            sound.insert(*key, found);
        }
    }
}

/// True if nothing is wrong.
fn element_by_element(
    index: &Index<'_>,
    report: &mut Report<'_>,
    number: Number,
    key: Key,
    found: &[u64],
) -> bool {
    let (mut sound, mut met, mut aborted) = (true, HashSet::new(), None);
    for (at, element) in found.iter().enumerate() {
        if !met.insert(element) {
            let text = format!("read {found:?} of {key}, in which {element} stands twice");
            report.told(Anomaly::Duplicate, &[number], &text);
            sound = false;
        }
        let is_last = at + 1 == found.len();
        let Some(writer) = index.writers.get(&(key, *element)) else {
            // The last one was looked at as a version.
            if !is_last {
                let text = format!("read {found:?} of {key}; nobody wrote {element}");
                report.told(Anomaly::Unwritten, &[number], &text);
            }
            sound = false;
            continue;
        };
        if index.transactions[writer.by].outcome == Outcome::Aborted {
            if !is_last && writer.by != number {
                let text =
                    format!("T{number} read {found:?} of {key}; T{} wrote {element}", writer.by);
                report.told(Anomaly::G1a, &[number, writer.by], &text);
            }
            aborted = Some((writer.by, *element));
            sound = false;
        } else if let Some((by, lost)) = aborted
            && index.counts[writer.by]
        {
            let text = format!(
                "{key} is {found:?}: T{} added {element} to a list with {lost} of T{by}",
                writer.by
            );
            report.told(Anomaly::DirtyUpdate, &[writer.by, by], &text);
            aborted = None;
        }
    }
    sound
}

fn dirty_updates(index: &Index<'_>, report: &mut Report<'_>, number: Number) {
    if !index.counts[number] {
        return;
    }
    for write in &index.digests[number].writes {
        let Some(Some(base)) = write.base else { continue };
        let Some(writer) = index.writers.get(&(write.key, base)) else { continue };
        if index.transactions[writer.by].outcome == Outcome::Aborted {
            let text = format!(
                "T{number} made {} of {base}, which T{} wrote to {}",
                write.value, writer.by, write.key
            );
            report.told(Anomaly::DirtyUpdate, &[number, writer.by], &text);
        }
    }
}
