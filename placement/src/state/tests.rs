//! The commands' meaning, and the replay property.

use super::*;
use proptest::prelude::*;
use rangedb_types::{Epoch, Replica, ReplicaId, ReplicaRole};

fn register(store: u128) -> Command {
    Command::RegisterNode {
        node_id: None,
        store_id: StoreId(store),
        address: format!("127.0.0.1:{store}"),
        locality: Locality { zone: "z1".to_owned(), ..Locality::default() },
        software_version: "0.1.0".to_owned(),
    }
}

fn node_id(response: &Response) -> NodeId {
    match response {
        Response::Node(node) => node.node_id,
        other => panic!("expected a node, got {other:?}"),
    }
}

fn range(id: u64, start: &str, end: &str, version: u64, conf_version: u64) -> RangeDescriptor {
    RangeDescriptor {
        range_id: RangeId(id),
        span: Span { start: start.into(), end: end.into() },
        epoch: Epoch { version, conf_version },
        replicas: vec![Replica {
            replica_id: ReplicaId(id + 1),
            node_id: NodeId(1),
            role: ReplicaRole::Voter,
        }],
    }
}

fn set(name: &str, value: &str, expected_version: u64) -> Command {
    Command::SetConfig { name: name.to_owned(), value: value.to_owned(), expected_version }
}

#[test]
fn a_cluster_has_one_id_for_ever() {
    let mut state = State::default();
    let (_, events) = state.apply(&Command::InitCluster { cluster_id: ClusterId(7) });
    assert_eq!((events.len(), events[0].key.as_str()), (1, "_/cluster/id"));
    let second = Command::InitCluster { cluster_id: ClusterId(8) };
    assert!(!state.would_change(&second));
    let (response, events) = state.apply(&second);
    assert_eq!(response, Response::Cluster { cluster_id: ClusterId(7) });
    assert!(events.is_empty() && state.revision() == 1);
}

#[test]
fn the_secret_stays_the_first() {
    let mut state = State::default();
    let key = |byte: &str| Command::SetTokenKey { key: byte.repeat(32) };
    let (_, events) = state.apply(&key("a1"));
    assert!(!state.would_change(&key("b2")));
    state.apply(&key("b2"));
    assert_eq!(state.token_key().map(String::as_str), Some("a1".repeat(32).as_str()));
    assert!(is_secret(&events[0].key));
    let stored = events.into_iter().map(|event| MetaEntry {
        key: event.key,
        value: event.value.unwrap(),
        revision: event.revision,
    });
    let restored = State::restore(1, stored).unwrap();
    assert_eq!(restored.token_key(), state.token_key());
}

#[test]
fn a_node_that_asks_twice_gets_one_id() {
    let mut state = State::default();
    let first = node_id(&state.apply(&register(11)).0);
    assert_eq!((first, node_id(&state.apply(&register(11)).0)), (NodeId(1), NodeId(1)));
    assert_eq!(node_id(&state.apply(&register(12)).0), NodeId(2));
    assert_eq!(state.revision(), 2);
}

#[test]
fn a_wiped_node_is_refused_under_its_old_id() {
    let mut state = State::default();
    state.apply(&register(11));
    let again = |node: u64, store: u128| match register(store) {
        Command::RegisterNode { address, locality, software_version, store_id, .. } => {
            Command::RegisterNode {
                node_id: Some(NodeId(node)),
                store_id,
                address,
                locality,
                software_version,
            }
        }
        other => other,
    };
    let (response, _) = state.apply(&again(1, 99));
    let known = StoreId(11);
    assert_eq!(
        response,
        Response::Rejected(Rejection::StoreMismatch { node_id: NodeId(1), known })
    );
    let (response, _) = state.apply(&again(5, 11));
    assert_eq!(response, Response::Rejected(Rejection::UnknownNode { node_id: NodeId(5) }));
    state.apply(&Command::SetNodeState { node_id: NodeId(1), state: NodeState::Removed });
    let (response, _) = state.apply(&again(1, 11));
    assert_eq!(response, Response::Rejected(Rejection::NodeRemoved { node_id: NodeId(1) }));
}

