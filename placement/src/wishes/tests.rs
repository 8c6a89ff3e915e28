//! Wishes round by round, with ranges that do what they are told.

use super::board::{Board, Ended, STEP_PATIENCE, WISH_PATIENCE};
use super::scatter;
use crate::state::{Goal, StoredKey, Wish, WishedKey};
use rangedb_planner::{
    ClusterView, Liveness, MergeIntent, NodeView, Operator, Policy, RangeView, SplitAt, Step,
};
use rangedb_types::{
    Epoch, MonotonicTime, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span,
};
use std::time::Duration;

const RANGE: RangeId = RangeId(1);
const RIGHT: RangeId = RangeId(2);

fn replica(id: u64, node: u64) -> Replica {
    Replica { replica_id: ReplicaId(id), node_id: NodeId(node), role: ReplicaRole::Voter }
}

/// A healthy range, led from the first of these nodes.
fn range(range_id: RangeId, start: &str, end: &str, nodes: &[u64]) -> RangeView {
    let replicas: Vec<_> =
        nodes.iter().map(|node| replica(range_id.get() * 100 + node, *node)).collect();
    RangeView {
        leader: nodes.first().map(|node| NodeId(*node)),
        caught_up: replicas.iter().map(|replica| replica.replica_id).collect(),
        size_bytes: Some(1 << 20),
        ..RangeView::new(RangeDescriptor {
            range_id,
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas,
        })
    }
}

fn cluster(nodes: u64, ranges: Vec<RangeView>) -> ClusterView {
    ClusterView { nodes: (1..=nodes).map(|id| NodeView::new(NodeId(id))).collect(), ranges }
}

fn wish(goal: Goal) -> Wish {
    Wish { range_id: RANGE, goal }
}

fn at(time: Duration) -> MonotonicTime {
    MonotonicTime(time)
}

fn round(wish: &Wish, view: &ClusterView) -> (Vec<Operator>, Vec<Ended>) {
    let mut plan = Vec::new();
    let wishes = [wish.clone()];
    let now = at(Duration::ZERO);
    let over = Board::default().round(&wishes, view, &Policy::default(), &mut plan, now);
    (plan, over)
}

fn step(wish: &Wish, view: &ClusterView) -> Step {
    let (plan, over) = round(wish, view);
    assert_eq!((plan.len(), over.len()), (1, 0), "{plan:?} {over:?}");
    plan[0].step.clone()
}

fn ended(wish: &Wish, view: &ClusterView) -> Ended {
    let (plan, mut over) = round(wish, view);
    assert_eq!((plan.len(), over.len()), (0, 1), "{plan:?} {over:?}");
    over.remove(0)
}

/// What the range's leader would do.
fn carry_out(view: &mut ClusterView, operator: &Operator) {
    let range = view
        .ranges
        .iter_mut()
        .find(|range| range.descriptor.range_id == operator.range_id)
        .unwrap();
    assert_eq!(range.descriptor.epoch, operator.epoch);
    assert_eq!(range.leader, Some(operator.leader));
    let replicas = &mut range.descriptor.replicas;
    let role = |replicas: &mut Vec<Replica>, one: &Replica, role| {
        let known = replicas.iter_mut().find(|known| known.replica_id == one.replica_id);
        known.unwrap().role = role;
    };
    match &operator.step {
        Step::AddLearner { node_id } => {
            let next = replicas.iter().map(|replica| replica.replica_id.get()).max().unwrap() + 1;
            let role = ReplicaRole::Learner;
            replicas.push(Replica { role, ..replica(next, node_id.get()) });
            range.caught_up.insert(ReplicaId(next));
        }
        Step::ChangeVoters { promote, demote } => {
            assert!(demote.iter().all(|one| Some(one.node_id) != range.leader), "led from there");
            promote.iter().for_each(|one| role(replicas, one, ReplicaRole::IncomingVoter));
            demote.iter().for_each(|one| role(replicas, one, ReplicaRole::DemotingVoter));
        }
        Step::LeaveJoint => {
            for replica in replicas {
                replica.role = match replica.role {
                    ReplicaRole::IncomingVoter => ReplicaRole::Voter,
                    ReplicaRole::DemotingVoter => ReplicaRole::Learner,
                    role => role,
                };
            }
        }
        Step::Remove { replica } => {
            assert_eq!(replica.role, ReplicaRole::Learner);
            replicas.retain(|known| known.replica_id != replica.replica_id);
        }
        Step::TransferLeader { to } => {
            assert_eq!(to.role, ReplicaRole::Voter);
            range.leader = Some(to.node_id);
            return;
        }
        other => panic!("not for this test: {other:?}"),
    }
    range.descriptor.epoch.conf_version += 1;
}

