//! Storage nodes and their streams: registration, the first range, growth, settings, liveness.

use crate::support::{
    FakeNode, Quorum, admin, bootstrap_of, carry_out, change_of, eventually, registration, soon,
};
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::v1;
use rangedb_types::{Epoch, RangeDescriptor, ReplicaRole, Span};
use std::time::Duration;
use tonic::Code;

/// Long enough that a command which must not come would have come.
const QUIET: Duration = Duration::from_millis(1_500);

async fn routes(client: &PlacementClient) -> Vec<wire::Route> {
    let lookup = |mut rpc: PlacementRpc| async move {
        rpc.lookup_ranges(wire::LookupRangesRequest::default()).await
    };
    client.call(lookup, soon()).await.unwrap().routes
}

async fn status(client: &PlacementClient) -> v1::ClusterStatusResponse {
    admin!(client, cluster_status, v1::ClusterStatusRequest {}).unwrap()
}

/// A single member with one node that leads the first range.
async fn with_first_range() -> (Quorum, FakeNode, RangeDescriptor) {
    let quorum = Quorum::start(1).await;
    let client = quorum.client();
    let mut node = FakeNode::register(&client, registration(1)).await.unwrap();
    let range = node.wait_for(bootstrap_of).await;
    node.report(&range, 5).await;
    eventually("a leader of the range", async || {
        routes(&client).await.iter().any(|route| route.leader_replica_id != 0)
    })
    .await;
    (quorum, node, range)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_id_and_a_wiped_one_is_refused() {
    let quorum = Quorum::start(1).await;
    let client = quorum.client();
    let first = FakeNode::register(&client, registration(1)).await.unwrap();
    let second = FakeNode::register(&client, registration(2)).await.unwrap();
    assert_ne!(first.node_id, second.node_id);
    // The answer to its first registration was lost: it does not know its id yet.
    let again = FakeNode::register(&client, registration(1)).await.unwrap();
    assert_eq!(again.node_id, first.node_id);
    let known = |request: wire::RegisterNode| wire::RegisterNode {
        cluster_id: first.cluster_id.clone(),
        node_id: first.node_id,
        ..request
    };
    let restarted = FakeNode::register(&client, known(registration(1))).await.unwrap();
    assert_eq!(restarted.node_id, first.node_id);

    let wiped = FakeNode::register(&client, known(registration(9))).await.err().unwrap();
    assert_eq!(wiped.code(), Code::FailedPrecondition);
    assert!(wiped.message().contains("lost its data"), "{wiped}");
    let foreign = wire::RegisterNode { cluster_id: "ab".repeat(16), ..known(registration(1)) };
    let foreign = FakeNode::register(&client, foreign).await.err().unwrap();
    assert_eq!(foreign.code(), Code::FailedPrecondition);
    assert!(foreign.message().contains("--placement"), "{foreign}");
    let unknown = wire::RegisterNode { node_id: 77, ..known(registration(3)) };
    let unknown = FakeNode::register(&client, unknown).await.err().unwrap();
    assert_eq!(unknown.code(), Code::FailedPrecondition);
    let broken = wire::RegisterNode { store_id: "x".to_owned(), ..registration(4) };
    let broken = FakeNode::register(&client, broken).await.err().unwrap();
    assert_eq!(broken.code(), Code::InvalidArgument);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_range_is_made_once_however_many_nodes_come_at_once() {
    let quorum = Quorum::start(3).await;
    let client = quorum.client();
    let nodes = (1..=5).map(|store| FakeNode::register(&client, registration(store)));
    let mut nodes: Vec<_> =
        futures::future::join_all(nodes).await.into_iter().map(Result::unwrap).collect();
    let mut ids: Vec<_> = nodes.iter().map(|node| node.node_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let told = nodes.iter_mut().map(|node| node.gets(2 * QUIET, |c| bootstrap_of(c).is_some()));
    let told = futures::future::join_all(told).await;
    assert_eq!(told.iter().filter(|told| **told).count(), 1);
    let routes = routes(&client).await;
    assert_eq!(routes.len(), 1);
    // It is told again until its beat shows the range.
    let chosen = told.iter().position(|told| *told).unwrap();
    let range = nodes[chosen].wait_for(bootstrap_of).await;
    assert_eq!(range.span, Span::all());
    assert_eq!(range.epoch, Epoch { version: 1, conf_version: 1 });
    assert_eq!(range.replicas[0].node_id.get(), nodes[chosen].node_id);
    nodes[chosen].report(&range, 5).await;
    eventually("the range's leader is known", async || {
        status(&client).await.pending.iter().all(|pending| !pending.why.contains("no leader"))
    })
    .await;
    // A few may have been on their way.
    let mut late = 0;
    while nodes[chosen].gets(2 * QUIET, |c| bootstrap_of(c).is_some()).await {
        late += 1;
        assert!(late < 4, "it is told again and again although its beat shows the range");
    }
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_grows_to_three_voters_as_nodes_join() {
    let (quorum, mut leader, mut range) = with_first_range().await;
    let client = quorum.client();
    let shortage = format!("range {} wants 3 replicas, 1 node is up", range.range_id);
    eventually("the reason", async || {
        status(&client).await.pending.iter().any(|pending| pending.why == shortage)
    })
    .await;
    let _second = FakeNode::register(&client, registration(2)).await.unwrap();
    let change = leader.wait_for(change_of).await;
    carry_out(&mut range, &change);
    assert_eq!(range.replicas[1].role, ReplicaRole::Learner);
    leader.report(&range, 5).await;
    // Two voters would be no better than one.
    assert!(!leader.gets(QUIET, |c| change_of(c).is_some()).await);
    let _third = FakeNode::register(&client, registration(3)).await.unwrap();
    let mut steps = 0;
    while range.with_role(ReplicaRole::Voter).count() < 3 {
        let change = leader.wait_for(change_of).await;
        carry_out(&mut range, &change);
        leader.report(&range, 5).await;
        steps += 1;
    }
    // A learner, one joint change for both, and out of it.
    assert_eq!(steps, 3);
    assert!(!leader.gets(QUIET, |c| change_of(c).is_some()).await, "converged, and still");
    eventually("the map knows the new replicas", async || {
        let request = v1::ListRangesRequest::default();
        let ranges = admin!(client, list_ranges, request).unwrap().ranges;
        ranges[0].conf_version == range.epoch.conf_version
    })
    .await;
    let ranges = admin!(client, list_ranges, v1::ListRangesRequest::default()).unwrap();
    assert!(!ranges.more);
    assert_eq!(ranges.ranges[0].leader_node_id, leader.node_id);
    assert_eq!(ranges.ranges[0].size_bytes, 4_096);
    assert!(ranges.ranges[0].replicas.iter().all(|replica| replica.role == "voter"));
    let done = async || {
        let status = status(&client).await;
        status.operators.is_empty() && status.pending.is_empty()
    };
    eventually("an empty list of work", done).await;
    let status = status(&client).await;
    assert_eq!((status.ranges, status.nodes.len(), status.placement.len()), (1, 3, 1));
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_effect_is_sent_again_and_is_the_same() {
    let (quorum, mut leader, range) = with_first_range().await;
    let _second = FakeNode::register(&quorum.client(), registration(2)).await.unwrap();
    let first = leader.wait_for(change_of).await;
    leader.report(&range, 5).await;
    let second = leader.wait_for(change_of).await;
    assert_eq!(first, second);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_addresses_reach_nodes_at_once() {
    let quorum = Quorum::start(1).await;
    let client = quorum.client();
    let mut node = FakeNode::register(&client, registration(1)).await.unwrap();
    let config = |command: &Command| match command {
        Command::Config(config) => Some(config.clone()),
        _ => None,
    };
    let nodes = |command: &Command| match command {
        Command::Nodes(nodes) => Some(nodes.clone()),
        _ => None,
    };
    assert_eq!(node.wait_for(config).await.settings["replication_factor"], "3");
    assert_eq!(node.wait_for(nodes).await.nodes.len(), 1);
    let change = v1::SetConfigRequest {
        name: "replication_factor".to_owned(),
        value: "5".to_owned(),
        expected_version: 0,
    };
    admin!(client, set_config, change).unwrap();
    assert_eq!(node.wait_for(config).await.settings["replication_factor"], "5");
    let watch =
        |mut rpc: PlacementRpc| async move { rpc.watch_nodes(wire::WatchNodesRequest {}).await };
    let mut watch = client.call(watch, soon()).await.unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().nodes.len(), 1);
    let second = FakeNode::register(&client, registration(2)).await.unwrap();
    for told in [node.wait_for(nodes).await, watch.message().await.unwrap().unwrap()] {
        assert_eq!(told.nodes.len(), 2);
        assert!(told.nodes.iter().any(|node| node.node_id == second.node_id));
    }
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_suspect_then_down_and_its_range_leaderless() {
    let (quorum, leader, _range) = with_first_range().await;
    let client = quorum.client();
    let change = v1::SetConfigRequest {
        name: "node_dead_after".to_owned(),
        value: "10s".to_owned(),
        expected_version: 0,
    };
    admin!(client, set_config, change).unwrap();
    let state = async || {
        let nodes = admin!(client, list_nodes, v1::ListNodesRequest {}).unwrap().nodes;
        nodes[0].state.clone()
    };
    leader.beat(wire::Heartbeat::default()).await;
    eventually("up", async || state().await == "up").await;
    drop(leader);
    eventually("suspect", async || state().await == "suspect").await;
    eventually("down", async || state().await == "down").await;
    eventually("no leader", async || {
        let request = v1::ListRangesRequest::default();
        admin!(client, list_ranges, request).unwrap().ranges[0].leader_node_id == 0
    })
    .await;
    assert_eq!(routes(&client).await[0].leader_replica_id, 0);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_reaches_those_who_watch_ranges() {
    let (quorum, leader, range) = with_first_range().await;
    let client = quorum.client();
    let watch = async |after_revision| {
        let open = |mut rpc: PlacementRpc| async move {
            rpc.watch_ranges(wire::WatchRangesRequest { after_revision }).await
        };
        client.call(open, soon()).await.unwrap()
    };
    let mut changes = watch(0).await;
    let first = changes.message().await.unwrap().unwrap();
    assert!(
        first.routes.is_empty() && first.revision > 0,
        "only what comes from now on: {first:?}"
    );

    let mut left = range.clone();
    left.epoch.version += 1;
    left.span.end = b"m".to_vec();
    let mut right = left.clone();
    right.range_id.0 += 1_000;
    right.span = Span { start: b"m".to_vec(), end: Vec::new() };
    for replica in &mut right.replicas {
        replica.replica_id.0 += 1_000;
    }
    leader.report(&left, 5).await;
    leader.report(&right, 5).await;
    let mut told = std::collections::BTreeMap::new();
    while told.len() < 2 {
        for route in changes.message().await.unwrap().unwrap().routes {
            let range = route.range.unwrap();
            told.insert(range.start.clone(), (range.range_id, route.leader_replica_id));
        }
    }
    let expected = [&left, &right].map(|range| {
        let leader = range.replicas[0].replica_id.get();
        (range.span.start.clone().into(), (range.range_id.get(), leader))
    });
    assert_eq!(told, expected.into());
    let again = watch(first.revision).await.message().await.unwrap().unwrap();
    assert_eq!(again.routes.len(), 2, "a watch that broke misses nothing");
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_does_not_grow_placements_log() {
    let (quorum, leader, range) = with_first_range().await;
    let client = quorum.client();
    let revision =
        async || admin!(client, list_meta, v1::ListMetaRequest::default()).unwrap().revision;
    let before = revision().await;
    for _ in 0..20 {
        leader.report(&range, 5).await;
    }
    assert_eq!(revision().await, before);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_next_leader_when_their_member_stops_leading() {
    let mut quorum = Quorum::start(3).await;
    let client = quorum.client();
    let mut node = FakeNode::register(&client, registration(1)).await.unwrap();
    let range = node.wait_for(bootstrap_of).await;
    node.report(&range, 5).await;
    let old = quorum.leader().await;
    quorum.stop_member(old).await;
    let refusal = node.end().await;
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert!(refusal.metadata().contains_key("rangedb-placement-leader"));
    client.leader_failed();
    let request = wire::RegisterNode {
        cluster_id: node.cluster_id.clone(),
        node_id: node.node_id,
        ..registration(1)
    };
    let again = FakeNode::register(&client, request).await.unwrap();
    assert_eq!(again.node_id, node.node_id);
    // The map was kept; who leads is told anew.
    assert_eq!(routes(&client).await.len(), 1);
    again.report(&range, 5).await;
    eventually("the leader", async || routes(&client).await[0].leader_replica_id != 0).await;
    quorum.stop().await;
}
