//! Finding the right range and node.

use crate::fake::{Fake, client, until};
use futures::future::join_all;
use rangedb_proto::internal::v1::node_error::{Kind, NotReady};
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_mismatch_teaches_the_new_ranges() {
    let fake = Fake::start(3).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    client.put("k", "1").await.unwrap();
    let lookups = fake.store.lookups.load(Ordering::SeqCst);
    fake.store.split(&["h", "p"]);
    for key in ["a", "k", "z"] {
        client.put(key, "2").await.unwrap();
        assert_eq!(client.get(key).await.unwrap().unwrap().value, "2");
    }
    assert_eq!(
        fake.store.lookups.load(Ordering::SeqCst),
        lookups,
        "the refusal carried all descriptors, so placement was not asked"
    );
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_that_placement_tells_of_costs_no_request() {
    let fake = Fake::start(3).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    client.put("k", "1").await.unwrap();
    let told = || {
        let families = prometheus::gather();
        let told = families.iter().find(|f| f.get_name() == "rangedb_gateway_routes_told_total");
        told.map_or(0.0, |family| family.get_metric()[0].get_counter().get_value())
    };
    let before = told();
    until("the watch is open", async || fake.store.changes.receiver_count() > 0).await;
    let lookups = fake.store.lookups.load(Ordering::SeqCst);
    fake.store.split(&["h", "p"]);
    fake.store.tell_changes();
    until("the news has come", async || told() >= before + 3.0).await;
    fake.store.take_requests();
    for key in ["a", "k", "z"] {
        client.put(key, "2").await.unwrap();
    }
    let asked: Vec<_> = fake.store.take_writes().into_iter().map(|(node, _)| node).collect();
    assert_eq!(asked, [1, 2, 3], "each leader at once");
    assert_eq!(fake.store.lookups.load(Ordering::SeqCst), lookups);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn not_leader_is_followed_and_remembered() {
    let fake = Fake::start(3).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    client.put("k", "1").await.unwrap();
    fake.store.set_leader(1, 3);
    fake.store.take_requests();
    client.put("k", "2").await.unwrap();
    client.put("k", "3").await.unwrap();
    let asked: Vec<_> =
        fake.store.take_writes().into_iter().map(|(node, write)| (node, write.retry)).collect();
    assert_eq!(asked, [(1, false), (3, false), (3, false)]);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_not_ready_is_asked_again() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    let not_ready = crate::fake::Fault::Refuse(Kind::NotReady(NotReady {}));
    fake.store.inject(1, vec![not_ready; 3]);
    fake.store.take_requests();
    client.put("k", "v").await.unwrap();
    let writes = fake.store.take_writes();
    assert_eq!(writes.len(), 4);
    assert!(
        writes.iter().all(|(_, write)| !write.retry && write.request_id == writes[0].1.request_id)
    );
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_misses_make_few_lookups() {
    let fake = Fake::start(2).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    // The probe cached the one range; after the split every key is unknown to its old leader's map
    // only through the refusal, so look from a second gateway that knows nothing yet.
    fake.store.split(&["c", "f", "i", "l", "o", "r", "u"]);
    let second = fake.gateway(fake.settings()).await;
    let cold = crate::fake::client(&second).await;
    let before = fake.store.lookups.load(Ordering::SeqCst);
    let gets = (0..1000).map(|i| cold.get(format!("{}{i}", char::from(b'a' + (i % 26) as u8))));
    for got in join_all(gets).await {
        got.unwrap();
    }
    let lookups = fake.store.lookups.load(Ordering::SeqCst) - before;
    assert!(lookups <= 8, "{lookups} lookups");
    client.get("a").await.unwrap();
    server.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn known_routes_serve_while_placement_is_away() {
    let fake = Fake::start(2).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    client.put("k", "v").await.unwrap();
    fake.store.placement_down.store(true, Ordering::SeqCst);
    fake.store.set_leader(1, 2);
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "v");
    client.put("k", "w").await.unwrap();
    assert!(server.is_ready());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_only_when_it_can_serve() {
    let fake = Fake::start(1).await;
    fake.store.placement_down.store(true, Ordering::SeqCst);
    let server = rangedb_gateway::start(fake.settings()).await.unwrap();
    assert!(!server.is_ready());
    fake.store.placement_down.store(false, Ordering::SeqCst);
    until("ready", async || server.is_ready()).await;
    client(&server).await.put("k", "v").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared() {
    let fake = Fake::start(3).await;
    fake.store.split(&["m"]);
    let server = fake.gateway(fake.settings()).await;
    let mut admin = client(&server).await.admin();
    for range_id in [1, 2] {
        let request = rangedb_client::proto::VerifyRangeRequest { range_id };
        let verified = admin.verify_range(request).await.unwrap().into_inner();
        assert!(verified.consistent && verified.replicas.len() == 3);
    }
    let unknown = rangedb_client::proto::VerifyRangeRequest { range_id: 77 };
    let status = admin.verify_range(unknown).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    server.shutdown().await.unwrap();
}