/// Rounds until the wish ends or asks for something that `carry_out` cannot do.
fn run(wish: &Wish, view: &mut ClusterView) -> (usize, Result<Ended, Step>) {
    for steps in 0..20 {
        let (plan, mut over) = round(wish, view);
        if let Some(ended) = over.pop() {
            return (steps, Ok(ended));
        }
        assert_eq!(plan.len(), 1, "{view:?}");
        if matches!(plan[0].step, Step::Merge { .. }) {
            return (steps, Err(plan[0].step.clone()));
        }
        carry_out(view, &plan[0]);
    }
    panic!("no end: {view:?}");
}

#[test]
fn a_move_of_the_leader_goes_through_all_its_steps() {
    for nodes in [vec![1, 2, 3], vec![1]] {
        let mut view = cluster(4, vec![range(RANGE, "", "", &nodes)]);
        let asked = wish(Goal::Move { from: NodeId(1), to: NodeId(4) });
        let (steps, end) = run(&asked, &mut view);
        assert!(end.unwrap().fulfilled);
        // Learner, lead, joint, out of it, removal; a sole voter needs a second one first.
        assert_eq!(steps, if nodes.len() == 3 { 5 } else { 7 });
        let range = &view.ranges[0].descriptor;
        assert!(range.replica_on(NodeId(1)).is_none());
        assert_eq!(range.replica_on(NodeId(4)).unwrap().role, ReplicaRole::Voter);
        assert_eq!(range.replicas.len(), nodes.len());
    }
}

#[test]
fn a_move_waits_for_its_learner_and_ends_if_the_target_dies() {
    let mut view = cluster(4, vec![range(RANGE, "", "", &[1, 2, 3])]);
    let asked = wish(Goal::Move { from: NodeId(2), to: NodeId(4) });
    let (plan, _) = round(&asked, &view);
    carry_out(&mut view, &plan[0]);
    let learner = view.ranges[0].descriptor.replicas[3].replica_id;
    view.ranges[0].caught_up.remove(&learner);
    let balance = Operator {
        step: Step::Remove { replica: view.ranges[0].descriptor.replicas[3] },
        epoch: view.ranges[0].descriptor.epoch,
        ..plan[0].clone()
    };
    let mut plan = vec![balance];
    let mut board = Board::default();
    let over = board.round(
        std::slice::from_ref(&asked),
        &view,
        &Policy::default(),
        &mut plan,
        at(Duration::ZERO),
    );
    assert!(over.is_empty() && plan.is_empty(), "nobody takes the learner away: {plan:?}");
    assert!(board.now(RANGE).contains("catches up"), "{}", board.now(RANGE));
    view.nodes[3].liveness = Liveness::Down;
    let end = ended(&asked, &view);
    assert!(!end.fulfilled && end.why.contains("node 4 is down"), "{end:?}");
}

#[test]
fn copies_by_hand_keep_to_the_limit_of_a_node() {
    let ranges = vec![range(RANGE, "", "m", &[1, 2, 3]), range(RIGHT, "m", "", &[1, 2, 3])];
    let view = cluster(4, ranges);
    let goal = Goal::Move { from: NodeId(2), to: NodeId(4) };
    let wishes = [wish(goal.clone()), Wish { range_id: RIGHT, goal }];
    let policy = Policy { moves_per_node_max: 1, ..Policy::default() };
    let mut board = Board::default();
    let mut plan = Vec::new();
    assert!(board.round(&wishes, &view, &policy, &mut plan, at(Duration::ZERO)).is_empty());
    assert_eq!(plan.iter().map(|one| one.range_id).collect::<Vec<_>>(), [RANGE]);
    assert!(board.now(RIGHT).contains("busy with other copies"), "{}", board.now(RIGHT));
}

#[test]
fn a_split_ends_when_its_bound_is_there() {
    let mut view = cluster(3, vec![range(RANGE, "", "", &[1, 2, 3])]);
    let by_key =
        |key: &str| wish(Goal::Split { at: WishedKey::Key(StoredKey(key.into())), version: 1 });
    let by_size = wish(Goal::Split { at: WishedKey::Size, version: 1 });
    assert_eq!(step(&by_key("m"), &view), Step::Split { at: SplitAt::Key(b"m".to_vec()) });
    assert_eq!(step(&by_size, &view), Step::Split { at: SplitAt::Size });
    view.ranges = vec![range(RANGE, "", "m", &[1, 2, 3]), range(RIGHT, "m", "", &[1, 2, 3])];
    view.ranges[0].descriptor.epoch.version = 2;
    assert!(ended(&by_key("m"), &view).fulfilled);
    assert!(ended(&by_size, &view).fulfilled);
    assert!(!ended(&by_key("t"), &view).fulfilled);
    // Split elsewhere meanwhile, but the key is still inside.
    assert_eq!(step(&by_key("c"), &view), Step::Split { at: SplitAt::Key(b"c".to_vec()) });
}

