use super::toy::{self, Execution, Keys};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A transaction that ran at the same time as all others, unless [`at`] says when.
fn txn(process: u32, outcome: Outcome, ops: Vec<Op>) -> Transaction {
    Transaction { process, begun: 0, ended: 1_000, outcome, ops }
}

fn done(process: u32, version: u64, ops: Vec<Op>) -> Transaction {
    txn(process, Outcome::Committed(version), ops)
}

fn at(begun: u64, ended: u64, transaction: Transaction) -> Transaction {
    Transaction { begun, ended, ..transaction }
}

fn append(key: u32, element: u64) -> Op {
    Op::Append { key: Key(key), element }
}

fn list(key: u32, found: &[u64]) -> Op {
    Op::ReadList { key: Key(key), found: found.to_vec() }
}

fn write(key: u32, value: u64) -> Op {
    Op::Write { key: Key(key), value }
}

fn read(key: u32, found: u64) -> Op {
    Op::Read { key: Key(key), found: Some(found) }
}

fn nothing(key: u32) -> Op {
    Op::Read { key: Key(key), found: None }
}

fn span(start: u32, end: u32, found: &[(u32, u64)]) -> Op {
    let found: BTreeMap<Key, u64> = found.iter().map(|(key, value)| (Key(*key), *value)).collect();
    Op::ReadSpan { start: Key(start), end: Key(end), found }
}

/// Exactly these anomalies, and only against this order.
fn finds(history: &[Transaction], order: Order, expected: &[Anomaly]) {
    let report = check(history);
    let found: BTreeSet<(Anomaly, Order)> = report.counts.keys().copied().collect();
    let expected: BTreeSet<_> = expected.iter().map(|anomaly| (*anomaly, order)).collect();
    assert_eq!(
        found,
        expected,
        "{report}\n{}",
        report.broken(Level::Serializable).unwrap_or_default()
    );
}

fn finds_plain(history: &[Transaction], expected: &[Anomaly]) {
    finds(history, Order::Plain, expected);
}

#[test]
fn what_is_well_is_not_told() {
    finds_plain(&[], &[]);
    // Two clients, one after the other, lists and registers and spans.
    finds_plain(
        &[
            at(1, 2, done(1, 10, vec![list(1, &[]), append(1, 1), write(9, 5)])),
            at(3, 4, done(2, 20, vec![list(1, &[1]), append(1, 2), append(1, 3), read(9, 5)])),
            at(5, 6, done(1, 25, vec![list(1, &[1, 2, 3]), span(5, 10, &[(9, 5)])])),
            at(7, 8, done(2, 30, vec![span(5, 10, &[(9, 5)]), write(7, 6), read(7, 6)])),
            at(9, 10, done(1, 35, vec![span(5, 10, &[(7, 6), (9, 5)])])),
        ],
        &[],
    );
    // At the same time, in an order that only the values tell.
    finds_plain(
        &[
            done(1, 30, vec![nothing(2), write(1, 1)]),
            done(2, 40, vec![read(1, 1), write(2, 2)]),
            done(3, 5, vec![nothing(1), nothing(2)]),
        ],
        &[],
    );
}

#[test]
fn what_nobody_knows_the_outcome_of_counts_if_it_was_seen() {
    let lost = [txn(1, Outcome::Unknown, vec![list(1, &[]), append(1, 1)])];
    let seen = done(2, 20, vec![list(1, &[1])]);
    assert_eq!(check(&lost).statistics.unknown_seen, 0);
    let both = [lost[0].clone(), seen];
    finds_plain(&both, &[]);
    assert_eq!(check(&both).statistics.unknown_seen, 1);
    // It may come about long after its client gave up.
    finds_plain(
        &[
            at(1, 2, txn(1, Outcome::Unknown, vec![write(1, 1)])),
            at(3, 4, done(1, 20, vec![nothing(1)])),
            at(5, 6, done(1, 30, vec![read(1, 1)])),
        ],
        &[],
    );
    // Once it was seen, it has to stay.
    finds(
        &[
            at(1, 2, txn(1, Outcome::Unknown, vec![write(1, 1)])),
            at(3, 4, done(1, 20, vec![read(1, 1)])),
            at(5, 6, done(1, 30, vec![nothing(1)])),
        ],
        Order::Session,
        &[Anomaly::GSingle],
    );
}

