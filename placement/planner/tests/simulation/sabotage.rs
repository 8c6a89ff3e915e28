//! The checkers bite: a world that is made wrong on purpose is noticed.

use crate::scale::{full_disks, scale_out};
use crate::storms::storm;
use crate::world::Sabotage;

/// What the first seed that fails says.
fn noticed(run: impl Fn(u64) -> Result<(), String>) -> String {
    let fails = |seed| {
        // An executor of nonsense may also stumble over its own assertions.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)))
            .unwrap_or_else(|_| Err("assertion".to_owned()))
            .err()
    };
    (0..20).find_map(fails).expect("the sabotage must be noticed")
}

#[test]
fn empty_voters_are_noticed() {
    let verdict = noticed(|seed| storm(seed, Sabotage::EmptyLearnersCountAsCaughtUp));
    assert!(verdict.contains("no majority") || verdict.contains("lost"), "{verdict}");
}

#[test]
fn commands_for_another_epoch_are_noticed() {
    noticed(|seed| storm(seed, Sabotage::EpochsAreIgnored));
}

#[test]
fn a_cluster_that_never_rests_is_noticed() {
    let verdict = noticed(|seed| scale_out(seed, Sabotage::LearnersVanish));
    assert!(verdict.contains("no rest"), "{verdict}");
}

#[test]
fn zones_that_are_not_respected_are_noticed() {
    let verdict = noticed(|seed| storm(seed, Sabotage::ZonesAreHidden));
    assert!(verdict.contains("is free"), "{verdict}");
}

#[test]
fn too_many_copies_are_noticed() {
    let verdict = noticed(|seed| scale_out(seed, Sabotage::MovesCountTwice));
    assert!(verdict.contains("copies where"), "{verdict}");
}

#[test]
fn an_uneven_spread_is_noticed() {
    let verdict = noticed(|seed| scale_out(seed, Sabotage::FirstNodeLooksEmpty));
    assert!(verdict.contains("uneven") || verdict.contains("wanted"), "{verdict}");
}

#[test]
fn plans_that_are_not_sound_are_noticed() {
    let verdict = noticed(|seed| storm(seed, Sabotage::LearnersGoToTheFirstNode));
    assert!(verdict.contains("does not fit") || verdict.contains("at once"), "{verdict}");
}

#[test]
fn disks_that_stay_full_are_noticed() {
    let verdict = noticed(|seed| full_disks(seed, Sabotage::DisksLookEmpty));
    assert!(verdict.contains("is full"), "{verdict}");
}
