//! What the leader sees to by itself: that the metadata names the cluster and the quorum's members.

use super::core::Core;
use super::error::ProposeError;
use super::propose;
use crate::state::{Command, MemberRecord};
use rangedb_types::{Random as _, SystemRandom};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Commands that bring the metadata in line with the membership; none if it is.
fn due(core: &Core) -> Vec<Command> {
    let wanted: BTreeMap<_, _> = {
        let metrics = core.raft.server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.nodes();
        members.map(|(id, member)| (*id, member.clone())).collect()
    };
    let cluster_id = core.own.cluster_id();
    core.shared.read(|state| {
        let mut commands = Vec::new();
        if let (None, Some(cluster_id)) = (state.cluster_id(), cluster_id) {
            commands.push(Command::InitCluster { cluster_id });
        }
        if state.token_key().is_none() {
            commands.push(Command::SetTokenKey { key: new_token_key() });
        }
        let known: BTreeMap<_, &MemberRecord> =
            state.members().map(|member| (member.id, member)).collect();
        for (id, member) in &wanted {
            let right = known.get(id).is_some_and(|known| {
                known.store_id == member.store_id && known.address == member.address
            });
            if !right {
                let (store_id, address) = (member.store_id, member.address.clone());
                commands.push(Command::SetPlacementMember { id: *id, store_id, address });
            }
        }
        for id in known.keys().filter(|id| !wanted.contains_key(id)) {
            commands.push(Command::RemovePlacementMember { id: *id });
        }
        commands
    })
}

/// 256 random bits.
fn new_token_key() -> String {
    let (high, low) = (SystemRandom.next_id(), SystemRandom.next_id());
    format!("{high:032x}{low:032x}")
}

/// Runs until cancelled.
pub(super) async fn run(core: &Core, cancel: &CancellationToken) {
    let mut changes = core.raft.server_metrics();
    loop {
        changes.mark_unchanged();
        let done = !core.leadership().is_leader || perform(core).await.is_ok();
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_PAUSE), if !done => {}
        }
    }
}

async fn perform(core: &Core) -> Result<(), ProposeError> {
    // Only what is applied tells whether anything is due: a new leader first catches up.
    match tokio::time::timeout(TIMEOUT, core.raft.ensure_linearizable()).await {
        Ok(Ok(_)) => {}
        _ => return Err(ProposeError::NotLeader { address: None }),
    }
    for command in due(core) {
        propose(core, command, tokio::time::Instant::now() + TIMEOUT).await?;
    }
    Ok(())
}
