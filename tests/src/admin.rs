//! What an operator would ask a cluster.

use crate::wait;
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rangedb_client::Client;
use rangedb_client::proto::{
    GetRangeRequest, ListNodesRequest, ListRangesRequest, NodeStatus, RangeStatus,
    SetConfigRequest, SplitRangeRequest, TransferLeaderRequest, VerifyRangeRequest,
    split_range_request::At,
};
use std::time::Duration;
use tonic::{Code, Request};

/// From the last node's start until every range has its copies, on a busy machine.
pub const REPLICATION_LIMIT: Duration = Duration::from_secs(90);
/// How long it may take until all replicas of a range can be compared.
pub const VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// How long one comparison may take: one that meets a replica on its way out waits for it to the end.
const VERIFY_ATTEMPT: Duration = Duration::from_secs(15);
const VERIFIED_AT_A_TIME: usize = 16;

/// All ranges.
///
/// # Errors
/// The gateway's.
pub async fn ranges(client: &Client) -> Result<Vec<RangeStatus>> {
    let mut ranges = Vec::new();
    let mut request = ListRangesRequest::default();
    loop {
        let page = client.admin().list_ranges(request.clone()).await?.into_inner();
        ranges.extend(page.ranges);
        if !page.more {
            return Ok(ranges);
        }
        ensure!(page.next_start > request.start, "a page that does not go on");
        request.start = page.next_start;
    }
}

/// All storage nodes.
///
/// # Errors
/// The gateway's.
pub async fn nodes(client: &Client) -> Result<Vec<NodeStatus>> {
    Ok(client.admin().list_nodes(ListNodesRequest {}).await?.into_inner().nodes)
}

/// Waits until every range has exactly `voters` voters and nothing else.
///
/// # Errors
/// It does not happen in time.
pub async fn replicated(client: &Client, voters: usize) -> Result<()> {
    wait::until(&format!("every range has {voters} voters"), REPLICATION_LIMIT, async || {
        let ranges = ranges(client).await?;
        ensure!(!ranges.is_empty(), "there is no range");
        for range in ranges {
            let roles: Vec<_> = range.replicas.iter().map(|replica| &*replica.role).collect();
            ensure!(roles == vec!["voter"; voters], "range {}: {roles:?}", range.range_id);
            ensure!(range.leader_node_id != 0, "range {} has no leader", range.range_id);
        }
        Ok(())
    })
    .await
}

/// Waits until all replicas of every range answer and hold the same checksum; gives how many
/// replicas were compared.
///
/// # Errors
/// Replicas that differ, at once; replicas that do not answer, when the limit is over.
pub async fn consistent(client: &Client) -> Result<usize> {
    stream::iter(ranges(client).await?)
        .map(|range| async move { consistent_range(client, &range).await })
        .buffer_unordered(VERIFIED_AT_A_TIME)
        .try_fold(0, |sum, compared| async move { Ok(sum + compared) })
        .await
}

async fn consistent_range(client: &Client, range: &RangeStatus) -> Result<usize> {
    let answer = wait::until("every replica answers", VERIFY_LIMIT, async || {
        // It may still be moved, or be merged into another one.
        let request = GetRangeRequest { range_id: range.range_id };
        let now = match client.admin().get_range(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            answer => answer?.into_inner().range.context("no range in the answer")?,
        };
        let mut request = Request::new(VerifyRangeRequest { range_id: range.range_id });
        request.set_timeout(VERIFY_ATTEMPT);
        let answer = client.admin().verify_range(request).await?.into_inner();
        let silent = answer.replicas.iter().find(|replica| !replica.error.is_empty());
        ensure!(silent.is_none(), "{silent:?}");
        ensure!(answer.replicas.len() == now.replicas.len(), "{answer:?}");
        Ok(Some(answer))
    })
    .await?;
    let Some(answer) = answer else { return Ok(0) };
    ensure!(answer.consistent, "replicas differ: {answer:?}");
    let first = answer.replicas.first().context("a range has replicas")?;
    ensure!(
        answer.replicas.iter().all(|replica| replica.checksum == first.checksum),
        "replicas differ: {answer:?}"
    );
    Ok(answer.replicas.len())
}

/// Changes a runtime setting.
///
/// # Errors
/// The gateway's.
pub async fn set_config(client: &Client, name: &str, value: &str) -> Result<()> {
    let request =
        SetConfigRequest { name: name.to_owned(), value: value.to_owned(), expected_version: 0 };
    client.admin().set_config(request).await?;
    Ok(())
}

/// The address of placement's leader.
///
/// # Errors
/// The gateway's, or there is none.
pub async fn placement_leader(client: &Client) -> Result<String> {
    wait::until("placement has a leader", VERIFY_LIMIT, async || {
        let request = rangedb_client::proto::ListPlacementRequest {};
        let members = client.admin().list_placement(request).await?.into_inner().members;
        let leader = members.into_iter().find(|member| member.role == "leader");
        Ok(leader.context("no leader")?.address)
    })
    .await
}

/// Cuts the range that holds a key there.
///
/// # Errors
/// It was not cut in time.
pub async fn split_at(client: &Client, key: &[u8]) -> Result<()> {
    wait::until("the range is split", VERIFY_LIMIT, async || {
        let at = Some(At::AtKey(key.to_vec().into()));
        let request = SplitRangeRequest { at, ..Default::default() };
        // An earlier one may still be under way.
        let _refused = client.admin().split_range(request).await;
        let ranges = ranges(client).await?;
        ensure!(ranges.iter().any(|range| range.start == key), "{} ranges", ranges.len());
        Ok(())
    })
    .await
}

/// Tells the leader of the first range to hand over to another of its nodes, which it gives.
///
/// # Errors
/// Nobody could take it in time.
pub async fn tell_first_leader_to_move(client: &Client) -> Result<u64> {
    wait::until("the first range's leader is told to move", VERIFY_LIMIT, async || {
        let range = ranges(client).await?.into_iter().next().context("no range")?;
        ensure!(range.leader_node_id != 0, "nobody leads it");
        let other = range.replicas.iter().find(|replica| replica.node_id != range.leader_node_id);
        let to_node_id = other.context("no other replica")?.node_id;
        let request =
            TransferLeaderRequest { range_id: range.range_id, to_node_id, dry_run: false };
        // A replica that has not caught up cannot take it.
        client.admin().transfer_leader(request).await?;
        Ok(to_node_id)
    })
    .await
}

/// Brings the leadership of the first range to another of its nodes.
///
/// # Errors
/// It was not there in time.
pub async fn move_first_leader(client: &Client) -> Result<()> {
    let node_id = tell_first_leader_to_move(client).await?;
    wait::until("another node leads the first range", VERIFY_LIMIT, async || {
        let range = ranges(client).await?.into_iter().next().context("no range")?;
        ensure!(range.leader_node_id == node_id, "node {} leads it", range.leader_node_id);
        Ok(())
    })
    .await
}

/// The ranges follow each other from the first key to the last, without gap or overlap.
///
/// # Errors
/// They do not, in time.
pub async fn whole(client: &Client) -> Result<()> {
    wait::until("the ranges join without gap or overlap", VERIFY_LIMIT, async || {
        let ranges = ranges(client).await?;
        let (first, last) = (ranges.first().context("none")?, ranges.last().context("none")?);
        ensure!(first.start.is_empty() && last.end.is_empty(), "the ends are open: {ranges:?}");
        let joined = ranges.windows(2).all(|pair| pair[0].end == pair[1].start);
        ensure!(joined, "a gap or an overlap: {ranges:?}");
        Ok(())
    })
    .await
}