#[test]
fn dirty_writes_are_found() {
    // By lists: the one went first in one, the other in the other.
    let lists = [
        txn(1, Outcome::Unknown, vec![append(1, 1), append(2, 2)]),
        txn(2, Outcome::Unknown, vec![append(1, 3), append(2, 4)]),
        done(3, 30, vec![list(1, &[1, 3])]),
        done(4, 31, vec![list(2, &[4, 2])]),
    ];
    finds_plain(&lists, &[Anomaly::G0]);
    // By a read that contradicts the versions.
    let registers = [done(1, 30, vec![write(1, 1)]), done(2, 20, vec![read(1, 1), write(1, 2)])];
    assert!(check(&registers).anomalies().contains(&Anomaly::G0));
}

#[test]
fn aborted_reads_are_found() {
    let aborted = txn(1, Outcome::Aborted, vec![write(1, 1), append(2, 2)]);
    finds_plain(&[aborted.clone(), done(2, 20, vec![read(1, 1)])], &[Anomaly::G1a]);
    finds_plain(&[aborted.clone(), done(2, 20, vec![list(2, &[2])])], &[Anomaly::G1a]);
    finds_plain(&[aborted.clone(), done(2, 20, vec![span(0, 2, &[(1, 1)])])], &[Anomaly::G1a]);
    // Whoever reads it.
    finds_plain(&[aborted, txn(2, Outcome::Aborted, vec![read(1, 1)])], &[Anomaly::G1a]);
}

#[test]
fn intermediate_reads_are_found() {
    let twice = done(1, 10, vec![write(1, 1), write(1, 2), append(2, 3), append(2, 4)]);
    assert!(
        check(&[twice.clone(), done(2, 20, vec![read(1, 1)])]).anomalies().contains(&Anomaly::G1b)
    );
    assert!(check(&[twice, done(2, 20, vec![list(2, &[3])])]).anomalies().contains(&Anomaly::G1b));
}

#[test]
fn circular_information_flow_is_found() {
    finds_plain(
        &[done(1, 10, vec![write(1, 1), read(2, 2)]), done(2, 20, vec![write(2, 2), read(1, 1)])],
        &[Anomaly::G1c],
    );
}

#[test]
fn dirty_updates_are_found() {
    let aborted = txn(1, Outcome::Aborted, vec![list(1, &[]), append(1, 1)]);
    let updated = done(2, 20, vec![list(1, &[1]), append(1, 2)]);
    finds_plain(&[aborted.clone(), updated], &[Anomaly::G1a, Anomaly::DirtyUpdate]);
    // By somebody who does not say what was read.
    let blind = [aborted, done(2, 20, vec![append(1, 2)]), done(3, 30, vec![list(1, &[1, 2])])];
    finds_plain(&blind, &[Anomaly::G1a, Anomaly::DirtyUpdate]);
}

#[test]
fn duplicates_are_found() {
    let written = done(1, 10, vec![append(1, 1)]);
    let report = [written, done(2, 20, vec![list(1, &[1, 1])])];
    assert!(check(&report).anomalies().contains(&Anomaly::Duplicate));
}

#[test]
fn incompatible_orders_are_found() {
    let (one, two) = (done(1, 10, vec![append(1, 1)]), done(2, 20, vec![append(1, 2)]));
    let lists =
        [one, two, done(3, 30, vec![list(1, &[1, 2])]), done(4, 40, vec![list(1, &[2, 1])])];
    assert!(check(&lists).anomalies().contains(&Anomaly::IncompatibleOrder));
    // An element that went missing from the middle.
    let mut lists = lists.to_vec();
    lists.push(done(5, 50, vec![append(1, 3)]));
    lists[2].ops = vec![list(1, &[1, 2, 3])];
    lists[3].ops = vec![list(1, &[1, 3])];
    finds_plain(&lists, &[Anomaly::IncompatibleOrder]);
}

#[test]
fn values_of_nobody_are_found() {
    finds_plain(&[done(1, 10, vec![read(1, 7)])], &[Anomaly::Unwritten]);
    let list = [done(1, 10, vec![append(1, 1)]), done(2, 20, vec![list(1, &[9, 1])])];
    finds_plain(&list, &[Anomaly::Unwritten]);
}

