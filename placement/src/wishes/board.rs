//! All wishes of one term of office: how long each has been there, what it waits for, how it ended.

use super::next::{Next, next};
use super::survey::Survey;
use crate::state::{Goal, Wish};
use rangedb_planner::{ClusterView, Operator, Policy, SplitAt, Step};
use rangedb_types::{Epoch, MonotonicTime, RangeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a wish is kept under one leader of placement before it is given up.
pub(super) const WISH_PATIENCE: Duration = Duration::from_secs(600);
/// How long one step may show no effect before its wish is given up; commands are sent again and
/// again meanwhile.
pub(super) const STEP_PATIENCE: Duration = Duration::from_secs(30);
/// How long it is told how a wish ended.
const ENDED_SHOWN_FOR: Duration = Duration::from_secs(600);
/// Most ended wishes that are told of.
const ENDED_MAX: usize = 1_000;

/// A wish that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub wish: Wish,
    pub fulfilled: bool,
    pub why: String,
}

#[derive(Debug)]
struct Waiting {
    wish: Wish,
    since: MonotonicTime,
    /// What is being done, or waited for.
    now: String,
    begun: Option<Begun>,
}

/// A step that is asked for, round after round, until it shows.
#[derive(Clone, Debug)]
struct Begun {
    range_id: RangeId,
    epoch: Epoch,
    step: Step,
    since: MonotonicTime,
}

/// What is known of wishes beyond the stored ones.
#[derive(Debug, Default)]
pub struct Board {
    waiting: BTreeMap<RangeId, Waiting>,
    ended: VecDeque<(MonotonicTime, Ended)>,
}

impl Board {
    /// Lets ranges that are split by hand, or were lately, count as too large to be merged: what a
    /// person cut in two is not to be one again a moment later.
    pub fn keep_apart(&self, wishes: &[Wish], view: &mut ClusterView, policy: &Policy) {
        let is_split = |wish: &&Wish| matches!(wish.goal, Goal::Split { .. });
        let ended = self.ended.iter().map(|(_, ended)| ended);
        let done = ended.filter(|ended| ended.fulfilled).map(|ended| &ended.wish);
        let split: BTreeSet<RangeId> =
            wishes.iter().chain(done).filter(is_split).map(|wish| wish.range_id).collect();
        if split.is_empty() {
            return;
        }
        for range in &mut view.ranges {
            if split.contains(&range.descriptor.range_id) {
                let size_bytes = range.size_bytes.unwrap_or_default();
                range.size_bytes = Some(size_bytes.max(policy.merge_size_bytes));
            }
        }
    }

    /// One round: takes the ranges of the wishes away from the plan, and puts the wishes' next steps
    /// in its place. Returns the wishes that are over.
    pub fn round(
        &mut self,
        wishes: &[Wish],
        view: &ClusterView,
        policy: &Policy,
        plan: &mut Vec<Operator>,
        now: MonotonicTime,
    ) -> Vec<Ended> {
        let mut before = std::mem::take(&mut self.waiting);
        self.ended.retain(|(at, _)| now.since(*at) < ENDED_SHOWN_FOR);
        if wishes.is_empty() {
            return Vec::new();
        }
        let mut survey = Survey::of(view, policy);
        let mut turn = Turn::default();
        let mut over = Vec::new();
        for wish in wishes {
            let known = before.remove(&wish.range_id).filter(|known| known.wish == *wish);
            let since = known.as_ref().map_or(now, |known| known.since);
            let next = turn.unless_held(wish, next(wish, &survey));
            let begun = begun(&next, known.and_then(|known| known.begun), &survey, now);
            let next = in_time(next, now.since(since), begun.as_ref(), now);
            let words = match turn.take(wish, next, &mut survey) {
                Ok(words) => words,
                Err((fulfilled, why)) => {
                    over.push(Ended { wish: wish.clone(), fulfilled, why });
                    continue;
                }
            };
            let waiting = Waiting { wish: wish.clone(), since, now: words, begun };
            self.waiting.insert(wish.range_id, waiting);
        }
        turn.apply(plan);
        over
    }

