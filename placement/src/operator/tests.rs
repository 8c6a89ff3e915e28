use super::*;
use rangedb_types::Epoch;

fn at(ms: u64) -> MonotonicTime {
    MonotonicTime(Duration::from_millis(ms))
}

fn add(range: u64, conf_version: u64, node: u64) -> Operator {
    Operator {
        range_id: RangeId(range),
        epoch: Epoch { version: 1, conf_version },
        leader: NodeId(1),
        step: Step::AddLearner { node_id: NodeId(node) },
        why: String::new(),
    }
}

fn replica_of(dispatch: &Dispatch) -> (u64, u64) {
    let Some(Command::ChangeReplicas(change)) = &dispatch.command.command else {
        panic!("a change of replicas")
    };
    let replica = change.changes[0].replica.as_ref().unwrap();
    (replica.replica_id, replica.node_id)
}

#[test]
fn a_command_is_sent_once_and_again_after_a_while_with_the_same_id() {
    let mut operators = Operators::default();
    operators.accept(vec![add(1, 1, 2)], |_| 3, at(0));
    assert_eq!(operators.ids_wanted(), 1);
    assert!(operators.due(at(0)).is_empty(), "no id yet");
    operators.give_ids([50, 51]);
    let first = operators.due(at(0));
    assert_eq!(replica_of(&first[0]), (50, 2));
    operators.accept(vec![add(1, 1, 2)], |_| 3, at(0));
    assert!(operators.due(at(2_999)).is_empty());
    assert_eq!(operators.due(at(3_000)), first);
    // The range moved on: the next step is sent at once.
    operators.accept(vec![add(1, 2, 3)], |_| 3, at(0));
    assert_eq!(replica_of(&operators.due(at(3_001))[0]), (51, 3));
}

#[test]
fn a_second_thought_for_the_same_epoch_does_not_race_with_the_first() {
    let mut operators = Operators::default();
    operators.give_ids([50, 51]);
    operators.accept(vec![add(1, 1, 2)], |_| 3, at(0));
    let first = operators.due(at(0));
    operators.accept(vec![add(1, 1, 3)], |_| 3, at(0));
    assert_eq!(operators.due(at(5_000)), first);
    operators.accept(vec![add(1, 1, 3)], |_| 3, at(30_000));
    assert_eq!(replica_of(&operators.due(at(30_000))[0]), (51, 3));
}

#[test]
fn what_the_plan_no_longer_holds_is_forgotten() {
    let mut operators = Operators::default();
    operators.accept(vec![add(1, 1, 2), add(2, 1, 2)], |_| 3, at(0));
    operators.accept(vec![add(2, 1, 2)], |_| 3, at(0));
    assert_eq!(operators.under_way().map(|o| o.range_id).collect::<Vec<_>>(), [RangeId(2)]);
    operators.accept(Vec::new(), |_| 3, at(0));
    assert_eq!(operators.under_way().count(), 0);
}

#[test]
fn a_command_that_was_not_handed_over_is_due_again() {
    let mut operators = Operators::default();
    operators.give_ids([50]);
    operators.accept(vec![add(1, 1, 2)], |_| 3, at(0));
    assert_eq!(operators.due(at(0)).len(), 1);
    operators.not_sent(RangeId(1));
    assert_eq!(operators.due(at(1)).len(), 1);
}

#[test]
fn leaving_a_joint_configuration_carries_no_changes() {
    let mut operators = Operators::default();
    let leave = Operator { step: Step::LeaveJoint, ..add(1, 4, 0) };
    operators.accept(vec![leave], |_| 3, at(0));
    let due = operators.due(at(0));
    let Some(Command::ChangeReplicas(change)) = &due[0].command.command else { panic!() };
    assert!(change.leave_joint && change.changes.is_empty());
    assert_eq!(change.epoch, Some(Epoch { version: 1, conf_version: 4 }.into()));
}

#[test]
fn a_split_is_given_an_id_for_the_range_and_for_each_replica() {
    let mut operators = Operators::default();
    let split = Operator { step: Step::Split { at: SplitAt::Size }, ..add(1, 4, 0) };
    operators.accept(vec![split], |_| 3, at(0));
    assert_eq!(operators.ids_wanted(), 4);
    operators.give_ids([50, 51, 52]);
    assert!(operators.due(at(0)).is_empty(), "one id is missing");
    operators.give_ids([53]);
    let due = operators.due(at(0));
    let Some(Command::SplitRange(order)) = &due[0].command.command else { panic!("a split") };
    assert_eq!((order.new_range_id, order.new_replica_ids.clone()), (50, vec![51, 52, 53]));
}
