//! What was found, to be read by people. Owns: counting, and how much is told. Must not know: how
//! anything was found.

use super::anomaly::{Anomaly, Level, Order};
use super::history::{Outcome, Transaction};
use super::index::{Index, Number};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Findings of one kind that are told; there may be thousands.
const TOLD_MAX: usize = 5;

/// One anomaly.
#[derive(Clone, Debug)]
pub struct Finding {
    pub anomaly: Anomaly,
    pub order: Order,
    /// What happened, by keys and transactions.
    pub text: String,
    /// The transactions, by their places in the history.
    pub transactions: Vec<Number>,
    /// What each of them did.
    pub details: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}:\n    {}", self.anomaly, self.order, self.text)?;
        for (number, details) in self.transactions.iter().zip(&self.details) {
            writeln!(f, "  T{number}: {details}")?;
        }
        Ok(())
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    pub transactions: usize,
    pub committed: usize,
    pub aborted: usize,
    pub unknown: usize,
    /// Of the unknown ones, those of which somebody saw a write.
    pub unknown_seen: usize,
    pub edges: usize,
    /// Components with a cycle, of all kinds of graphs that were looked at.
    pub components: usize,
    /// Different cycles that were named.
    pub cycles: usize,
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transactions, {} committed, {} aborted, {} unknown ({} of them seen), {} edges, {} cycles",
            self.transactions,
            self.committed,
            self.aborted,
            self.unknown,
            self.unknown_seen,
            self.edges,
            self.cycles
        )
    }
}

/// Everything that was found in a history.
#[derive(Debug)]
pub struct Report<'a> {
    transactions: &'a [Transaction],
    pub statistics: Statistics,
    /// How often each was found.
    pub counts: BTreeMap<(Anomaly, Order), usize>,
    /// The first of each.
    pub findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(index: &Index<'a>) -> Self {
        let transactions = index.transactions;
        let mut statistics = Statistics { transactions: transactions.len(), ..Default::default() };
        for (transaction, counts) in transactions.iter().zip(&index.counts) {
            match transaction.outcome {
                Outcome::Committed(_) => statistics.committed += 1,
                Outcome::Aborted => statistics.aborted += 1,
                Outcome::Unknown => {
                    statistics.unknown += 1;
                    statistics.unknown_seen += usize::from(*counts);
                }
            }
        }
        Self { transactions, statistics, counts: BTreeMap::new(), findings: Vec::new() }
    }

    pub(super) fn told(&mut self, anomaly: Anomaly, numbers: &[Number], text: &str) {
        self.told_in(Order::Plain, anomaly, numbers, text);
    }

    pub(super) fn told_in(
        &mut self,
        order: Order,
        anomaly: Anomaly,
        numbers: &[Number],
        text: &str,
    ) {
        let count = self.counts.entry((anomaly, order)).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            let (text, transactions) = (text.to_owned(), numbers.to_vec());
            let details = numbers.iter().map(|at| self.transactions[*at].to_string()).collect();
            self.findings.push(Finding { anomaly, order, text, transactions, details });
        }
    }

    /// How often an anomaly was found.
    #[must_use]
    pub fn count(&self, anomaly: Anomaly) -> usize {
        let found = self.counts.iter().filter(|((found, _), _)| *found == anomaly);
        found.map(|(_, count)| count).sum()
    }

    /// Which anomalies were found.
    #[must_use]
    pub fn anomalies(&self) -> BTreeSet<Anomaly> {
        self.counts.keys().map(|(anomaly, _)| *anomaly).collect()
    }

    /// What a level forbids and was found all the same; `None` if there is nothing.
    #[must_use]
    pub fn broken(&self, level: Level) -> Option<String> {
        let forbidden = |anomaly: Anomaly| anomaly.is_forbidden_at(level);
        let mut text = String::new();
        for ((anomaly, order), count) in self.counts.iter().filter(|((a, _), _)| forbidden(*a)) {
            text.push_str(&format!("{count} times {anomaly}{order}\n"));
        }
        for finding in self.findings.iter().filter(|finding| forbidden(finding.anomaly)) {
            text.push_str(&format!("\n{finding}"));
        }
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.statistics)?;
        for ((anomaly, order), count) in &self.counts {
            write!(f, "; {count} {anomaly}{order}")?;
        }
        Ok(())
    }
}
