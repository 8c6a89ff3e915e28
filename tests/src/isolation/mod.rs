//! Judges what transactions saw: finds the anomalies in a history of transactions, and says which
//! isolation level forbids each.
//!
//! The anomalies are those of Adya ("Weak Consistency: A Generalized Theory and Optimistic
//! Implementations for Distributed Transactions", MIT 1999, chapters 3 and 4). How dependencies
//! are told from values alone, with unique values and lists that only grow, is due to Kingsbury
//! and Alvaro ("Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020).
//! That snapshots allow no cycle whose anti-dependencies all stand apart is due to Fekete et al.
//! ("Making Snapshot Isolation Serializable", TODS 2005).
//!
//! Owns: histories, the dependencies in them, cycles, names, and the table of levels. Must not
//! know: the database, its client, or how a history came about. Invariants: it is pure, and it is
//! sound: what it names did happen, if the history says what happened. It does not find
//! everything; a history in which much is read tells more.
//!
//! In the database a list is a value that its writer read, made longer and wrote back. So an append
//! may be lost, and two lists may go on differently after the same beginning.

mod anomaly;
mod cycles;
mod direct;
mod edges;
mod graph;
mod history;
mod index;
mod lists;
mod report;
mod search;
mod stale;
#[cfg(test)]
mod tests;
mod time;
#[cfg(test)]
mod toy;
mod versions;

pub use anomaly::{Anomaly, Level, Order};
pub use history::{Key, Op, Outcome, Transaction};
pub use report::{Finding, Report, Statistics};

use index::Index;

/// Finds what is wrong with a history. The transactions may stand in any order; their place is their
/// name in the report.
///
/// # Panics
/// A value is written to a key twice, or a key is used as a list and as a register: then the
/// history tells nothing.
#[must_use]
pub fn check(transactions: &[Transaction]) -> Report<'_> {
    let index = Index::new(transactions);
    let mut report = Report::new(&index);
    direct::check(&index, &mut report);
    let orders = lists::check(&index, &mut report);
    stale::check(&index, &mut report);
    let mut edges = edges::dependencies(&index, &versions::successions(&index, &orders));
    edges.extend(time::edges(&index));
    cycles::check(&index, edges, &mut report);
    report
}
