//! Changes of the metadata, from a revision on.

use super::not_leader;
use crate::consensus::Consensus;
use crate::leader::Office;
use crate::state::{Compacted, MetaEvent, is_secret};
use rangedb_proto::v1 as wire;
use tokio::sync::mpsc;
use tonic::Status;

type Outgoing = mpsc::Sender<Result<wire::MetaEvent, Status>>;

/// Where a watch begins; 0 means after what is there now.
pub(super) fn first_revision(consensus: &Consensus, wanted: u64) -> Result<u64, Status> {
    consensus.read(|state| {
        if wanted == 0 {
            return Ok(state.revision() + 1);
        }
        state.meta_events("", wanted).map(|_| wanted).map_err(compacted)
    })
}

fn compacted(error: Compacted) -> Status {
    Status::out_of_range(format!("{error}; list again and watch from the revision of the list"))
}

/// Sends events until the watcher goes or this member stops leading.
pub(super) async fn serve(
    consensus: &Consensus,
    office: &Office,
    prefix: &str,
    from: u64,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut revisions = consensus.revisions();
    let mut next = from;
    loop {
        revisions.mark_unchanged();
        let (events, revision) = consensus
            .read(|state| state.meta_events(prefix, next).map(|events| (events, state.revision())))
            .map_err(compacted)?;
        next = next.max(revision + 1);
        for event in events.into_iter().filter(|event| !is_secret(&event.key)) {
            tokio::select! {
                () = office.ended().cancelled() => return Err(not_leader(consensus)),
                sent = outgoing.send(Ok(wire_event(event))) => if sent.is_err() { return Ok(()) },
            }
        }
        tokio::select! {
            () = office.ended().cancelled() => return Err(not_leader(consensus)),
            () = outgoing.closed() => return Ok(()),
            changed = revisions.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn wire_event(event: MetaEvent) -> wire::MetaEvent {
    let deleted = event.value.is_none();
    wire::MetaEvent {
        entry: Some(wire::MetaEntry {
            key: event.key,
            value: event.value.unwrap_or_default().into_bytes().into(),
            revision: event.revision,
        }),
        deleted,
    }
}
