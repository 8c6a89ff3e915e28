use super::explore::{Broken, Explored, explore, replay, wander};
use super::node::Sabotage;
use super::script::{How, Keys, Script};
use super::world::{Bounds, Ranges, Scenario};
use std::time::{Duration, Instant};

const A: Keys = &["a"];
const B: Keys = &["b"];
const AB: Keys = &["a", "b"];
const NO_FAULTS: Bounds = Bounds { crashes: 0, losses: 0, naps: 0, longs: 0, waits: 1 };
const CRASH: Bounds = Bounds { crashes: 1, ..NO_FAULTS };
const LOSS: Bounds = Bounds { losses: 1, waits: 2, ..NO_FAULTS };
const LONG: Bounds = Bounds { longs: 1, ..NO_FAULTS };
const EVERYTHING: Bounds = Bounds { crashes: 1, losses: 1, naps: 1, longs: 1, waits: 2 };

const fn update(reads: Keys, writes: Keys, how: How) -> Script {
    Script::Update { reads, writes, how }
}

/// In one round of messages.
const ASYNC: Script = update(A, AB, How::Snapshot);
const TWO_ROUNDS: Script = update(A, AB, How::InTwoRounds);
const UNCHECKED: Script = update(&[], AB, How::ReadCommitted);
const SKEW_A: Script = update(AB, A, How::Serializable);
const SKEW_B: Script = update(AB, B, How::Serializable);
const BATCH: Script = Script::WriteAll(AB);
const READ: Script = Script::Read(AB);
const SHARED: Script = Script::CommitShared { writes: AB, how: How::Snapshot };
const SHARED_TWO: Script = Script::CommitShared { writes: AB, how: How::InTwoRounds };
const ROLL_BACK: Script = Script::RollBackShared("a");
const FATE: Script = Script::FateOfShared("a");

/// Who meets whom.
const PAIRS: [(&str, &[Script]); 17] = [
    ("two updates", &[ASYNC, ASYNC]),
    ("an update in one round, one in two", &[TWO_ROUNDS, ASYNC]),
    ("two updates in two rounds", &[TWO_ROUNDS, TWO_ROUNDS]),
    ("two that check no snapshot", &[UNCHECKED, UNCHECKED]),
    ("a write skew", &[SKEW_A, SKEW_B]),
    ("a serializable one and an update", &[SKEW_A, ASYNC]),
    ("two batches", &[BATCH, BATCH]),
    ("a batch and an update", &[BATCH, ASYNC]),
    ("a reader and an update", &[READ, ASYNC]),
    ("a reader and an update in two rounds", &[READ, TWO_ROUNDS]),
    ("a reader and a batch", &[READ, BATCH]),
    ("one that is committed twice", &[SHARED, SHARED]),
    ("one that is committed twice in two rounds", &[SHARED_TWO, SHARED_TWO]),
    ("one that is committed and rolled back", &[SHARED, ROLL_BACK]),
    ("one that is committed in two rounds and rolled back", &[SHARED_TWO, ROLL_BACK]),
    ("one that is committed and asked about", &[SHARED, FATE]),
    ("one that is committed in two rounds and asked about", &[SHARED_TWO, FATE]),
];

const PATIENT: Duration = Duration::from_secs(20);
/// Shorter than a long pause.
const IMPATIENT: Duration = Duration::from_secs(2);

/// How often more than by default, if that is asked for.
fn times() -> usize {
    let given = std::env::var("RANGEDB_TEST_ROUNDS").ok();
    given.and_then(|text| text.parse::<usize>().ok()).map_or(1, |rounds| rounds.max(1) * 50)
}

fn scenario(name: &'static str, ranges: Ranges, clients: &[Script]) -> Scenario {
    Scenario {
        name,
        ranges,
        clients: clients.to_vec(),
        patience: PATIENT,
        bounds: NO_FAULTS,
        sabotage: None,
        exact: false,
    }
}

fn every_scenario(bounds: Bounds, patience: Duration) -> impl Iterator<Item = Scenario> {
    PAIRS.into_iter().flat_map(move |(name, clients)| {
        [Ranges::One, Ranges::Two, Ranges::Merging].map(|ranges| Scenario {
            bounds,
            patience,
            ..scenario(name, ranges, clients)
        })
    })
}

/// Searches every scenario with at most so many runs, and wanders through those that are larger. So many at least
/// must be searched to the end.
fn all_hold(bounds: Bounds, patience: Duration, runs_max: usize, complete_min: usize) {
    let (began, runs_max) = (Instant::now(), runs_max * times());
    let (mut runs, mut interleavings, mut complete, mut all) = (0, 0_u128, 0, 0);
    for scenario in every_scenario(bounds, patience) {
        let explored = search(&scenario, runs_max).unwrap_or_else(|broken| {
            panic!("{}, {:?}, {bounds:?}: {broken}", scenario.name, scenario.ranges)
        });
        println!("{}, {:?}: {explored:?}", scenario.name, scenario.ranges);
        runs += explored.runs;
        interleavings += explored.interleavings;
        complete += usize::from(explored.complete);
        all += 1;
    }
    println!(
        "{bounds:?}: {interleavings} interleavings by {runs} runs; {complete} of {all} scenarios are complete; {:?}",
        began.elapsed()
    );
    assert!(complete >= complete_min, "{complete} complete: the search covers less than it did");
}

