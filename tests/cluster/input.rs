//! Bad input: each gets its canonical gRPC code and a line that says what to do.

use anyhow::{Result, ensure};
use rangedb_client::Client;
use rangedb_client::proto::{
    CommitStatusRequest, DeleteRangeRequest, DeleteRequest, GetRequest, PipelineOperation,
    PipelineRequest, PutRequest, RangeRequest, RequestContext, pipeline_operation, pipeline_result,
};
use rangedb_proto::error::detail_of;
use rangedb_tests::InProcess;
use tonic::{Code, Status};

const KEY_BYTES_MAX: usize = 8 << 10;
const VALUE_BYTES_MAX: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_its_canonical_code() -> Result<()> {
    let cluster = InProcess::start(1, 1, 1).await?;
    let client = cluster.client().await?;
    bad_keys(&client).await?;
    bad_values(&client).await?;
    bad_ranges(&client).await?;
    bad_contexts(&client).await?;
    bad_operations_fail_alone(&client).await?;
    client.put("still", "served").await?;
    cluster.finish(&[]).await
}

fn refused<T>(what: &str, answer: Result<T, Status>, code: Code) -> Result<()> {
    let Err(status) = answer else { anyhow::bail!("{what} was accepted") };
    ensure!(status.code() == code, "{what}: {status:?}");
    let words = status.message();
    ensure!(!words.is_empty() && !words.contains('\n'), "{what}: {words:?}");
    ensure!(detail_of(&status).is_some(), "{what}: no typed detail");
    Ok(())
}

fn put(key: impl Into<Vec<u8>>, value: Vec<u8>) -> PutRequest {
    PutRequest { key: key.into().into(), value: value.into(), ..Default::default() }
}

async fn bad_keys(client: &Client) -> Result<()> {
    let mut rpc = client.key_value();
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    for (what, key, code) in [
        ("an empty key", Vec::new(), Code::InvalidArgument),
        ("a key that is too long", long, Code::InvalidArgument),
        ("a system key", b"_/cluster/x".to_vec(), Code::PermissionDenied),
    ] {
        refused(what, rpc.put(put(key.clone(), Vec::new())).await, code)?;
        let get = GetRequest { key: key.clone().into(), context: None };
        refused(what, rpc.get(get).await, code)?;
        let delete = DeleteRequest { key: key.into(), ..Default::default() };
        refused(what, rpc.delete(delete).await, code)?;
    }
    rpc.put(put(vec![b'k'; KEY_BYTES_MAX], b"longest".to_vec())).await?;
    Ok(())
}

async fn bad_values(client: &Client) -> Result<()> {
    let mut rpc =
        client.key_value().max_encoding_message_size(64 << 20).max_decoding_message_size(64 << 20);
    let large = put("large", vec![0; VALUE_BYTES_MAX + 1]);
    refused("a value that is too large", rpc.put(large).await, Code::InvalidArgument)?;
    rpc.put(put("large", vec![5; VALUE_BYTES_MAX])).await?;
    let get = GetRequest { key: "large".into(), context: None };
    ensure!(rpc.get(get).await?.into_inner().value.len() == VALUE_BYTES_MAX);
    Ok(())
}

async fn bad_ranges(client: &Client) -> Result<()> {
    let mut rpc = client.key_value();
    let range = |start: &'static str, end: &'static str, limit| RangeRequest {
        start: start.into(),
        end: end.into(),
        limit,
        ..Default::default()
    };
    for (what, request) in [
        ("start after end", range("b", "a", 0)),
        ("start at end", range("a", "a", 0)),
        ("a negative limit", range("a", "b", -1)),
    ] {
        refused(what, rpc.range(request).await, Code::InvalidArgument)?;
    }
    let delete = DeleteRangeRequest { start: "b".into(), end: "a".into(), context: None };
    refused("start after end", rpc.delete_range(delete).await, Code::InvalidArgument)?;
    let system = DeleteRangeRequest { start: "_/a".into(), end: "_/b".into(), context: None };
    refused("system keys", rpc.delete_range(system).await, Code::PermissionDenied)?;
    Ok(())
}

async fn bad_contexts(client: &Client) -> Result<()> {
    let mut rpc = client.key_value();
    let with = |context| PutRequest { context: Some(context), ..put("c", Vec::new()) };
    let short = RequestContext { request_id: vec![1; 15].into(), ..Default::default() };
    refused("a short request id", rpc.put(with(short)).await, Code::InvalidArgument)?;
    let blind =
        RequestContext { request_id: vec![1; 16].into(), retry: true, ..Default::default() };
    refused("a retry without a seen version", rpc.put(with(blind)).await, Code::InvalidArgument)?;
    let transaction = RequestContext { transaction: "t".into(), ..Default::default() };
    refused("a transaction", rpc.put(with(transaction)).await, Code::InvalidArgument)?;
    let status = CommitStatusRequest { key: "c".into(), ..Default::default() };
    refused("no request id", rpc.commit_status(status).await, Code::InvalidArgument)?;
    Ok(())
}

async fn bad_operations_fail_alone(client: &Client) -> Result<()> {
    let operation = |tag, key: &'static str| PipelineOperation {
        tag,
        timeout_ms: 0,
        operation: Some(pipeline_operation::Operation::Put(put(key, b"v".to_vec()))),
    };
    let operations = vec![operation(1, ""), operation(2, "good"), operation(3, "_/bad")];
    let requests = futures::stream::iter([PipelineRequest { operations }]);
    let mut answers = client.key_value().pipeline(requests).await?.into_inner();
    let mut results = Vec::new();
    while results.len() < 3 {
        let Some(answer) = answers.message().await? else { break };
        results.extend(answer.results);
    }
    results.sort_by_key(|result| result.tag);
    let codes: Vec<i32> = results
        .iter()
        .map(|result| match &result.result {
            Some(pipeline_result::Result::Error(error)) => error.code,
            _ => 0,
        })
        .collect();
    ensure!(codes == [Code::InvalidArgument as i32, 0, Code::PermissionDenied as i32], "{codes:?}");
    Ok(())
}
