//! In which order elements came to lists. Owns: the longest list of each key, and where lists
//! disagree. Must not know: commit versions.

use super::anomaly::Anomaly;
use super::direct::shown;
use super::history::{Key, Op};
use super::index::{Index, Number, Version};
use super::report::Report;
use std::collections::{BTreeMap, HashMap};

/// The longest list that was read of each key.
pub type Orders<'a> = BTreeMap<Key, &'a [u64]>;

pub fn check<'a, 'b>(index: &'a Index<'b>, report: &mut Report<'b>) -> Orders<'a> {
    let mut reads: BTreeMap<Key, Vec<(Number, &[u64])>> = BTreeMap::new();
    for (number, _) in index.counted() {
        for op in &index.transactions[number].ops {
            if let Op::ReadList { key, found } = op {
                reads.entry(*key).or_default().push((number, found));
            }
        }
    }
    let mut orders = Orders::new();
    for (key, mut lists) in reads {
        // Equal lists in the order of the history.
        lists.sort_by_key(|(_, list)| std::cmp::Reverse(list.len()));
        let longest = lists[0].1;
        Tree { index, report, key, before: HashMap::new(), after: HashMap::new() }.check(&lists);
        orders.insert(key, longest);
    }
    orders
}

/// What stands before and after each element, with who read it first.
struct Tree<'a, 'b> {
    index: &'a Index<'b>,
    report: &'a mut Report<'b>,
    key: Key,
    before: HashMap<u64, (Version, Number)>,
    after: HashMap<Version, (u64, Number)>,
}

impl Tree<'_, '_> {
    fn check(mut self, lists: &[(Number, &[u64])]) {
        let longest = lists[0].1;
        for (at, (number, list)) in lists.iter().enumerate() {
            if at == 0 || !longest.starts_with(list) {
                self.add(*number, list);
            }
        }
    }

    fn add(&mut self, number: Number, list: &[u64]) {
        let mut before = None;
        for element in list {
            let (expected, witness) = *self.before.entry(*element).or_insert((before, number));
            if expected != before {
                let text = format!(
                    "{element} of {} stands after {} for T{witness}, after {} for T{number}",
                    self.key,
                    shown(expected),
                    shown(before)
                );
                self.report.told(Anomaly::IncompatibleOrder, &[witness, number], &text);
                // What follows cannot be better.
                return;
            }
            let (other, witness) = *self.after.entry(before).or_insert((*element, number));
            if other != *element {
                self.fork(before, (other, witness), (*element, number));
            }
            before = Some(*element);
        }
    }

    /// Two elements after the same beginning: each was added by somebody who did not see the other.
    fn fork(&mut self, before: Version, first: (u64, Number), second: (u64, Number)) {
        let writer = |(element, _)| self.index.writers.get(&(self.key, element));
        let (Some(one), Some(other)) = (writer(first), writer(second)) else { return };
        if one.by == other.by || !self.index.counts[one.by] || !self.index.counts[other.by] {
            return;
        }
        let text = format!(
            "after {} in {}, T{} added {} (read by T{}) and T{} added {} (read by T{})",
            shown(before),
            self.key,
            one.by,
            first.0,
            first.1,
            other.by,
            second.0,
            second.1
        );
        self.report.told(Anomaly::LostUpdate, &[one.by, other.by], &text);
    }
}