#[test]
fn what_was_split_by_hand_is_not_merged_at_once() {
    let ranges = vec![range(RANGE, "", "m", &[1, 2, 3]), range(RIGHT, "m", "", &[1, 2, 3])];
    let mut view = cluster(3, ranges);
    let (policy, wish) = (Policy::default(), wish(Goal::Split { at: WishedKey::Size, version: 1 }));
    let merges = |view: &ClusterView| {
        let plan = rangedb_planner::plan(view, &policy, 0).0;
        plan.iter().filter(|one| matches!(one.step, Step::Merge { .. })).count()
    };
    assert_eq!(merges(&view), 1);
    let mut board = Board::default();
    let mut held = view.clone();
    board.keep_apart(std::slice::from_ref(&wish), &mut held, &policy);
    assert_eq!(merges(&held), 0, "the range is being split");
    let over = vec![Ended { wish, fulfilled: true, why: String::new() }];
    board.ended(over, at(Duration::ZERO));
    board.keep_apart(&[], &mut view, &policy);
    assert_eq!(merges(&view), 0, "it was split lately");
}

#[test]
fn a_merge_brings_the_right_range_to_the_left_one_first() {
    let ranges = vec![range(RANGE, "", "m", &[1, 2, 3]), range(RIGHT, "m", "", &[5, 4, 2])];
    let mut view = cluster(5, ranges);
    let asked = wish(Goal::Merge { right: RIGHT, version: 1 });
    let (_, end) = run(&asked, &mut view);
    let right_epoch = view.ranges[1].descriptor.epoch;
    assert_eq!(end, Err(Step::Merge { right: RIGHT, right_epoch }));
    let mut nodes: Vec<_> =
        view.ranges[1].descriptor.replicas.iter().map(|replica| replica.node_id.get()).collect();
    nodes.sort_unstable();
    assert_eq!((nodes, view.ranges[1].leader), (vec![1, 2, 3], Some(NodeId(1))));
    // Balance does not part them while the last replica catches up.
    let caught_up = std::mem::take(&mut view.ranges[1].caught_up);
    let apart = Operator {
        range_id: RIGHT,
        epoch: right_epoch,
        leader: NodeId(1),
        step: Step::TransferLeader { to: view.ranges[1].descriptor.replicas[0] },
        why: String::new(),
    };
    let mut plan = vec![apart];
    let now = at(Duration::ZERO);
    let wishes = std::slice::from_ref(&asked);
    Board::default().round(wishes, &view, &Policy::default(), &mut plan, now);
    assert_eq!(plan, Vec::new());
    view.ranges[1].caught_up = caught_up;
    // Once it is frozen the planner goes on; its steps are let through.
    view.ranges[1].merging = Some(MergeIntent { left_range_id: RANGE, left_version: 1 });
    let abort = Operator {
        range_id: RANGE,
        epoch: view.ranges[0].descriptor.epoch,
        leader: NodeId(1),
        step: Step::AbortMerge { left_version: 1 },
        why: String::new(),
    };
    let mut plan = vec![abort.clone()];
    let over = Board::default().round(
        std::slice::from_ref(&asked),
        &view,
        &Policy::default(),
        &mut plan,
        now,
    );
    assert_eq!((plan, over), (vec![abort], Vec::new()));
    // Given up, or done.
    view.ranges[0].descriptor.epoch.version = 2;
    assert!(!ended(&asked, &view).fulfilled);
    view.ranges.pop();
    view.ranges[0].descriptor.span = Span::all();
    assert!(ended(&asked, &view).fulfilled);
}

#[test]
fn a_transfer_ends_when_the_node_leads() {
    let mut view = cluster(3, vec![range(RANGE, "", "", &[1, 2, 3])]);
    let asked = wish(Goal::TransferLeader { to: NodeId(2) });
    let to = view.ranges[0].descriptor.replicas[1];
    assert_eq!(step(&asked, &view), Step::TransferLeader { to });
    view.ranges[0].leader = Some(NodeId(2));
    assert!(ended(&asked, &view).fulfilled);
    view.ranges[0].leader = Some(NodeId(1));
    view.ranges[0].descriptor.replicas.remove(1);
    assert!(!ended(&asked, &view).fulfilled);
}

