//! The right number of replicas and voters for one range, and the end of every move begun.
//!
//! Grows by learners first, and gives votes to several at once: a range with two voters survives no
//! more failures than one with one, and needs both for every write. A replica goes in the order
//! joint change, removal, and never before another one has taken its place.

use crate::explain::{count_of, nodes_are_up};
use crate::members::Members;
use crate::planning::Planning;
use crate::target::{best_leader, best_node, candidates};
use crate::{RangeView, Step};
use rangedb_types::{Replica, ReplicaRole};

/// How many replicas and voters a range can have now.
struct Goal {
    replicas: usize,
    voters: usize,
    /// Nodes that are not lost and hold, or could take, a replica.
    nodes: usize,
}

struct Settling<'a, 'p> {
    planning: &'p mut Planning<'a>,
    index: usize,
    range: &'a RangeView,
    members: Members,
    goal: Goal,
}

/// Asks for the next step that the number and the state of a range's replicas call for, if any.
pub(crate) fn settle(planning: &mut Planning<'_>, index: usize) {
    let range = planning.range(index);
    let range_id = range.descriptor.range_id;
    if range.leader.is_none() {
        planning.explanation.wait(|| format!("range {range_id} has no leader that reports"));
        planning.set_busy(index);
        return;
    }
    if planning.pairs.is_frozen(index) {
        return;
    }
    if range.descriptor.is_joint() {
        let why = "a range must not stay in a joint configuration".to_owned();
        planning.ask(index, Step::LeaveJoint, why);
        return;
    }
    if is_complete(planning, range) {
        return;
    }
    let members = Members::of(range, &planning.cluster, planning.wanted());
    let goal = Goal::of(range, &members, planning);
    let mut settling = Settling { planning, index, range, members, goal };
    settling.tell_shortage();
    // One more voter beside a lost one survives no more failures; one in its place does.
    let _ = settling.has_lost_voters() && settling.swap()
        || settling.promote()
        || settling.swap()
        || settling.shed()
        || settling.grow()
        || settling.tidy();
}

fn is_complete(planning: &Planning<'_>, range: &RangeView) -> bool {
    let replicas = &range.descriptor.replicas;
    replicas.len() == planning.wanted()
        && replicas.iter().all(|replica| {
            replica.role == ReplicaRole::Voter && !planning.cluster.is_lost(replica.node_id)
        })
}

impl Goal {
    fn of(range: &RangeView, members: &Members, planning: &Planning<'_>) -> Self {
        let wanted = planning.wanted();
        let nodes = held(members, planning) + candidates(&planning.cluster, range).count();
        let replicas = wanted.min(nodes);
        let voters = if replicas == wanted { wanted } else { odd_at_most(replicas) };
        Self { replicas, voters, nodes }
    }
}

const fn odd_at_most(count: usize) -> usize {
    if count == 0 || count % 2 == 1 { count } else { count - 1 }
}

/// Replicas that count: those that are to stay, on nodes that are not lost.
fn held(members: &Members, planning: &Planning<'_>) -> usize {
    let lives = |replica: &&Replica| !planning.cluster.is_lost(replica.node_id);
    members.voters.iter().filter(lives).count() + members.coming.len()
}

impl Settling<'_, '_> {
    fn tell_shortage(&mut self) {
        let wanted = self.planning.wanted();
        if self.goal.replicas >= wanted {
            return;
        }
        let range_id = self.range.descriptor.range_id;
        let voters = self.members.voters.len().max(self.goal.voters);
        let spare = self.goal.replicas.saturating_sub(voters);
        let nodes = self.goal.nodes;
        self.planning.explanation.wait(|| {
            let shortage =
                format!("range {range_id} wants {wanted} replicas, {}", nodes_are_up(nodes));
            if spare == 0 {
                return shortage;
            }
            format!(
                "{shortage}; it runs with {} and {} until then, because an even number of voters survives no more failures",
                count_of(voters, "voter"),
                count_of(spare, "learner"),
            )
        });
    }

    fn victims(&self) -> Vec<Replica> {
        self.planning.victims.get(&self.index).cloned().unwrap_or_default()
    }

