//! Commands given by hand: carried out step by step, kept over placement's leaders, checked first.

use crate::support::{
    FakeNode, Quorum, admin, bootstrap_of, carry_out, change_of, code, eventually, registration,
    soon,
};
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::v1;
use rangedb_proto::v1::split_range_request::At;
use rangedb_proto::v1::wish_status::State;
use rangedb_types::{RangeDescriptor, Replica, ReplicaId, ReplicaRole};
use tonic::Code;

/// A cluster of nodes, the first of which leads a range with replicas on the first `replicas` ones.
struct Scene {
    quorum: Quorum,
    nodes: Vec<FakeNode>,
    range: RangeDescriptor,
}

impl Scene {
    async fn start(members: u64, nodes: u128, replicas: usize) -> Self {
        let quorum = Quorum::start(members).await;
        let client = quorum.client();
        let change = v1::SetConfigRequest {
            name: "replication_factor".to_owned(),
            value: replicas.to_string(),
            expected_version: 0,
        };
        admin!(client, set_config, change).unwrap();
        let mut first = FakeNode::register(&client, registration(1)).await.unwrap();
        let mut range = first.wait_for(bootstrap_of).await;
        let mut all = vec![first];
        for store in 2..=nodes {
            all.push(FakeNode::register(&client, registration(store)).await.unwrap());
        }
        // Ids only grow: a replica that comes is told from one that goes by that.
        let count = u32::try_from(replicas).unwrap();
        let allocate = |mut rpc: PlacementRpc| async move {
            rpc.allocate_ids(wire::AllocateIdsRequest { count }).await
        };
        let ids = client.call(allocate, soon()).await.unwrap().first..;
        for (node, id) in all[1..replicas].iter().zip(ids) {
            let node_id = rangedb_types::NodeId(node.node_id);
            let replica_id = ReplicaId(id);
            range.replicas.push(Replica { replica_id, node_id, role: ReplicaRole::Voter });
        }
        range.epoch.conf_version += 1;
        all[0].report(&range, 5).await;
        let scene = Self { quorum, nodes: all, range };
        scene.seen(&client).await;
        scene
    }

    /// Waits until placement knows the range as it is.
    async fn seen(&self, client: &PlacementClient) {
        eventually("the map follows", async || {
            let shown = self.shown(client).await;
            shown.conf_version == self.range.epoch.conf_version && shown.leader_node_id != 0
        })
        .await;
    }

    async fn shown(&self, client: &PlacementClient) -> v1::RangeStatus {
        let request = v1::GetRangeRequest { range_id: self.range.range_id.get() };
        admin!(client, get_range, request).unwrap().range.unwrap()
    }

    async fn wish(&self, client: &PlacementClient) -> Option<v1::WishStatus> {
        let request = v1::GetRangeRequest { range_id: self.range.range_id.get() };
        admin!(client, get_range, request).unwrap().wish
    }

    async fn wish_is(&self, client: &PlacementClient, state: State) {
        eventually("the end of the command", async || {
            self.wish(client).await.is_some_and(|wish| wish.state() == state)
        })
        .await;
    }

    fn split_at(&self, key: &'static str) -> v1::SplitRangeRequest {
        v1::SplitRangeRequest {
            range_id: self.range.range_id.get(),
            at: Some(At::AtKey(key.into())),
            ..v1::SplitRangeRequest::default()
        }
    }

    fn move_to(&self, from: u64, to: u64) -> v1::MoveReplicaRequest {
        v1::MoveReplicaRequest {
            range_id: self.range.range_id.get(),
            from_node_id: from,
            to_node_id: to,
            dry_run: false,
        }
    }

    fn transfer_to(&self, to: u64) -> v1::TransferLeaderRequest {
        let range_id = self.range.range_id.get();
        v1::TransferLeaderRequest { range_id, to_node_id: to, dry_run: false }
    }
}

fn split_of(command: &Command) -> Option<wire::SplitRange> {
    match command {
        Command::SplitRange(split) => Some(split.clone()),
        _ => None,
    }
}

fn transfer_of(command: &Command) -> Option<wire::TransferLeader> {
    match command {
        Command::TransferLeader(transfer) => Some(*transfer),
        _ => None,
    }
}

/// Both halves, as the split's leader would report them.
fn halves(range: &RangeDescriptor, split: &wire::SplitRange) -> [RangeDescriptor; 2] {
    let Some(wire::split_range::At::Key(key)) = &split.at else { panic!("a split at a key") };
    let (mut left, mut right) = (range.clone(), range.clone());
    left.span.end = key.to_vec();
    right.span.start = key.to_vec();
    left.epoch.version += 1;
    right.epoch.version += 1;
    right.range_id = split.new_range_id.into();
    for (replica, id) in right.replicas.iter_mut().zip(&split.new_replica_ids) {
        replica.replica_id = ReplicaId(*id);
    }
    [left, right]
}

