//! Bad requests over the wire, and the services beside the data.

use crate::fake::{Fake, client};
use rangedb_client::proto::{
    BatchGetRequest, CommitStatusRequest, Consistency, DeleteRangeRequest, GetRequest, PutRequest,
    RangeRequest, RequestContext, consistency,
};
use rangedb_proto::error::detail_of;
use rangedb_proto::v1::error_detail::Kind;
use rangedb_types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use tonic::{Code, Status};

fn field(status: &Status) -> String {
    match detail_of(status).and_then(|detail| detail.kind) {
        Some(Kind::InvalidRequest(request)) => request.field,
        Some(Kind::NotImplemented(missing)) => missing.feature,
        other => format!("{other:?}"),
    }
}

// tidy: long because it is one table of refusals.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_canonical_codes_and_fields() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let mut rpc = client(&server).await.key_value().max_encoding_message_size(usize::MAX);
    fake.store.take_requests();

    let get = |key: &[u8]| GetRequest { key: key.to_vec().into(), context: None };
    let put = |key: &[u8], value: Vec<u8>| PutRequest {
        key: key.to_vec().into(),
        value: value.into(),
        ..Default::default()
    };
    let range = |start: &'static str, end: &'static str, limit| RangeRequest {
        start: start.into(),
        end: end.into(),
        limit,
        ..Default::default()
    };
    let transaction = RequestContext { transaction: "t".into(), ..Default::default() };
    let stale = consistency::Level::Stale(consistency::Stale { max_age_ms: 5 });
    let stale = RequestContext {
        consistency: Some(Consistency { level: Some(stale) }),
        ..Default::default()
    };
    let short = RequestContext { request_id: "short".into(), ..Default::default() };

    let mut refused = Vec::new();
    refused.push((rpc.get(get(b"")).await.unwrap_err(), Code::InvalidArgument, "key"));
    let long = vec![1; KEY_BYTES_MAX + 1];
    refused.push((rpc.get(get(&long)).await.unwrap_err(), Code::InvalidArgument, "key"));
    let huge = vec![0; VALUE_BYTES_MAX + 1];
    refused.push((rpc.put(put(b"k", huge)).await.unwrap_err(), Code::InvalidArgument, "value"));
    let request = PutRequest { context: Some(short), ..put(b"k", Vec::new()) };
    refused.push((
        rpc.put(request).await.unwrap_err(),
        Code::InvalidArgument,
        "context.request_id",
    ));
    let request = PutRequest { context: Some(transaction), ..put(b"k", Vec::new()) };
    let status = rpc.put(request).await.unwrap_err();
    refused.push((status, Code::InvalidArgument, "context.transaction"));
    let request = GetRequest {
        context: Some(RequestContext { at_version: 7, ..stale.clone() }),
        ..get(b"k")
    };
    let status = rpc.get(request).await.unwrap_err();
    refused.push((status, Code::InvalidArgument, "context.at_version"));
    let request = PutRequest { context: Some(stale), ..put(b"k", Vec::new()) };
    let status = rpc.put(request).await.unwrap_err();
    refused.push((status, Code::InvalidArgument, "context.consistency"));
    refused.push((
        rpc.range(range("b", "a", 0)).await.unwrap_err(),
        Code::InvalidArgument,
        "start",
    ));
    refused.push((
        rpc.range(range("a", "b", -1)).await.unwrap_err(),
        Code::InvalidArgument,
        "limit",
    ));
    let request = DeleteRangeRequest { start: "b".into(), end: "b".into(), context: None };
    refused.push((rpc.delete_range(request).await.unwrap_err(), Code::InvalidArgument, "start"));
    let request = BatchGetRequest { keys: vec!["k".into(); 10_001], context: None };
    refused.push((rpc.batch_get(request).await.unwrap_err(), Code::InvalidArgument, "keys"));
    let request = CommitStatusRequest {
        key: "k".into(),
        request_id: "x".into(),
        seen_version: 1,
        transaction_id: 0,
    };
    refused.push((
        rpc.commit_status(request).await.unwrap_err(),
        Code::InvalidArgument,
        "request_id",
    ));
    for (status, code, name) in &refused {
        assert_eq!((status.code(), field(status).as_str()), (*code, *name), "{status}");
    }
    for status in [
        rpc.get(get(b"_/cluster/nodes/1")).await.unwrap_err(),
        rpc.put(put(b"_/x", Vec::new())).await.unwrap_err(),
        rpc.range(range("_/a", "", 0)).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    assert!(fake.store.take_writes().is_empty(), "nothing reached a node");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_values_pass() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let client = client(&server).await;
    let (key, value) = (vec![b'k'; KEY_BYTES_MAX], vec![7; VALUE_BYTES_MAX]);
    client.put(key.clone(), value.clone()).await.unwrap();
    assert_eq!(client.get(key.clone()).await.unwrap().unwrap().value, value);
    assert_eq!(client.pipeline().get(key).await.unwrap().unwrap().value, value);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_one_clear_line() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let mut settings = fake.settings();
    settings.listen = server.grpc_address().to_string();
    let Err(error) = rangedb_gateway::start(settings).await else { panic!("the port is in use") };
    let line = error.to_string();
    assert!(line.contains("--listen") && line.contains("in use") && !line.contains('\n'), "{line}");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let address = format!("http://{}", server.grpc_address());
    let channel =
        tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    for service in ["", "rangedb.v1.KeyValue"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    server.shutdown().await.unwrap();
}