#[test]
fn ids_are_never_handed_out_twice() {
    let mut state = State::default();
    assert_eq!(state.apply(&Command::AllocateIds { count: 10 }).0, Response::Ids { first: 1 });
    state.apply(&register(1));
    let (response, _) = state.apply(&Command::BootstrapFirstRange { node_id: NodeId(1) });
    let Response::FirstRange { range, created: true } = response else { panic!("{response:?}") };
    assert_eq!((range.range_id, range.replicas[0].replica_id), (RangeId(11), ReplicaId(12)));
    assert_eq!(state.apply(&Command::AllocateIds { count: 1 }).0, Response::Ids { first: 13 });
    let (response, _) = state.apply(&Command::AllocateIds { count: IDS_PER_CALL_MAX + 1 });
    assert_eq!(response, Response::Rejected(Rejection::TooManyIds));
}

#[test]
fn the_first_range_is_made_once_however_many_nodes_ask() {
    let mut state = State::default();
    state.apply(&register(1));
    state.apply(&register(2));
    let (first, _) = state.apply(&Command::BootstrapFirstRange { node_id: NodeId(2) });
    let Response::FirstRange { range: made, created: true } = first else { panic!("{first:?}") };
    let (second, events) = state.apply(&Command::BootstrapFirstRange { node_id: NodeId(1) });
    assert_eq!(second, Response::FirstRange { range: made.clone(), created: false });
    assert!(events.is_empty());
    assert_eq!(made.replicas[0].node_id, NodeId(2));
}

#[test]
fn bootstrap_after_a_report_makes_no_second_range() {
    let mut state = State::default();
    state.apply(&register(1));
    state.apply(&Command::ReportRanges(vec![range(2, "", "", 1, 1)]));
    let (response, events) = state.apply(&Command::BootstrapFirstRange { node_id: NodeId(1) });
    assert!(matches!(response, Response::FirstRange { created: false, .. }) && events.is_empty());
}

#[test]
fn stale_and_repeated_reports_change_nothing() {
    let mut state = State::default();
    let split = vec![range(1, "", "m", 2, 1), range(3, "m", "", 2, 1)];
    state.apply(&Command::ReportRanges(vec![range(1, "", "", 1, 1)]));
    let (response, events) = state.apply(&Command::ReportRanges(split.clone()));
    assert_eq!((response, events.len()), (Response::Ranges { accepted: 2 }, 2));
    let revision = state.revision();
    for stale in [split, vec![range(1, "", "", 1, 9)], vec![range(3, "m", "", 2, 1)]] {
        let command = Command::ReportRanges(stale);
        assert!(!state.would_change(&command));
        assert_eq!(state.apply(&command).0, Response::Ranges { accepted: 0 });
    }
    // A merge: the left one's version rises above both.
    state.apply(&Command::ReportRanges(vec![range(1, "", "", 3, 1)]));
    assert_eq!((state.range_count(), state.range(RangeId(3))), (1, None));
    assert_eq!(state.revision(), revision + 1);
    // Bounds in the wrong order never get in.
    state.apply(&Command::ReportRanges(vec![range(9, "z", "a", 99, 1)]));
    assert_eq!(state.range(RangeId(9)), None);
}

#[test]
fn the_window_of_the_oracle_never_shrinks() {
    let mut state = State::default();
    state.apply(&Command::ExtendTimestamps { until: Timestamp(500) });
    let (response, events) = state.apply(&Command::ExtendTimestamps { until: Timestamp(400) });
    assert_eq!(response, Response::Timestamps { until: Timestamp(500) });
    assert!(events.is_empty());
}