fn search(scenario: &Scenario, runs_max: usize) -> Result<Explored, Box<Broken>> {
    let mut explored = explore(scenario, runs_max)?;
    if !explored.complete {
        wander(scenario, 1, runs_max / 2)?;
        explored.runs += runs_max / 2;
    }
    Ok(explored)
}

#[test]
fn promises_hold_in_every_order() {
    all_hold(NO_FAULTS, PATIENT, 2_500, 42);
}

#[test]
fn promises_hold_if_a_gateway_crashes_anywhere() {
    all_hold(CRASH, PATIENT, 300, 15);
}

#[test]
fn promises_hold_if_a_connection_breaks_anywhere() {
    all_hold(LOSS, PATIENT, 300, 15);
}

#[test]
fn promises_hold_if_lifetimes_end_anywhere() {
    all_hold(LONG, PATIENT, 300, 10);
}

#[test]
fn promises_hold_if_calls_run_out_of_time_anywhere() {
    all_hold(LONG, IMPATIENT, 300, 10);
}

#[test]
fn promises_hold_if_several_things_go_wrong() {
    all_hold(EVERYTHING, PATIENT, 250, 0);
    all_hold(EVERYTHING, IMPATIENT, 250, 0);
}

/// What makes the search small enough hides nothing where it can be done without.
#[test]
fn promises_hold_if_states_are_told_apart_exactly() {
    for scenario in every_scenario(NO_FAULTS, PATIENT) {
        let scenario = Scenario { exact: true, ..scenario };
        if let Err(broken) = explore(&scenario, 300 * times()) {
            panic!("{}, {:?}: {broken}", scenario.name, scenario.ranges);
        }
    }
}

/// Each with those in whose company it shows.
const SABOTAGES: [(Sabotage, Ranges, Bounds, &[Script]); 14] = [
    (Sabotage::NoMarks, Ranges::One, NO_FAULTS, &[SHARED, ROLL_BACK]),
    (Sabotage::AtOnceOverMarks, Ranges::One, NO_FAULTS, &[SHARED, FATE]),
    (Sabotage::NoWriteConflicts, Ranges::Two, NO_FAULTS, &[ASYNC, ASYNC]),
    (Sabotage::NoLeast, Ranges::Two, NO_FAULTS, &[TWO_ROUNDS, READ]),
    (Sabotage::NoPush, Ranges::Two, NO_FAULTS, &[TWO_ROUNDS, READ]),
    (Sabotage::SecondariesAtOnce, Ranges::Two, NO_FAULTS, &[ASYNC, ASYNC]),
    (Sabotage::ReadsOverIntents, Ranges::Two, NO_FAULTS, &[BATCH, READ]),
    (Sabotage::NoReadCheck, Ranges::Two, NO_FAULTS, &[SKEW_A, SKEW_B]),
    (Sabotage::CheckOverIntents, Ranges::Two, NO_FAULTS, &[SKEW_A, SKEW_B]),
    (Sabotage::OldStamps, Ranges::Two, NO_FAULTS, &[ASYNC, READ]),
    (Sabotage::AbsentMayCome, Ranges::Two, NO_FAULTS, &[SHARED, ROLL_BACK]),
    (Sabotage::AsyncExpires, Ranges::Two, LONG, &[ASYNC, READ]),
    (Sabotage::PrewriteOverOwn, Ranges::Two, NO_FAULTS, &[SHARED, SHARED]),
    (Sabotage::AtOnceOverOwn, Ranges::Merging, NO_FAULTS, &[SHARED, SHARED]),
];

#[test]
fn every_sabotage_is_noticed() {
    for (sabotage, ranges, bounds, clients) in SABOTAGES {
        let scenario = scenario("sabotage", ranges, clients);
        let scenario = Scenario { bounds, sabotage: Some(sabotage), ..scenario };
        let Err(broken) = explore(&scenario, 2_000) else { panic!("{sabotage:?} goes unnoticed") };
        let why = broken.why.lines().next().unwrap_or_default();
        println!("{sabotage:?}, after {} runs: {why}", broken.explored.runs);
        // With nodes that do it right the same clients find nothing wrong.
        let right = Scenario { sabotage: None, ..scenario };
        if let Err(broken) = explore(&right, 500) {
            panic!("{sabotage:?}: {broken}");
        }
    }
}

#[test]
fn a_schedule_is_replayed_by_the_names_of_its_steps() {
    let scenario = scenario("a write skew", Ranges::Two, &[SKEW_A, SKEW_B]);
    let scenario = Scenario { sabotage: Some(Sabotage::NoReadCheck), ..scenario };
    let broken = explore(&scenario, 2_000).unwrap_err();
    println!("{broken}");
    let schedule: Vec<&str> = broken.schedule.iter().map(String::as_str).collect();
    let again = replay(&scenario, &schedule).unwrap_err();
    assert_eq!(again.lines().next(), broken.why.lines().next());
}