    fn voting_victims(&self) -> Vec<Replica> {
        let mut victims = self.victims();
        victims.retain(|victim| victim.role == ReplicaRole::Voter);
        victims
    }

    fn has_lost_voters(&self) -> bool {
        self.members.voters.iter().any(|voter| self.planning.cluster.is_lost(voter.node_id))
    }

    /// Learners that may get a vote.
    fn ready(&self) -> Vec<Replica> {
        let victims = self.victims();
        let cluster = &self.planning.cluster;
        let mut ready: Vec<_> = self
            .members
            .coming
            .iter()
            .filter(|learner| {
                cluster.is_good(self.range, learner)
                    && cluster.get(learner.node_id).is_some_and(|node| node.is_up())
                    && !cluster.is_draining(learner.node_id)
                    && !victims.contains(learner)
            })
            .copied()
            .collect();
        ready.sort_unstable();
        ready
    }

    /// True if the range still has a majority of good voters after the change.
    fn keeps_majority(&self, promote: &[Replica], demote: &[Replica]) -> bool {
        let stay = self.members.voters.iter().filter(|voter| !demote.contains(voter));
        let (mut count, mut good) = (0, 0);
        for voter in stay.chain(promote) {
            count += 1;
            good += usize::from(self.planning.cluster.is_good(self.range, voter));
        }
        good > count / 2
    }

    fn change_voters(&mut self, promote: Vec<Replica>, demote: Vec<Replica>, why: String) -> bool {
        if self.keeps_majority(&promote, &demote) {
            self.planning.ask(self.index, Step::ChangeVoters { promote, demote }, why);
            return true;
        }
        let range_id = self.range.descriptor.range_id;
        self.planning.explanation.wait(|| {
            format!("range {range_id} must change voters, and waits for a majority to catch up")
        });
        false
    }

    fn promote(&mut self) -> bool {
        let voters = self.members.voters.len();
        let missing = self.goal.voters.saturating_sub(voters);
        if missing == 0 {
            return false;
        }
        let mut ready = self.ready();
        let most = missing.min(ready.len());
        let wanted = self.goal.voters;
        let good = |count: &usize| voters + count == wanted || (voters + count) % 2 == 1;
        let Some(count) = (1..=most).rev().find(good) else {
            let range_id = self.range.descriptor.range_id;
            let have = ready.len();
            self.planning.explanation.wait(|| {
                format!(
                    "range {range_id} wants {}, has {voters}; {have} of {missing} learners have caught up",
                    count_of(wanted, "voter"),
                )
            });
            return false;
        };
        ready.truncate(count);
        self.change_voters(
            ready,
            Vec::new(),
            format!("it has {voters} of {}", count_of(wanted, "voter")),
        )
    }

    /// Puts learners that have caught up in the place of voters that are to go.
    fn swap(&mut self) -> bool {
        let mut ready = self.ready();
        let mut demote = self.voting_victims();
        if demote.is_empty() {
            let lost = |voter: &&Replica| self.planning.cluster.is_lost(voter.node_id);
            demote = self.members.voters.iter().filter(lost).copied().collect();
        }
        let count = ready.len().min(demote.len());
        if count == 0 {
            return false;
        }
        let Some(demote) = self.demotable(demote, count) else { return true };
        if demote.is_empty() && self.members.voters.len() > 1 {
            return false;
        }
        // The only voter cannot hand over to anybody before there is a second one.
        ready.truncate(demote.len().max(1));
        let why = self.why_replace(&demote);
        self.change_voters(ready, demote, why)
    }

    fn why_replace(&self, demote: &[Replica]) -> String {
        let Some(voter) = demote.first() else {
            return "a second voter is needed before the only one can go".to_owned();
        };
        let node_id = voter.node_id;
        if self.planning.cluster.is_lost(node_id) {
            format!("the replica on node {node_id} is lost, and its substitute has caught up")
        } else if self.planning.cluster.is_draining(node_id) {
            format!("node {node_id} is being emptied, and the substitute has caught up")
        } else {
            format!("the replica on node {node_id} moves, and its substitute has caught up")
        }
    }

