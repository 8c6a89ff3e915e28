//! Writes whose answers are lost, nodes that hang, queues that are full.

use crate::fake::{Fake, Fault, client};
use futures::future::join_all;
use rangedb_client::{Condition, Error, RetryAdvice};
use rangedb_proto::internal::v1::node_error::{
    Fenced, Kind, NoTimestamp, OutcomeUnknown, Overloaded,
};
use rangedb_service::{Bytes, Period};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_stream_broke_is_repeated_under_its_id() {
    for fault in [Fault::ApplyAndBreak, Fault::Break] {
        let fake = Fake::start(1).await;
        let server = fake.gateway(fake.settings()).await;
        let client = client(&server).await;
        fake.store.take_requests();
        fake.store.inject(1, [fault.clone()]);
        // With `Absent`, a second application would be refused.
        let version = client.put_if("k", "v", Condition::Absent).await.unwrap();
        assert_eq!(client.get("k").await.unwrap().unwrap().version, version, "{fault:?}");
        let writes = fake.store.take_writes();
        assert_eq!(writes.len(), 2);
        let (first, second) = (&writes[0].1, &writes[1].1);
        assert_eq!((first.retry, second.retry), (false, true));
        assert_eq!(first.request_id, second.request_id);
        assert_eq!(first.seen_version, second.seen_version);
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_does_not_eat_the_whole_deadline() {
    let fake = Fake::start(2).await;
    let mut settings = fake.settings();
    settings.attempt_timeout = Period(Duration::from_millis(200));
    let server = fake.gateway(settings).await;
    let client = client(&server).await;
    fake.store.take_requests();
    fake.store.inject(1, [Fault::ApplyAndHang]);
    let began = Instant::now();
    client.put_if("k", "v", Condition::Absent).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let writes = fake.store.take_writes();
    assert!(writes[1..].iter().all(|(_, write)| write.retry));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_at_the_deadline_is_said_so() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await.with_timeout(Duration::from_millis(600));
    fake.store.inject(1, vec![Fault::Refuse(Kind::OutcomeUnknown(OutcomeUnknown {})); 1000]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.retry_advice(), RetryAdvice::OutcomeUnknown);
    let Error::OutcomeUnknown { id } = error else { panic!("{error}") };
    // A read at the same time is merely unavailable.
    let error = client.get("k").await.unwrap_err();
    assert_eq!(error.retry_advice(), RetryAdvice::Safe, "{error}");
    fake.store.clear_faults();
    assert_eq!(client.commit_status("k", id).await.unwrap(), None);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_unknown_outcome_carries_id_and_version() {
    let fake = Fake::start(1).await;
    let mut settings = fake.settings();
    settings.request_timeout = Period(Duration::from_millis(300));
    settings.attempt_timeout = Period(Duration::from_millis(100));
    let server = fake.gateway(settings).await;
    let mut raw = client(&server).await.key_value();
    fake.store.inject(1, vec![Fault::Hang; 1000]);
    let request = rangedb_client::proto::PutRequest { key: "k".into(), ..Default::default() };
    let status = raw.put(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unknown);
    let detail = rangedb_proto::error::detail_of(&status).unwrap();
    let Some(rangedb_proto::v1::error_detail::Kind::OutcomeUnknown(unknown)) = detail.kind else {
        panic!("{detail:?}")
    };
    assert_eq!(unknown.request_id.len(), 16);
    assert_ne!(unknown.seen_version, 0);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_never_proposed_is_unavailable() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let mut raw = client(&server).await.key_value();
    fake.store.inject(1, vec![Fault::Refuse(Kind::NoTimestamp(NoTimestamp {})); 1000]);
    let mut request = tonic::Request::new(rangedb_client::proto::PutRequest {
        key: "k".into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let status = raw.put(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_write_is_final() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    fake.store.take_requests();
    fake.store.inject(1, [Fault::Refuse(Kind::Fenced(Fenced {}))]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.retry_advice(), RetryAdvice::Never, "{error}");
    assert_eq!(fake.store.take_writes().len(), 1);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_shed_with_a_retryable_error() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let mut raw = client(&server).await.key_value();
    fake.store.inject(1, vec![Fault::Refuse(Kind::Overloaded(Overloaded {})); 100]);
    let request = rangedb_client::proto::GetRequest { key: "k".into(), context: None };
    let status = raw.get(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_unary_calls_and_holds_streams_back() {
    let fake = Fake::start(1).await;
    let mut settings = fake.settings();
    settings.link_requests_max = 8;
    settings.link_bytes_max = Bytes(4096);
    settings.attempt_timeout = Period(Duration::from_millis(300));
    settings.stall_timeout = Period(Duration::from_secs(60));
    let server = fake.gateway(settings).await;
    let client = client(&server).await;
    let raw = client.key_value();
    // Eight requests that get no answer fill the link.
    fake.store.inject(1, vec![Fault::Hang; 8]);
    let calls = (0..32).map(|_| {
        let mut raw = raw.clone();
        let request = rangedb_client::proto::GetRequest { key: "k".into(), context: None };
        async move { raw.get(request).await }
    });
    let refused: Vec<_> = join_all(calls).await.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|status| status.code() == tonic::Code::ResourceExhausted));
    // A stream's operations wait until there is room.
    fake.store.inject(1, vec![Fault::Hang; 8]);
    let pipeline = client.pipeline();
    for written in join_all((0..32).map(|i| pipeline.put(format!("{i}"), "v"))).await {
        written.unwrap();
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_moves_on_to_the_next_gateway() {
    let fake = Fake::start(1).await;
    let first = fake.gateway(fake.settings()).await;
    let second = fake.gateway(fake.settings()).await;
    let addresses = [first.grpc_address().to_string(), second.grpc_address().to_string()];
    let client = rangedb_client::Client::connect(addresses).await.unwrap();
    let pipeline = client.pipeline();
    client.put("a", "1").await.unwrap();
    pipeline.put("b", "1").await.unwrap();
    first.shutdown().await.unwrap();
    client.put("a", "2").await.unwrap();
    pipeline.put("b", "2").await.unwrap();
    assert_eq!(pipeline.get("a").await.unwrap().unwrap().value, "2");
    assert_eq!(client.endpoint(), second.grpc_address().to_string());
    second.shutdown().await.unwrap();
    let gone = client.with_timeout(Duration::from_millis(300)).get("a").await.unwrap_err();
    assert_eq!(gone.retry_advice(), RetryAdvice::Safe);
}