#[test]
fn transactions_that_do_not_see_their_own_writes_are_found() {
    for ops in [
        vec![write(1, 1), nothing(1)],
        vec![write(1, 1), span(0, 5, &[])],
        vec![list(1, &[]), append(1, 1), list(1, &[])],
        vec![append(1, 1), append(1, 2), list(1, &[1])],
    ] {
        finds_plain(&[done(1, 10, ops)], &[Anomaly::Internal]);
    }
}

#[test]
fn reads_that_are_not_repeatable_are_found() {
    let written = done(1, 10, vec![write(1, 1), append(2, 2)]);
    for ops in [
        vec![nothing(1), read(1, 1)],
        vec![span(0, 2, &[]), span(0, 2, &[(1, 1)])],
        vec![list(2, &[]), list(2, &[2])],
    ] {
        let history = [written.clone(), done(2, 20, ops)];
        finds_plain(&history, &[Anomaly::NonRepeatableRead, Anomaly::GSingle]);
    }
}

#[test]
fn lost_updates_are_found() {
    let registers =
        [done(1, 10, vec![nothing(1), write(1, 1)]), done(2, 20, vec![nothing(1), write(1, 2)])];
    finds_plain(&registers, &[Anomaly::LostUpdate]);
    let lists = [
        done(1, 10, vec![list(1, &[]), append(1, 1)]),
        done(2, 20, vec![list(1, &[]), append(1, 2)]),
        done(3, 30, vec![list(1, &[2])]),
    ];
    finds_plain(&lists, &[Anomaly::LostUpdate]);
    // Told by two lists alone, which go on differently.
    let forked = [
        done(1, 10, vec![append(1, 1)]),
        done(2, 20, vec![append(1, 2)]),
        done(3, 15, vec![list(1, &[1])]),
        done(4, 30, vec![list(1, &[2])]),
    ];
    finds_plain(&forked, &[Anomaly::LostUpdate]);
}

#[test]
fn read_skew_is_found() {
    finds_plain(
        &[done(1, 10, vec![write(1, 1), write(2, 2)]), done(2, 20, vec![read(1, 1), nothing(2)])],
        &[Anomaly::GSingle],
    );
    // Over a third one, and with a phantom.
    finds_plain(
        &[
            done(1, 10, vec![write(1, 1)]),
            done(2, 20, vec![read(1, 1), write(2, 2)]),
            done(3, 30, vec![span(1, 2, &[]), read(2, 2)]),
        ],
        &[Anomaly::GSingle],
    );
}

#[test]
fn anti_dependencies_that_stand_apart_are_found() {
    // Two readers see two writes in different orders: a long fork.
    finds_plain(
        &[
            done(1, 10, vec![write(1, 1)]),
            done(2, 10, vec![write(2, 2)]),
            done(3, 20, vec![read(1, 1), nothing(2)]),
            done(4, 20, vec![nothing(1), read(2, 2)]),
        ],
        &[Anomaly::GNonadjacent],
    );
}

