//! The next step of one wish, from the cluster as it is. Nothing is remembered between two steps.

use super::survey::Survey;
use super::{merging, moving};
use crate::state::{Goal, Wish, WishedKey};
use rangedb_planner::{RangeView, SplitAt, Step, TransferRefusal, can_transfer};
use rangedb_types::{NodeId, RangeId, ReplicaRole};

/// What is to be done about a wish now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is fulfilled.
    Done,
    /// It cannot be fulfilled any more.
    GivenUp(String),
    /// This step of this range; a merge may begin with steps of the right one.
    Take { range_id: RangeId, step: Step },
    /// Nothing now, and nobody else may change its ranges.
    Hold(String),
    /// Nothing now, and what is planned for its ranges goes on.
    Leave(String),
}

/// Decides about one wish.
pub(super) fn next(wish: &Wish, survey: &Survey<'_>) -> Next {
    let Some(range) = survey.range(wish.range_id) else {
        return Next::GivenUp(
            "the range is gone; it was merged into its left neighbour".to_owned(),
        );
    };
    if range.leader.is_none() {
        return Next::Hold("the range has no leader that reports".to_owned());
    }
    if let Goal::Merge { right, version } = wish.goal {
        return merging::next(range, right, version, survey);
    }
    if let Goal::Split { at, version } = &wish.goal
        && let Some(end) = end_of_split(range, at, *version, survey)
    {
        return end;
    }
    if range.merging.is_some() || survey.is_left_of_frozen(range) {
        return Next::Leave("a merge of the range has begun and ends first".to_owned());
    }
    match &wish.goal {
        Goal::Split { at, .. } => split(range, at),
        Goal::Move { from, to } => moving::next(range, *from, *to, survey),
        Goal::TransferLeader { to } => transfer(range, *to, survey),
        Goal::Merge { .. } => Next::Leave(String::new()),
    }
}

/// How a split ended, if it has.
fn end_of_split(
    range: &RangeView,
    at: &WishedKey,
    version: u64,
    survey: &Survey<'_>,
) -> Option<Next> {
    let WishedKey::Key(key) = at else {
        return (range.descriptor.epoch.version > version).then_some(Next::Done);
    };
    let span = &range.descriptor.span;
    if span.end == key.0 || span.start == key.0 || survey.begins_at(&key.0) {
        return Some(Next::Done);
    }
    (!span.contains(&key.0))
        .then(|| Next::GivenUp("the key is no longer inside the range".to_owned()))
}

fn split(range: &RangeView, at: &WishedKey) -> Next {
    let descriptor = &range.descriptor;
    if descriptor.is_joint() {
        return Next::Leave("a change of the range's replicas ends first".to_owned());
    }
    let mut learners = descriptor.with_role(ReplicaRole::Learner);
    if learners.any(|learner| !range.caught_up.contains(&learner.replica_id)) {
        return Next::Leave("a replica that is being filled catches up first".to_owned());
    }
    let at = match at {
        WishedKey::Key(key) => SplitAt::Key(key.0.clone()),
        WishedKey::Size => SplitAt::Size,
        WishedKey::Load => SplitAt::Load,
    };
    Next::Take { range_id: descriptor.range_id, step: Step::Split { at } }
}

fn transfer(range: &RangeView, to: NodeId, survey: &Survey<'_>) -> Next {
    if range.leader == Some(to) {
        return Next::Done;
    }
    match can_transfer(range, to, survey.view) {
        Ok(()) => {
            let replica = range.descriptor.replica_on(to).expect("it can be transferred to");
            let step = Step::TransferLeader { to: *replica };
            Next::Take { range_id: range.descriptor.range_id, step }
        }
        Err(
            refusal @ (TransferRefusal::Down(_)
            | TransferRefusal::NotCaughtUp { .. }
            | TransferRefusal::Changing(_)),
        ) => Next::Leave(refusal.to_string()),
        Err(refusal) => Next::GivenUp(refusal.to_string()),
    }
}