    /// At most `most` of those that are to go, who can lose their vote now; `None` if the leader is
    /// the next of them and was asked to hand over.
    fn demotable(&mut self, mut victims: Vec<Replica>, most: usize) -> Option<Vec<Replica>> {
        let leads = |voter: &&Replica| Some(voter.node_id) == self.range.leader;
        if let Some(leader) = victims.iter().take(most).find(leads).copied() {
            let node_id = leader.node_id;
            if let Some(to) = best_leader(&self.planning.cluster, self.range, &victims) {
                let why = format!("the replica on node {node_id} is to go, and leads");
                self.planning.ask_transfer(self.index, to, why);
                return None;
            }
            // Whoever takes the place of another one may be able to lead.
            victims.retain(|victim| *victim != leader);
            if victims.is_empty() {
                let range_id = self.range.descriptor.range_id;
                self.planning.explanation.wait(|| {
                    format!(
                        "range {range_id} cannot leave node {node_id}: no other voter could lead it"
                    )
                });
            }
        }
        victims.truncate(most);
        Some(victims)
    }

    /// Takes votes from voters beyond the number wanted.
    fn shed(&mut self) -> bool {
        let voters = self.members.voters.len();
        let wanted = self.planning.wanted();
        let surplus = voters.saturating_sub(wanted);
        let victims = self.voting_victims();
        if surplus == 0 || victims.is_empty() {
            return false;
        }
        let Some(mut demote) = self.demotable(victims, surplus) else { return true };
        while !demote.is_empty() && !self.keeps_majority(&[], &demote) {
            demote.pop();
        }
        if demote.is_empty() {
            return false;
        }
        let why = format!("it has {} and needs {wanted}", count_of(voters, "voter"));
        self.change_voters(Vec::new(), demote, why)
    }

    fn grow(&mut self) -> bool {
        let has = held(&self.members, self.planning);
        if has >= self.goal.replicas {
            return false;
        }
        let wanted = self.planning.wanted();
        let lost = self.members.voters.len() + self.members.coming.len() - has;
        let why = if lost > 0 {
            format!("it has {has} of {wanted} replicas, {lost} of them lost")
        } else {
            format!("it has {has} of {wanted} replicas")
        };
        add_learner(self.planning, self.index, &self.members.all(), has, why)
    }

    /// Removes learners of no use: lost ones first.
    fn tidy(&mut self) -> bool {
        let cluster = &self.planning.cluster;
        let unwanted = self.victims().into_iter().filter(|one| one.role == ReplicaRole::Learner);
        let Some(surplus) = self
            .members
            .leaving
            .iter()
            .copied()
            .chain(unwanted)
            .min_by_key(|learner| (!cluster.is_lost(learner.node_id), learner.replica_id))
        else {
            return false;
        };
        let voters = self.members.voters.len();
        let why = if cluster.is_lost(surplus.node_id) {
            format!("the learner on node {} is lost", surplus.node_id)
        } else {
            format!("it has {voters} voters and needs no learner")
        };
        self.planning.ask(self.index, Step::Remove { replica: surplus }, why);
        true
    }
}

/// Asks for one more replica on the best node, as far from those that stay as can be; or says what
/// it waits for.
pub(crate) fn add_learner(
    planning: &mut Planning<'_>,
    index: usize,
    stay: &[Replica],
    has: usize,
    why: String,
) -> bool {
    let range = planning.range(index);
    let budget = &planning.budget;
    let node_id = if budget.may_send(range) {
        best_node(&planning.cluster, range, stay, |node| budget.may_receive(node.view.node_id))
    } else {
        None
    };
    if let Some(node_id) = node_id {
        planning.ask_learner(index, node_id, why);
        return true;
    }
    let range_id = range.descriptor.range_id;
    let (wanted, most) = (planning.wanted(), planning.policy.moves_per_node_max);
    planning.explanation.wait(|| {
        format!(
            "range {range_id} wants {wanted} replicas and has {has}; it waits for other copies to end ({most} at once a node)"
        )
    });
    false
}