#[test]
fn settings_are_versioned_and_checked() {
    let mut state = State::default();
    assert_eq!(state.replication_factor(), 3);
    assert_eq!(state.node_dead_after(), Duration::from_secs(300));
    state.apply(&register(1));
    let (response, _) = state.apply(&set("replication_factor", "4", 0));
    let Response::Config(view) = response else { panic!("{response:?}") };
    assert_eq!((view.value.as_str(), view.version), ("4", 2));
    assert!(!view.warning.is_empty());
    assert_eq!(state.replication_factor(), 4);
    let refused = |state: &mut State, command| match state.apply(&command).0 {
        Response::Rejected(rejection) => rejection.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&mut state, set("replication_factor", "5", 1)).contains("version 2, not 1"));
    assert!(refused(&mut state, set("no_such", "5", 0)).contains("replication_factor"));
    assert!(refused(&mut state, set("replication_factor", "x", 0)).contains("whole number"));
    assert!(refused(&mut state, set("range_merge_size", "200MiB", 0)).contains("half"));
    let (response, events) = state.apply(&set("replication_factor", " 4 ", 2));
    assert!(matches!(response, Response::Config(view) if view.version == 2) && events.is_empty());
}

#[test]
fn free_metadata_leaves_owned_keys_alone() {
    let mut state = State::default();
    let put = |key: &str, value: &str| Command::PutMeta { key: key.into(), value: value.into() };
    assert_eq!(state.apply(&put("_/notes/a", "{}")).0, Response::Done { revision: 1 });
    for key in ["_/cluster/id", "_/partitions/1", "notes", "_/"] {
        let (response, _) = state.apply(&put(key, "1"));
        assert!(matches!(response, Response::Rejected(Rejection::ReservedKey { .. })), "{key}");
    }
    let (response, _) = state.apply(&put("_/notes/b", "{"));
    assert!(matches!(response, Response::Rejected(Rejection::NotJson { .. })));
    let (response, _) = state.apply(&Command::DeleteMeta { key: "_/notes/a".to_owned() });
    assert_eq!(response, Response::Done { revision: 2 });
    assert_eq!(state.meta("_/notes/a"), None);
}

fn transfer(range: u64, to: u64) -> Wish {
    Wish { range_id: RangeId(range), goal: Goal::TransferLeader { to: NodeId(to) } }
}

#[test]
fn a_range_has_one_wish_at_a_time() {
    let mut state = State::default();
    let unknown = state.apply(&Command::AddWishes(vec![transfer(1, 2)])).0;
    assert!(matches!(unknown, Response::Rejected(Rejection::UnknownRange { .. })), "{unknown:?}");
    state.apply(&Command::ReportRanges(vec![range(1, "", "m", 1, 1), range(3, "m", "", 1, 1)]));
    state.apply(&Command::AddWishes(vec![transfer(1, 2)]));
    assert_eq!(state.wish(RangeId(1)), Some(&transfer(1, 2)));
    assert!(!state.would_change(&Command::AddWishes(vec![transfer(1, 2)])), "the same one");
    // All or nothing, and the first one is named.
    let (refused, _) = state.apply(&Command::AddWishes(vec![transfer(3, 2), transfer(1, 5)]));
    let Response::Rejected(rejection) = refused else { panic!("{refused:?}") };
    assert!(rejection.to_string().contains("to node 2"), "{rejection}");
    assert_eq!(state.wishes().count(), 1);
    let put = Command::PutMeta { key: "_/operators/1".to_owned(), value: "1".to_owned() };
    let (refused, _) = state.apply(&put);
    assert!(matches!(refused, Response::Rejected(Rejection::ReservedKey { .. })), "{refused:?}");
    let restored = State::from_snapshot(&state.to_snapshot()).unwrap();
    assert_eq!(restored.wish(RangeId(1)), Some(&transfer(1, 2)));
    assert!(!state.would_change(&Command::EndWishes(vec![transfer(1, 5)])), "not that one");
    state.apply(&Command::EndWishes(vec![transfer(1, 2)]));
    assert_eq!((state.wishes().count(), state.meta("_/operators/1")), (0, None));
}

#[test]
fn a_node_with_replicas_is_not_removed() {
    let mut state = State::default();
    state.apply(&register(1));
    state.apply(&Command::ReportRanges(vec![range(1, "", "", 1, 1)]));
    let remove = Command::SetNodeState { node_id: NodeId(1), state: NodeState::Removed };
    let (refused, _) = state.apply(&remove);
    assert!(
        matches!(refused, Response::Rejected(Rejection::NodeHoldsReplicas { ranges: 1, .. })),
        "{refused:?}"
    );
}

