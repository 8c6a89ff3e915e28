//! What happens to a cluster while it is used.

use anyhow::{Context as _, Result};
use rand::Rng as _;
use rand::rngs::StdRng;
use rangedb_client::Client;
use rangedb_client::proto::{
    MergeRangeRequest, MoveReplicaRequest, SplitRangeRequest, TransferLeaderRequest,
    split_range_request::At,
};
use rangedb_tests::{Part, Processes, admin, wait};
use std::time::Duration;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    KillNode,
    KillGateway,
    KillPlacementLeader,
    Split,
    Merge,
    TransferLeader,
    Move,
}

const EVENTS: [Event; 7] = [
    Event::KillNode,
    Event::Split,
    Event::KillGateway,
    Event::TransferLeader,
    Event::KillPlacementLeader,
    Event::Merge,
    Event::Move,
];

/// Lets so many events happen, each kind in turn, and gives the cluster a moment after each.
///
/// # Errors
/// A process does not come back.
pub async fn strike(
    cluster: &mut Processes,
    client: &Client,
    random: &mut StdRng,
    events: usize,
    keys: &[String],
) -> Result<()> {
    for event in EVENTS.into_iter().cycle().take(events) {
        wait::let_run(Duration::from_millis(random.random_range(300..1_500))).await;
        eprintln!("{event:?}");
        match event {
            Event::KillNode => {
                let at = random.random_range(0..cluster.nodes.len());
                again(&mut cluster.nodes[at]).await?;
            }
            Event::KillGateway => {
                let at = random.random_range(0..cluster.gateways.len());
                again(&mut cluster.gateways[at]).await?;
            }
            Event::KillPlacementLeader => {
                let leader = admin::placement_leader(client).await?;
                let member = cluster.placement.iter_mut().find(|part| part.grpc == leader);
                again(member.context("the leader is none of ours")?).await?;
            }
            // The rest may be refused while something else is under way: then it does not happen.
            _ => {
                if let Err(refused) = change(client, random, event, keys).await {
                    eprintln!("{event:?} did not happen: {refused:#}");
                }
            }
        }
    }
    Ok(())
}

async fn again(part: &mut Part) -> Result<()> {
    part.kill()?;
    part.start()?;
    part.ready().await
}

async fn change(client: &Client, random: &mut StdRng, event: Event, keys: &[String]) -> Result<()> {
    let ranges = admin::ranges(client).await?;
    let range = &ranges[random.random_range(0..ranges.len())];
    let range_id = range.range_id;
    let mut admin = client.admin();
    match event {
        Event::Split => {
            let key = &keys[random.random_range(0..keys.len())];
            let at = Some(At::AtKey(key.clone().into()));
            admin.split_range(SplitRangeRequest { at, ..Default::default() }).await?;
        }
        Event::Merge => {
            let request = MergeRangeRequest { range_id, ..Default::default() };
            admin.merge_range(request).await?;
        }
        Event::TransferLeader => {
            let other = range.replicas.iter().find(|r| r.node_id != range.leader_node_id);
            let to_node_id = other.context("no other replica")?.node_id;
            let request = TransferLeaderRequest { range_id, to_node_id, ..Default::default() };
            admin.transfer_leader(request).await?;
        }
        Event::Move => {
            let nodes = admin::nodes(client).await?;
            let free = nodes
                .iter()
                .find(|node| range.replicas.iter().all(|replica| replica.node_id != node.node_id));
            let request = MoveReplicaRequest {
                range_id,
                from_node_id: range.replicas.first().context("no replica")?.node_id,
                to_node_id: free.context("no other node")?.node_id,
                ..Default::default()
            };
            admin.move_replica(request).await?;
        }
        Event::KillNode | Event::KillGateway | Event::KillPlacementLeader => {}
    }
    Ok(())
}
