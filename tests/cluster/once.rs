//! A write is applied once, however often it is sent, and never after it was said that it was not.

use anyhow::{Result, ensure};
use rangedb_client::proto::{
    CommitStatusRequest, DeleteRequest, GetRequest, PutRequest, RequestContext,
};
use rangedb_tests::InProcess;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_write_is_applied_once() -> Result<()> {
    let cluster = InProcess::start(1, 3, 2).await?;
    let client = cluster.client().await?;
    let seen = client.put("once", "before").await?;
    let mut rpc = client.key_value();
    let write = |retry| PutRequest {
        key: "once".into(),
        value: "mine".into(),
        context: Some(RequestContext {
            request_id: vec![7; 16].into(),
            seen_version: seen.0,
            retry,
            ..Default::default()
        }),
        ..Default::default()
    };
    let first = rpc.put(write(false)).await?.into_inner().version;
    let theirs = client.put("once", "theirs").await?;
    let again = rpc.put(write(true)).await?.into_inner().version;
    ensure!(again == first, "the retry gives the first attempt's answer: {again} is not {first}");
    let get = GetRequest { key: "once".into(), context: None };
    let now = rpc.get(get).await?.into_inner();
    ensure!(now.value == "theirs" && now.version == theirs.0, "{now:?}");

    let status = CommitStatusRequest {
        key: "once".into(),
        request_id: vec![7; 16].into(),
        seen_version: seen.0,
        ..CommitStatusRequest::default()
    };
    let told = rpc.commit_status(status).await?.into_inner();
    ensure!(told.committed && told.version == first, "{told:?}");
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_declared_lost_never_happens() -> Result<()> {
    let cluster = InProcess::start(1, 3, 1).await?;
    let client = cluster.client().await?;
    let seen = client.put("fenced", "before").await?;
    let mut rpc = client.key_value();
    let status = CommitStatusRequest {
        key: "fenced".into(),
        request_id: vec![9; 16].into(),
        seen_version: seen.0,
        ..CommitStatusRequest::default()
    };
    let told = rpc.commit_status(status.clone()).await?.into_inner();
    ensure!(!told.committed, "nobody sent it: {told:?}");
    let context = |retry| {
        Some(RequestContext {
            request_id: vec![9; 16].into(),
            seen_version: seen.0,
            retry,
            ..Default::default()
        })
    };
    for retry in [false, true] {
        let late = PutRequest {
            key: "fenced".into(),
            value: "late".into(),
            context: context(retry),
            ..Default::default()
        };
        let late = rpc.put(late).await;
        ensure!(late.as_ref().is_err_and(|status| status.code() == Code::Aborted), "{late:?}");
        let delete =
            DeleteRequest { key: "fenced".into(), context: context(retry), ..Default::default() };
        let late = rpc.delete(delete).await;
        ensure!(late.as_ref().is_err_and(|status| status.code() == Code::Aborted), "{late:?}");
    }
    let found = client.get("fenced").await?;
    ensure!(found.as_ref().is_some_and(|found| found.version == seen), "{found:?}");
    let told = rpc.commit_status(status).await?.into_inner();
    ensure!(!told.committed, "the answer is for good");
    cluster.finish(&[]).await
}
