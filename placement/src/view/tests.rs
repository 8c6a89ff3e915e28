use super::*;
use rangedb_types::{Epoch, Replica, ReplicaRole, Span};

const DEAD_AFTER: Duration = Duration::from_secs(60);
const NODE: NodeId = NodeId(1);
const RANGE: RangeId = RangeId(9);

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime(Duration::from_secs(seconds))
}

fn report(term: u64, conf_version: u64) -> wire::RangeReport {
    let range = RangeDescriptor {
        range_id: RANGE,
        span: Span::all(),
        epoch: Epoch { version: 1, conf_version },
        replicas: vec![Replica {
            replica_id: ReplicaId(11),
            node_id: NODE,
            role: ReplicaRole::Voter,
        }],
    };
    wire::RangeReport { range: Some((&range).into()), term, ..Default::default() }
}

fn beat(ranges: Vec<wire::RangeReport>) -> wire::Heartbeat {
    wire::Heartbeat { ranges, ..Default::default() }
}

#[test]
fn silence_makes_a_node_suspect_and_then_down() {
    let mut view = View::new(at(100));
    assert_eq!(view.liveness(NODE, at(102), DEAD_AFTER), Liveness::Up, "time to find us");
    assert_eq!(view.liveness(NODE, at(104), DEAD_AFTER), Liveness::Suspect);
    view.connected(NODE, SessionId(1), at(104));
    view.heartbeat(NODE, SessionId(1), &beat(Vec::new()), at(110)).unwrap();
    assert_eq!(view.liveness(NODE, at(112), DEAD_AFTER), Liveness::Up);
    assert_eq!(view.liveness(NODE, at(113), DEAD_AFTER), Liveness::Suspect);
    assert_eq!(view.liveness(NODE, at(170), DEAD_AFTER), Liveness::Down);
}

#[test]
fn an_old_leader_does_not_speak_over_the_new_one() {
    let mut view = View::new(at(0));
    view.connected(NODE, SessionId(1), at(0));
    view.connected(NodeId(2), SessionId(2), at(0));
    view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 1)]), at(1)).unwrap();
    view.heartbeat(NodeId(2), SessionId(2), &beat(vec![report(6, 1)]), at(1)).unwrap();
    assert_eq!(view.leader_of(RANGE, at(1)), Some(NodeId(2)));
    let news = view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 3)]), at(2)).unwrap();
    assert!(news.is_empty());
    assert_eq!(view.leader_of(RANGE, at(2)), Some(NodeId(2)));
    // What the old one lost is the other's by now.
    let lost = wire::Heartbeat { lost_leaderships: vec![RANGE.get()], ..Default::default() };
    view.heartbeat(NODE, SessionId(1), &lost, at(2)).unwrap();
    assert_eq!(view.leader_of(RANGE, at(2)), Some(NodeId(2)));
}

#[test]
fn epochs_never_go_back() {
    let mut view = View::new(at(0));
    view.connected(NODE, SessionId(1), at(0));
    let first = view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 3)]), at(1)).unwrap();
    assert_eq!(first.len(), 1);
    assert!(
        view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 2)]), at(1)).unwrap().is_empty()
    );
    assert_eq!(view.range(RANGE).unwrap().descriptor.epoch.conf_version, 3);
}

#[test]
fn a_leader_not_heard_from_is_no_leader() {
    let mut view = View::new(at(0));
    view.connected(NODE, SessionId(1), at(0));
    view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 1)]), at(1)).unwrap();
    assert_eq!(view.leader_of(RANGE, at(10)), Some(NODE));
    assert_eq!(view.leader_of(RANGE, at(11)), None);
    let lost = wire::Heartbeat { lost_leaderships: vec![RANGE.get()], ..Default::default() };
    view.heartbeat(NODE, SessionId(1), &lost, at(12)).unwrap();
    assert_eq!(view.leader_of(RANGE, at(12)), None);
}

#[test]
fn the_first_beat_of_a_stream_replaces_what_the_node_led() {
    let mut view = View::new(at(0));
    view.connected(NODE, SessionId(1), at(0));
    view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 1)]), at(1)).unwrap();
    view.connected(NODE, SessionId(2), at(2));
    // The end of the old stream, and its late beats, change nothing.
    view.disconnected(NODE, SessionId(1));
    assert!(view.is_connected(NODE));
    assert!(
        view.heartbeat(NODE, SessionId(1), &beat(vec![report(7, 1)]), at(2)).unwrap().is_empty()
    );
    view.heartbeat(NODE, SessionId(2), &beat(Vec::new()), at(2)).unwrap();
    assert_eq!(view.leader_of(RANGE, at(2)), None);
    view.disconnected(NODE, SessionId(2));
    assert!(!view.is_connected(NODE));
}

#[test]
fn a_malformed_beat_changes_nothing() {
    let mut view = View::new(at(0));
    view.connected(NODE, SessionId(1), at(0));
    let broken = wire::RangeReport::default();
    assert!(view.heartbeat(NODE, SessionId(1), &beat(vec![report(5, 1), broken]), at(1)).is_err());
    assert_eq!(view.range(RANGE), None);
}
