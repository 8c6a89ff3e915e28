//! Timestamps, metadata, settings and members, over leaders that come and go.

use crate::support::{Quorum, admin, code, eventually, listener, member_admin, soon};
use rangedb_placement_client::{LEADER_METADATA, PlacementRpc, TimestampClient};
use rangedb_proto::internal::v1::AllocateIdsRequest;
use rangedb_proto::v1;
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_never_go_back_over_leaders() {
    const CALLERS: usize = 8;
    let mut quorum = Quorum::start(3).await;
    let cancel = CancellationToken::new();
    // Two processes that know nothing of each other, and what was seen by anybody.
    let clients = [0, 1].map(|_| TimestampClient::start(quorum.client(), cancel.clone()));
    let largest = Arc::new(AtomicU64::new(0));
    let count = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|index| {
            let client = clients[index % 2].clone();
            let (largest, count, enough) = (largest.clone(), count.clone(), enough.clone());
            tokio::spawn(async move {
                while !enough.load(Ordering::SeqCst) {
                    let before = Timestamp(largest.load(Ordering::SeqCst));
                    let next = client.get(soon()).await.unwrap();
                    assert!(next > before, "{next} after {before} was seen");
                    largest.fetch_max(next.0, Ordering::SeqCst);
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..2 {
        let before = count.load(Ordering::SeqCst);
        eventually("progress", async || count.load(Ordering::SeqCst) > before + 200).await;
        let leader = quorum.leader().await;
        quorum.stop_member(leader).await;
        let before = count.load(Ordering::SeqCst);
        eventually("a next leader", async || count.load(Ordering::SeqCst) > before + 200).await;
        quorum.start_member(leader).await;
        quorum.ready().await;
    }
    enough.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    cancel.cancel();
    for client in clients {
        client.stopped().await;
    }
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_handed_out_once_also_after_a_restart() {
    let mut quorum = Quorum::start(1).await;
    let client = quorum.client();
    let allocate = |mut rpc: PlacementRpc| async move {
        rpc.allocate_ids(AllocateIdsRequest { count: 10 }).await
    };
    let first = client.call(allocate, soon()).await.unwrap().first;
    quorum.stop_member(1).await;
    quorum.start_member(1).await;
    let second = client.call(allocate, soon()).await.unwrap().first;
    assert!(second >= first + 10);
    let none = |mut rpc: PlacementRpc| async move {
        rpc.allocate_ids(AllocateIdsRequest { count: 0 }).await
    };
    assert_eq!(code(client.call(none, soon()).await), Code::InvalidArgument);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_versioned_and_checked() {
    let quorum = Quorum::start(1).await;
    let client = quorum.client();
    let set = |name: &str, value: &str, expected_version| v1::SetConfigRequest {
        name: name.to_owned(),
        value: value.to_owned(),
        expected_version,
    };
    let all = admin!(client, list_config, v1::ListConfigRequest {}).unwrap().settings;
    assert!(all.iter().all(|setting| setting.version == 0 && !setting.description.is_empty()));
    let changed = admin!(client, set_config, set("replication_factor", "4", 0)).unwrap();
    assert!(changed.version > 0 && changed.warning.contains("even"), "{changed:?}");
    let get = v1::GetConfigRequest { name: "replication_factor".to_owned() };
    let read = admin!(client, get_config, get).unwrap();
    assert_eq!((read.value.as_str(), read.version), ("4", changed.version));
    let stale = admin!(client, set_config, set("replication_factor", "3", changed.version + 1));
    assert_eq!(code(stale), Code::FailedPrecondition);
    let right = admin!(client, set_config, set("replication_factor", "3", changed.version));
    assert_eq!(right.unwrap().warning, "");
    let bad = admin!(client, set_config, set("replication_factor", "many", 0));
    assert_eq!(code(bad), Code::InvalidArgument);
    assert_eq!(code(admin!(client, set_config, set("colour", "red", 0))), Code::NotFound);
    let get = v1::GetConfigRequest { name: "colour".to_owned() };
    assert_eq!(code(admin!(client, get_config, get)), Code::NotFound);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_listed_and_watched() {
    let mut quorum = Quorum::start(1).await;
    let client = quorum.client();
    let request = v1::ListMetaRequest { prefix: "_/cluster/".to_owned(), ..Default::default() };
    let listed = admin!(client, list_meta, request.clone()).unwrap();
    assert!(!listed.entries.is_empty() && !listed.more);
    let page = v1::ListMetaRequest { limit: 1, ..request };
    let page = admin!(client, list_meta, page).unwrap();
    assert!(page.entries.len() == 1 && page.more);
    let rest = v1::ListMetaRequest { after: page.entries[0].key.clone(), ..Default::default() };
    assert_eq!(admin!(client, list_meta, rest).unwrap().entries[0], listed.entries[1]);
    let get = v1::GetMetaRequest { key: listed.entries[0].key.clone() };
    assert_eq!(admin!(client, get_meta, get).unwrap(), listed.entries[0]);
    let get = |key: &str| v1::GetMetaRequest { key: key.to_owned() };
    assert_eq!(code(admin!(client, get_meta, get("_/none"))), Code::NotFound);
    assert_eq!(code(admin!(client, get_meta, get("none"))), Code::InvalidArgument);

    let watch = |from_revision| v1::WatchMetaRequest {
        prefix: "_/cluster/config/".to_owned(),
        from_revision,
    };
    let mut now = admin!(client, watch_meta, watch(0)).unwrap();
    let set = |value: &str| v1::SetConfigRequest {
        name: "replication_factor".to_owned(),
        value: value.to_owned(),
        expected_version: 0,
    };
    let first = admin!(client, set_config, set("5")).unwrap().version;
    let second = admin!(client, set_config, set("7")).unwrap().version;
    let mut resumed = admin!(client, watch_meta, watch(second)).unwrap();
    for revision in [first, second] {
        let event = now.message().await.unwrap().unwrap();
        let entry = event.entry.unwrap();
        assert_eq!((entry.revision, event.deleted), (revision, false));
        assert_eq!(entry.key, "_/cluster/config/replication_factor");
    }
    assert_eq!(resumed.message().await.unwrap().unwrap().entry.unwrap().revision, second);
    // A restart forgets the history, not the entries.
    quorum.stop_member(1).await;
    let refusal = resumed.message().await.unwrap_err();
    assert!(refusal.metadata().contains_key(LEADER_METADATA), "{refusal}");
    quorum.start_member(1).await;
    assert_eq!(code(admin!(client, watch_meta, watch(first))), Code::OutOfRange);
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_answers() {
    let quorum = Quorum::start(3).await;
    let leader = quorum.leader().await;
    let address = quorum.addresses[&leader].clone();
    for (id, own) in &quorum.addresses {
        let mut rpc = member_admin(own).await;
        let answer = rpc.list_nodes(v1::ListNodesRequest {}).await;
        if *id == leader {
            answer.unwrap();
            continue;
        }
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert_eq!(refusal.metadata().get(LEADER_METADATA).unwrap(), address.as_str());
    }
    quorum.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut quorum = Quorum::start(1).await;
    let client = quorum.client();
    let newcomer = listener().local_addr().unwrap();
    let add = v1::AddPlacementRequest { id: 2, address: newcomer.to_string() };
    assert_eq!(code(admin!(client, add_placement, add.clone())), Code::FailedPrecondition);
    quorum.addresses.insert(2, newcomer.to_string());
    quorum.start_member(2).await;
    let members = admin!(client, add_placement, add).unwrap().members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
    quorum.ready().await;
    let remove = v1::RemovePlacementRequest { id: 2 };
    admin!(client, remove_placement, remove).unwrap();
    let remove = v1::RemovePlacementRequest { id: 9 };
    assert_eq!(code(admin!(client, remove_placement, remove)), Code::FailedPrecondition);
    let zero = v1::RemovePlacementRequest { id: 0 };
    assert_eq!(code(admin!(client, remove_placement, zero)), Code::InvalidArgument);
    eventually("one voter", async || {
        let members = admin!(client, list_placement, v1::ListPlacementRequest {}).unwrap().members;
        members.iter().filter(|member| member.role != "learner").count() == 1
    })
    .await;
    quorum.stop().await;
}