async fn refused<T: std::fmt::Debug>(
    result: Result<T, rangedb_placement_client::PlacementError>,
    wanted: Code,
    words: &str,
) {
    let error = result.expect_err("refused");
    let status = error.refusal().expect("by the leader");
    assert_eq!(status.code(), wanted, "{status:?}");
    assert!(status.message().contains(words), "`{words}` is not in: {}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_by_hand_is_sent_with_ids_and_outlives_placements_leader() {
    let mut scene = Scene::start(3, 1, 1).await;
    let client = scene.quorum.client();
    let plan = v1::SplitRangeRequest { dry_run: true, ..scene.split_at("m") };
    let plan = admin!(client, split_range, plan).unwrap();
    assert_eq!((plan.range_id, plan.version), (scene.range.range_id.get(), 1));
    assert!(plan.steps[0].contains('m'), "{:?}", plan.steps);
    assert_eq!(scene.wish(&client).await, None, "only a rehearsal");

    admin!(client, split_range, scene.split_at("m")).unwrap();
    let split = scene.nodes[0].wait_for(split_of).await;
    assert_eq!(split.epoch, Some(scene.range.epoch.into()));
    assert_eq!(split.new_replica_ids.len(), 1);
    admin!(client, split_range, scene.split_at("m")).expect("the same command again");
    let other = admin!(client, split_range, scene.split_at("t"));
    refused(other, Code::FailedPrecondition, "at m").await;
    let status = admin!(client, cluster_status, v1::ClusterStatusRequest {}).unwrap();
    assert!(status.operators.iter().any(|work| work.why.contains("by hand")), "{status:?}");

    let leader = scene.quorum.leader().await;
    scene.quorum.stop_member(leader).await;
    client.leader_failed();
    let again = wire::RegisterNode {
        cluster_id: scene.nodes[0].cluster_id.clone(),
        node_id: scene.nodes[0].node_id,
        ..registration(1)
    };
    scene.nodes[0] = FakeNode::register(&client, again).await.unwrap();
    scene.nodes[0].report(&scene.range, 5).await;
    let split = scene.nodes[0].wait_for(split_of).await;
    for half in halves(&scene.range, &split) {
        scene.nodes[0].report(&half, 5).await;
    }
    scene.wish_is(&client, State::Done).await;
    let listed = admin!(client, list_ranges, v1::ListRangesRequest::default()).unwrap();
    assert_eq!(listed.ranges.len(), 2);
    let meta = v1::GetMetaRequest { key: format!("_/operators/{}", scene.range.range_id) };
    assert_eq!(code(admin!(client, get_meta, meta)), Code::NotFound);
    scene.quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_by_hand_goes_through_its_steps() {
    let mut scene = Scene::start(1, 4, 3).await;
    let client = scene.quorum.client();
    let ids: Vec<_> = scene.nodes.iter().map(|node| node.node_id).collect();
    admin!(client, move_replica, scene.move_to(ids[1], ids[3])).unwrap();
    for _ in 0..4 {
        let change = scene.nodes[0].wait_for(change_of).await;
        carry_out(&mut scene.range, &change);
        scene.nodes[0].report(&scene.range, 5).await;
    }
    scene.wish_is(&client, State::Done).await;
    let mut nodes: Vec<_> =
        scene.range.replicas.iter().map(|replica| replica.node_id.get()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [ids[0], ids[2], ids[3]]);
    assert!(scene.range.replicas.iter().all(|replica| replica.role == ReplicaRole::Voter));

    admin!(client, transfer_leader, scene.transfer_to(ids[2])).unwrap();
    let transfer = scene.nodes[0].wait_for(transfer_of).await;
    let to = scene.range.replica_on(rangedb_types::NodeId(ids[2])).unwrap();
    assert_eq!(transfer.to_replica_id, to.replica_id.get());
    scene.nodes[2].report(&scene.range, 6).await;
    scene.wish_is(&client, State::Done).await;
    let done = admin!(client, transfer_leader, scene.transfer_to(ids[2])).unwrap();
    assert!(done.steps.is_empty(), "it leads already");
    scene.quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_commands_for_ranges_are_refused_and_start_nothing() {
    let mut scene = Scene::start(1, 4, 3).await;
    let client = scene.quorum.client();
    let (invalid, missing, unmet) =
        (Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition);
    let ids: Vec<_> = scene.nodes.iter().map(|node| node.node_id).collect();
    let id = scene.range.range_id.get();

    let split = async |request: v1::SplitRangeRequest, code, words| {
        refused(admin!(client, split_range, request), code, words).await;
    };
    split(scene.split_at(""), invalid, "1 to").await;
    split(scene.split_at("_/cluster"), Code::PermissionDenied, "system").await;
    let unknown = v1::SplitRangeRequest { range_id: 99, ..scene.split_at("m") };
    split(unknown, missing, "range 99").await;
    split(v1::SplitRangeRequest::default(), invalid, "one of its keys").await;
    let load = v1::SplitRangeRequest { at: Some(At::By(1)), ..scene.split_at("") };
    split(load, unmet, "load").await;
    let odd = v1::SplitRangeRequest { at: Some(At::By(7)), ..scene.split_at("") };
    split(odd, invalid, "neither").await;

    let merge = v1::MergeRangeRequest { range_id: id, ..v1::MergeRangeRequest::default() };
    refused(admin!(client, merge_range, merge), unmet, "last").await;

    let move_ = async |from, to, code, words| {
        refused(admin!(client, move_replica, scene.move_to(from, to)), code, words).await;
    };
    move_(ids[0], 99, missing, "node 99").await;
    move_(99, ids[3], missing, "node 99").await;
    move_(ids[3], ids[3], unmet, "no replica").await;
    move_(ids[0], ids[1], unmet, "already").await;
    refused(admin!(client, transfer_leader, scene.transfer_to(ids[3])), unmet, "no replica").await;
    refused(admin!(client, transfer_leader, scene.transfer_to(99)), missing, "node 99").await;
    let scatter = v1::ScatterRangesRequest {
        start: "b".into(),
        end: "a".into(),
        ..v1::ScatterRangesRequest::default()
    };
    refused(admin!(client, scatter_ranges, scatter), invalid, "smaller").await;
    let unknown = v1::GetRangeRequest { range_id: 99 };
    refused(admin!(client, get_range, unknown), missing, "range 99").await;

    // The bounds of a range are no keys to split it at.
    admin!(client, split_range, scene.split_at("m")).unwrap();
    let order = scene.nodes[0].wait_for(split_of).await;
    let [left, right] = halves(&scene.range, &order);
    for half in [&left, &right] {
        scene.nodes[0].report(half, 5).await;
    }
    scene.wish_is(&client, State::Done).await;
    split(scene.split_at("m"), invalid, "bound").await;
    split(scene.split_at("z"), invalid, "not in range").await;
    let right_id = right.range_id.get();
    let at_start = v1::SplitRangeRequest { range_id: right_id, ..scene.split_at("m") };
    split(at_start, invalid, "bound").await;
    let no_neighbours =
        v1::MergeRangeRequest { range_id: id, right_range_id: id, ..Default::default() };
    refused(admin!(client, merge_range, no_neighbours), unmet, "not the right neighbour").await;
    let by_hand = scene.wish(&client).await.unwrap();
    assert_eq!(by_hand.state(), State::Done, "nothing was begun since");
    scene.quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_removed() {
    let mut scene = Scene::start(1, 4, 3).await;
    let client = scene.quorum.client();
    let ids: Vec<_> = scene.nodes.iter().map(|node| node.node_id).collect();
    let drain = |node_id| v1::DrainNodeRequest { node_id, dry_run: false };
    let remove = |node_id| v1::RemoveNodeRequest { node_id, dry_run: false };
    let state = async |node_id| {
        let nodes = admin!(client, list_nodes, v1::ListNodesRequest {}).unwrap().nodes;
        nodes.iter().find(|node| node.node_id == node_id).map(|node| node.state.clone())
    };
    let unmet = Code::FailedPrecondition;
    refused(admin!(client, drain_node, drain(99)), Code::NotFound, "node 99").await;
    refused(admin!(client, remove_node, remove(99)), Code::NotFound, "node 99").await;
    refused(admin!(client, remove_node, remove(ids[1])), unmet, "still holds 1 replica;").await;
    refused(admin!(client, remove_node, remove(ids[3])), unmet, "drain it first").await;

    // One that holds nothing is drained at once; then no other one can be.
    admin!(client, drain_node, drain(ids[3])).unwrap();
    eventually("drained", async || state(ids[3]).await.as_deref() == Some("drained")).await;
    refused(admin!(client, drain_node, drain(ids[1])), unmet, "add 1 more").await;
    let undrain = v1::UndrainNodeRequest { node_id: ids[3], dry_run: false };
    admin!(client, undrain_node, undrain).unwrap();
    assert_eq!(state(ids[3]).await.as_deref(), Some("up"));

    let rehearsal = v1::DrainNodeRequest { node_id: ids[1], dry_run: true };
    let plan = admin!(client, drain_node, rehearsal).unwrap();
    assert_eq!((plan.replicas_left, plan.steps.len()), (1, 4));
    assert_eq!(state(ids[1]).await.as_deref(), Some("up"));
    admin!(client, drain_node, drain(ids[1])).unwrap();
    while scene.range.replica_on(rangedb_types::NodeId(ids[1])).is_some() {
        let change = scene.nodes[0].wait_for(change_of).await;
        carry_out(&mut scene.range, &change);
        scene.nodes[0].report(&scene.range, 5).await;
    }
    eventually("drained", async || state(ids[1]).await.as_deref() == Some("drained")).await;
    let nothing = admin!(client, drain_node, drain(ids[1])).unwrap();
    assert_eq!((nothing.replicas_left, nothing.steps.len()), (0, 0));
    admin!(client, remove_node, remove(ids[1])).unwrap();
    assert_eq!(state(ids[1]).await, None);
    scene.nodes[1].end().await;
    let again = wire::RegisterNode {
        cluster_id: scene.nodes[1].cluster_id.clone(),
        node_id: ids[1],
        ..registration(2)
    };
    let again = FakeNode::register(&client, again).await.err().unwrap();
    assert!(again.message().contains("removed"), "{again}");
    scene.quorum.stop().await;
}