#[test]
fn write_skew_is_found() {
    let skew = [
        done(1, 10, vec![nothing(1), nothing(2), write(1, 1)]),
        done(2, 20, vec![nothing(1), nothing(2), write(2, 2)]),
    ];
    finds_plain(&skew, &[Anomaly::G2Item]);
    let text = check(&skew).broken(Level::Serializable).expect("it is forbidden there");
    for words in ["write skew", "T0 read nothing of k2", "T1 wrote 2", "client 2", "write 1 to k1"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(check(&skew).broken(Level::Snapshot), None);
}

#[test]
fn phantoms_are_found() {
    finds_plain(
        &[
            done(1, 10, vec![span(0, 10, &[]), write(1, 1)]),
            done(2, 20, vec![span(0, 10, &[]), write(2, 2)]),
        ],
        &[Anomaly::G2],
    );
}

#[test]
fn what_is_old_is_found() {
    let written = at(1, 2, done(1, 10, vec![write(1, 1), append(2, 2)]));
    for ops in [vec![nothing(1)], vec![list(2, &[])], vec![span(0, 2, &[])]] {
        let report = [written.clone(), at(3, 4, done(2, 20, ops))];
        let found: Vec<_> = check(&report).counts.into_keys().collect();
        let expected = [(Anomaly::StaleRead, Order::Plain), (Anomaly::GSingle, Order::RealTime)];
        assert_eq!(found, expected);
    }
    // Somebody had seen it.
    let seen = [
        at(1, 90, done(1, 10, vec![write(1, 1)])),
        at(3, 4, done(2, 11, vec![read(1, 1)])),
        at(5, 6, done(3, 20, vec![nothing(1)])),
    ];
    assert!(check(&seen).anomalies().contains(&Anomaly::StaleRead));
    // Not if it began before.
    finds_plain(&[written, at(2, 4, done(2, 5, vec![nothing(1)]))], &[]);
}

#[test]
fn time_shows_what_values_do_not() {
    // A writer that skips the newest state without having read it.
    let skew = [
        at(1, 2, done(1, 10, vec![nothing(1), write(2, 2)])),
        at(3, 9, done(2, 20, vec![nothing(2), write(3, 3)])),
        at(4, 9, done(3, 30, vec![nothing(3), write(1, 1)])),
    ];
    let report = check(&skew);
    assert!(report.counts.keys().any(|(_, order)| *order == Order::RealTime), "{report}");
    // Versions against real time, of the same key.
    let backwards =
        [at(1, 2, done(1, 20, vec![write(1, 1)])), at(3, 4, done(2, 10, vec![write(1, 2)]))];
    finds(&backwards, Order::RealTime, &[Anomaly::G0]);
    let backwards = [backwards[0].clone(), Transaction { process: 1, ..backwards[1].clone() }];
    finds(&backwards, Order::Session, &[Anomaly::G0]);
}

#[test]
fn each_level_forbids_what_the_weaker_ones_do() {
    let order = [Level::ReadCommitted, Level::Snapshot, Level::Serializable];
    for (anomaly, from) in [
        (Anomaly::G0, 0),
        (Anomaly::G1c, 0),
        (Anomaly::Internal, 0),
        (Anomaly::LostUpdate, 1),
        (Anomaly::GSingle, 1),
        (Anomaly::NonRepeatableRead, 1),
        (Anomaly::G2Item, 2),
        (Anomaly::G2, 2),
    ] {
        for (at, level) in order.into_iter().enumerate() {
            assert_eq!(anomaly.is_forbidden_at(level), at >= from, "{anomaly} at {level:?}");
        }
    }
}

const FEW: Keys = Keys { lists: 3, registers: 8 };

/// What was found in histories of many seeds.
fn over_seeds(execution: Execution, level: Level) -> BTreeSet<Anomaly> {
    let mut found = BTreeSet::new();
    for seed in 0..60 {
        let history = toy::run(execution, FEW, 250, seed);
        let report = check(&history);
        let broken = report.broken(level);
        assert!(broken.is_none(), "seed {seed}: {}", broken.unwrap_or_default());
        found.extend(report.anomalies());
    }
    found
}

#[test]
fn serial_histories_are_clean() {
    assert_eq!(over_seeds(Execution::Serial, Level::Serializable), BTreeSet::new());
}

#[test]
fn snapshots_show_skew_and_nothing_worse() {
    let found = over_seeds(Execution::Snapshot, Level::Snapshot);
    assert_eq!(found, BTreeSet::from([Anomaly::G2Item, Anomaly::G2]));
}

#[test]
fn read_committed_shows_lost_updates_and_read_skew_and_nothing_worse() {
    let found = over_seeds(Execution::ReadCommitted, Level::ReadCommitted);
    let expected = [Anomaly::LostUpdate, Anomaly::GSingle, Anomaly::NonRepeatableRead];
    assert!(expected.iter().all(|anomaly| found.contains(anomaly)), "{found:?}");
}

#[test]
fn mistakes_of_a_database_are_found() {
    let few = |execution| toy::run(execution, FEW, 250, 1);
    let history = few(Execution::LastWins);
    assert!(check(&history).anomalies().contains(&Anomaly::LostUpdate));
    let history = few(Execution::OldSnapshot);
    let report = check(&history);
    assert!(report.anomalies().contains(&Anomaly::StaleRead), "{report}");
    assert!(report.counts.contains_key(&(Anomaly::GSingle, Order::RealTime)), "{report}");
    assert!(!report.counts.contains_key(&(Anomaly::GSingle, Order::Plain)), "{report}");
}

#[test]
fn long_histories_are_judged_in_seconds() {
    for execution in [Execution::Serial, Execution::Snapshot, Execution::ReadCommitted] {
        let history = toy::run(execution, Keys { lists: 10, registers: 200 }, 50_000, 7);
        let begun = Instant::now();
        let report = check(&history);
        let took = begun.elapsed();
        println!("{execution:?} in {took:?}: {report}");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
}