fn any_command() -> impl Strategy<Value = Command> {
    let key = prop_oneof![Just(""), Just("b"), Just("c"), Just("d")];
    let descriptor = (1..5u64, key.clone(), key, 1..4u64, 1..4u64)
        .prop_map(|(id, start, end, version, conf)| range(id, start, end, version, conf));
    prop_oneof![
        (1..4u128).prop_map(|id| Command::InitCluster { cluster_id: ClusterId(id) }),
        (0..5_u64, 0..99_u64, 0..99_u64).prop_map(|(hold_id, version, now)| {
            let (version, expires) = (Timestamp(version), Timestamp(now + 20));
            let hold = Hold { hold_id, version, expires, what: String::new() };
            Command::PutHold { hold, now: Timestamp(now) }
        }),
        (0..5_u64).prop_map(|hold_id| Command::EndHold { hold_id }),
        "[0-9a-f]{64}".prop_map(|key| Command::SetTokenKey { key }),
        (1..5u128).prop_map(register),
        (0..5u32).prop_map(|count| Command::AllocateIds { count }),
        (1..4u64).prop_map(|id| Command::BootstrapFirstRange { node_id: NodeId(id) }),
        prop::collection::vec(descriptor, 0..4).prop_map(Command::ReportRanges),
        (0..9u64).prop_map(|until| Command::ExtendTimestamps { until: Timestamp(until) }),
        (0..12u64, 0..9u64).prop_map(|(factor, version)| set(
            "replication_factor",
            &factor.to_string(),
            version
        )),
        (0..3u64)
            .prop_map(|n| Command::PutMeta { key: format!("_/notes/{n}"), value: n.to_string() }),
        (0..3u64).prop_map(|n| Command::DeleteMeta { key: format!("_/notes/{n}") }),
        (1..4u64).prop_map(|id| Command::SetPlacementMember {
            id: PlacementId(id),
            store_id: StoreId(9),
            address: "a:1".to_owned(),
        }),
        (1..4u64).prop_map(|id| Command::RemovePlacementMember { id: PlacementId(id) }),
        (1..4u64).prop_map(|id| Command::SetNodeState {
            node_id: NodeId(id),
            state: NodeState::Draining
        }),
        (1..4u64, 1..3u64).prop_map(|(range, to)| Command::AddWishes(vec![transfer(range, to)])),
        (1..4u64, 1..3u64).prop_map(|(range, to)| Command::EndWishes(vec![transfer(range, to)])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replay_gives_the_same_bytes(
        commands in prop::collection::vec(any_command(), 0..60),
        cut in 0..60usize,
    ) {
        let mut straight = State::default();
        let mut interrupted = State::default();
        for (at, command) in commands.iter().enumerate() {
            if at == cut {
                // A member that restarted, or was given a snapshot, goes on alike.
                interrupted = State::from_snapshot(&interrupted.to_snapshot()).unwrap();
            }
            // The log holds commands as JSON.
            let json = serde_json::to_vec(command).unwrap();
            let command: Command = serde_json::from_slice(&json).unwrap();
            let before = straight.revision();
            let would_change = straight.would_change(&command);
            let (response, events) = straight.apply(&command);
            prop_assert_eq!(would_change, !events.is_empty());
            prop_assert_eq!(straight.revision(), before + u64::from(would_change));
            prop_assert_eq!(&interrupted.apply(&command), &(response, events));
        }
        prop_assert_eq!(straight.to_snapshot(), interrupted.to_snapshot());
    }

    #[test]
    fn ranges_never_overlap(commands in prop::collection::vec(any_command(), 0..60)) {
        let mut state = State::default();
        for command in &commands {
            state.apply(command);
        }
        let all = Span::all();
        let ranges: Vec<_> = state.ranges_overlapping(&all).collect();
        prop_assert_eq!(ranges.len(), state.range_count());
        for pair in ranges.windows(2) {
            prop_assert!(!pair[0].span.overlaps(&pair[1].span));
        }
    }
}