#[test]
fn a_wish_is_not_kept_for_ever() {
    let mut view = cluster(3, vec![range(RANGE, "", "", &[1, 2, 3])]);
    view.ranges[0].leader = None;
    let wishes = [wish(Goal::TransferLeader { to: NodeId(2) })];
    let policy = Policy::default();
    let mut board = Board::default();
    let mut plan = Vec::new();
    let mut at = |time| board.round(&wishes, &view, &policy, &mut plan, MonotonicTime(time));
    assert!(at(Duration::ZERO).is_empty());
    assert!(at(WISH_PATIENCE - Duration::from_secs(1)).is_empty());
    let over = at(WISH_PATIENCE);
    assert!(over[0].why.contains("too long") && over[0].why.contains("no leader"), "{over:?}");
    board.ended(over, MonotonicTime(WISH_PATIENCE));
    assert!(!board.last_ended(RANGE).unwrap().fulfilled);
    board.round(&[], &view, &policy, &mut plan, MonotonicTime(WISH_PATIENCE * 3));
    assert_eq!(board.last_ended(RANGE), None);
}

#[test]
fn a_step_without_effect_ends_its_wish() {
    let mut view = cluster(3, vec![range(RANGE, "", "", &[1, 2, 3])]);
    let wishes = [wish(Goal::Split { at: WishedKey::Size, version: 1 })];
    let mut board = Board::default();
    let mut round = |view: &ClusterView, time| {
        let mut plan = Vec::new();
        board.round(&wishes, view, &Policy::default(), &mut plan, MonotonicTime(time))
    };
    assert!(round(&view, Duration::ZERO).is_empty());
    let nearly = STEP_PATIENCE - Duration::from_secs(1);
    assert!(round(&view, nearly).is_empty());
    // Another epoch: it is asked anew.
    view.ranges[0].descriptor.epoch.conf_version += 1;
    assert!(round(&view, STEP_PATIENCE).is_empty());
    let over = round(&view, STEP_PATIENCE * 2);
    assert!(over[0].why.contains("no key that halves it"), "{over:?}");
}

#[test]
fn repairs_go_on_while_a_wish_waits() {
    let mut view = cluster(5, vec![range(RANGE, "", "", &[1, 2, 3])]);
    let asked = wish(Goal::Move { from: NodeId(2), to: NodeId(4) });
    let (plan, _) = round(&asked, &view);
    carry_out(&mut view, &plan[0]);
    view.ranges[0].caught_up.pop_last();
    view.nodes[2].liveness = Liveness::Down;
    let repair = Operator { step: Step::AddLearner { node_id: NodeId(5) }, ..plan[0].clone() };
    let mut plan = vec![repair];
    let now = at(Duration::ZERO);
    Board::default().round(&[asked], &view, &Policy::default(), &mut plan, now);
    assert_eq!(plan.len(), 1);
}

#[test]
fn scatter_evens_out_replicas_and_leaders_and_then_stops() {
    let key = |index: u64| if index == 12 { String::new() } else { format!("k{index:02}") };
    let ranges = (0..12).map(|index| {
        let start = if index == 0 { String::new() } else { key(index) };
        range(RangeId(index + 1), &start, &key(index + 1), &[1, 2, 3])
    });
    let mut view = cluster(4, ranges.collect());
    let everything = Span::all();
    assert_eq!(scatter(&view, &everything, 2, |_| false).len(), 2);
    assert!(scatter(&view, &everything, 100, |_| true).is_empty());
    for _ in 0..10 {
        let wishes = scatter(&view, &everything, 100, |_| false);
        if wishes.is_empty() {
            let on = |node: u64| {
                let holds =
                    |range: &&RangeView| range.descriptor.replica_on(NodeId(node)).is_some();
                view.ranges.iter().filter(holds).count()
            };
            let leads = |node: u64| {
                let leads = |range: &&RangeView| range.leader == Some(NodeId(node));
                view.ranges.iter().filter(leads).count()
            };
            for node in 1..=4 {
                assert!((8..=10).contains(&on(node)), "{} replicas on {node}", on(node));
                assert!((2..=4).contains(&leads(node)), "{} leaders on {node}", leads(node));
            }
            return;
        }
        for wish in wishes {
            assert!(run(&wish, &mut view).1.unwrap().fulfilled);
        }
    }
    panic!("it does not settle");
}