    /// Wishes that were taken out of the stored ones.
    pub fn ended(&mut self, over: Vec<Ended>, now: MonotonicTime) {
        self.ended.extend(over.into_iter().map(|ended| (now, ended)));
        while self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// What is being done about a range's wish, or waited for; empty before its first round.
    #[must_use]
    pub fn now(&self, range_id: RangeId) -> String {
        self.waiting.get(&range_id).map(|waiting| waiting.now.clone()).unwrap_or_default()
    }

    /// The last wish of a range that ended.
    #[must_use]
    pub fn last_ended(&self, range_id: RangeId) -> Option<&Ended> {
        let mut ended = self.ended.iter().rev().map(|(_, ended)| ended);
        ended.find(|ended| ended.wish.range_id == range_id)
    }
}

/// Since when the same step has been asked for.
fn begun(
    next: &Next,
    before: Option<Begun>,
    survey: &Survey<'_>,
    now: MonotonicTime,
) -> Option<Begun> {
    let Next::Take { range_id, step } = next else { return None };
    let epoch = survey.range(*range_id)?.descriptor.epoch;
    let same = before.filter(|before| {
        before.range_id == *range_id && before.epoch == epoch && before.step == *step
    });
    Some(same.unwrap_or_else(|| Begun {
        range_id: *range_id,
        epoch,
        step: step.clone(),
        since: now,
    }))
}

/// Gives up what takes too long.
fn in_time(next: Next, age: Duration, begun: Option<&Begun>, now: MonotonicTime) -> Next {
    let too_old = age >= WISH_PATIENCE;
    let stuck = begun.is_some_and(|begun| now.since(begun.since) >= STEP_PATIENCE);
    match next {
        Next::Hold(why) | Next::Leave(why) if too_old => {
            Next::GivenUp(format!("it took too long; it waited because: {why}"))
        }
        Next::Take { step, .. } if too_old || stuck => {
            let advice = match step {
                Step::Split { at: SplitAt::Size | SplitAt::Load } => {
                    "; its leader knows no key that halves it, so name one"
                }
                _ => "",
            };
            Next::GivenUp(format!("a step had no effect: {step}{advice}"))
        }
        next => next,
    }
}

/// What the wishes of one round ask for.
#[derive(Default)]
struct Turn {
    operators: Vec<Operator>,
    /// Ranges that the plan may not touch.
    held: BTreeSet<RangeId>,
}

impl Turn {
    /// Two wishes for neighbours do not step on each other.
    fn unless_held(&self, wish: &Wish, next: Next) -> Next {
        match next {
            Next::Take { range_id, .. }
                if self.held.contains(&range_id) || self.held.contains(&wish.range_id) =>
            {
                Next::Leave("another command for a neighbour ends first".to_owned())
            }
            next => next,
        }
    }

    /// What is being done, in words; or how the wish ended.
    fn take(
        &mut self,
        wish: &Wish,
        next: Next,
        survey: &mut Survey<'_>,
    ) -> Result<String, (bool, String)> {
        match next {
            Next::Done => Err((true, "done".to_owned())),
            Next::GivenUp(why) => Err((false, why)),
            Next::Leave(why) => Ok(format!("waits: {why}")),
            Next::Hold(why) => {
                // What is lost is made good first.
                if !ranges_of(wish).any(|range_id| has_lost(range_id, survey)) {
                    self.hold(wish);
                }
                Ok(format!("waits: {why}"))
            }
            Next::Take { range_id, step } => {
                let Some(range) = survey.range(range_id) else { return Ok(String::new()) };
                let Some(leader) = range.leader else { return Ok(String::new()) };
                if let Step::AddLearner { node_id } = step {
                    survey.count_copy(range, node_id);
                }
                let words = format!("under way: {step}");
                self.hold(wish);
                self.operators.push(Operator {
                    range_id,
                    epoch: range.descriptor.epoch,
                    leader,
                    step,
                    why: format!("asked for by hand: {wish}"),
                });
                Ok(words)
            }
        }
    }

    fn hold(&mut self, wish: &Wish) {
        self.held.extend(ranges_of(wish));
    }

    fn apply(self, plan: &mut Vec<Operator>) {
        let own: BTreeSet<_> = self.operators.iter().map(|operator| operator.range_id).collect();
        plan.retain(|planned| {
            let goes_before = matches!(planned.step, Step::LeaveJoint | Step::AbortMerge { .. });
            let touches = self.held.contains(&planned.range_id)
                || matches!(planned.step, Step::Merge { right, .. } if self.held.contains(&right));
            !own.contains(&planned.range_id) && (goes_before || !touches)
        });
        plan.extend(self.operators);
        plan.sort_by_key(|operator| operator.range_id);
    }
}

/// The range of a wish, and the one that is to become part of it.
fn ranges_of(wish: &Wish) -> impl Iterator<Item = RangeId> {
    let right = match wish.goal {
        Goal::Merge { right, .. } => Some(right),
        _ => None,
    };
    std::iter::once(wish.range_id).chain(right)
}

fn has_lost(range_id: RangeId, survey: &Survey<'_>) -> bool {
    survey.range(range_id).is_some_and(|range| {
        range.descriptor.replicas.iter().any(|replica| survey.is_lost(replica.node_id))
    })
}
