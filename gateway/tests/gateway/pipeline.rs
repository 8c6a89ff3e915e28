//! Many operations over one stream.

use crate::fake::{Fake, Fault, client};
use futures::future::join_all;
use rangedb_client::Error;
use rangedb_client::proto::pipeline_operation::Operation;
use rangedb_client::proto::pipeline_result::Result as Answer;
use rangedb_client::proto::{GetRequest, PipelineOperation, PipelineRequest, PutRequest};
use std::collections::HashSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_operations() {
    let fake = Fake::start(3).await;
    fake.store.split(&["key/3", "key/6"]);
    let server = fake.gateway(fake.settings()).await;
    let pipeline = client(&server).await.pipeline();
    let puts = (0..5000).map(|i| pipeline.put(format!("key/{i}"), format!("{i}")));
    let versions: HashSet<_> =
        join_all(puts).await.into_iter().map(|version| version.unwrap()).collect();
    assert_eq!(versions.len(), 5000);
    let gets = (0..5000).map(|i| pipeline.get(format!("key/{i}")));
    for (i, value) in join_all(gets).await.into_iter().enumerate() {
        assert_eq!(value.unwrap().unwrap().value, format!("{i}"));
    }
    let many = pipeline.batch_get(["key/1", "absent", "key/7"]).await.unwrap();
    assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    pipeline.delete("key/1").await.unwrap();
    assert!(pipeline.get("key/1").await.unwrap().is_none());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_operation_fails_alone() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let pipeline = client(&server).await.pipeline();
    let (good, system, empty) =
        tokio::join!(pipeline.put("k", "v"), pipeline.put("_/cluster", "v"), pipeline.get(""),);
    good.unwrap();
    assert!(matches!(system, Err(Error::Refused { .. })));
    assert!(matches!(empty, Err(Error::Invalid { field, .. }) if field == "get.key"));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_survive_a_broken_node_stream_and_apply_once() {
    let fake = Fake::start(2).await;
    let server = fake.gateway(fake.settings()).await;
    let pipeline = client(&server).await.pipeline();
    pipeline.put("warm", "up").await.unwrap();
    fake.store.take_requests();
    fake.store.inject(1, [Fault::ApplyAndBreak]);
    let puts = (0..200).map(|i| pipeline.put(format!("key/{i}"), "v"));
    let gets = (0..200).map(|i| pipeline.get(format!("key/{i}")));
    let (puts, gets) = tokio::join!(join_all(puts), join_all(gets));
    assert!(puts.into_iter().all(|put| put.is_ok()) && gets.into_iter().all(|get| get.is_ok()));
    let writes = fake.store.take_writes();
    let ids: HashSet<_> = writes.iter().map(|(_, write)| write.request_id.clone()).collect();
    assert_eq!(ids.len(), 200);
    for id in ids {
        // At the leader at most one attempt can have been a first one.
        let first = |attempt: &&(u64, _)| attempt.0 == 1;
        let attempts = writes.iter().filter(first).filter(|(_, write)| write.request_id == id);
        assert!(attempts.filter(|(_, write)| !write.retry).count() <= 1);
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_held_back_and_loses_nothing() {
    let fake = Fake::start(1).await;
    let mut settings = fake.settings();
    settings.pipeline_operations_max = 16;
    let server = fake.gateway(settings).await;
    let mut raw = client(&server).await.key_value();
    let (requests, received) = mpsc::channel(4);
    let mut answers = raw.pipeline(ReceiverStream::new(received)).await.unwrap().into_inner();
    let operations = (0..1000)
        .map(|tag| {
            let operation = if tag % 2 == 0 {
                Operation::Put(PutRequest { key: format!("{tag}").into(), ..Default::default() })
            } else {
                Operation::Get(GetRequest { key: format!("{tag}").into(), context: None })
            };
            PipelineOperation { tag, timeout_ms: 0, operation: Some(operation) }
        })
        .collect();
    requests.send(PipelineRequest { operations }).await.unwrap();
    drop(requests); // The stream answers everything before it ends.
    let mut tags = HashSet::new();
    while let Some(message) = answers.message().await.unwrap() {
        assert!(message.results.len() <= 16);
        for result in message.results {
            assert!(!matches!(result.result, Some(Answer::Error(_)) | None));
            assert!(tags.insert(result.tag));
        }
    }
    assert_eq!(tags.len(), 1000);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_open_streams_cleanly() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    let mut raw = client(&server).await.key_value();
    let (_requests, received) = mpsc::channel::<PipelineRequest>(1);
    let mut answers = raw.pipeline(ReceiverStream::new(received)).await.unwrap().into_inner();
    let began = std::time::Instant::now();
    server.shutdown().await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
    assert!(answers.message().await.unwrap().is_none());
}
