//! Changes of the range map, told to gateways.
//!
//! Owns: what a watcher was told already. Must not know: what gateways do with it. Invariant: a watcher
//! that is slow or far away gets fewer and larger messages; nothing waits for it.

use super::{lookup, not_leader};
use crate::consensus::Consensus;
use crate::leader::Office;
use crate::state::Compacted;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::RangeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// Changes are gathered this long: a thousand splits at once become a few messages.
const GATHER: Duration = Duration::from_millis(20);
/// Most routes in one message.
const ROUTES_MAX: usize = 1_000;

type Outgoing = mpsc::Sender<Result<wire::RangeChanges, Status>>;

/// One gateway's watch.
pub(super) struct RangeWatch {
    /// Changes up to this revision were told.
    told: u64,
}

impl RangeWatch {
    /// A watch of what comes after a revision; 0: of what comes from now on.
    ///
    /// # Errors
    /// `OutOfRange` if some of it is no longer kept.
    pub(super) fn new(office: &Office, after: u64) -> Result<Self, Status> {
        let now = office.look(|state, _, _| state.revision());
        let watch = Self { told: if after == 0 { now } else { after } };
        watch.news(office).map_err(compacted)?;
        Ok(watch)
    }

    /// Sends changes until the watcher goes or this member stops leading.
    pub(super) async fn serve(
        mut self,
        consensus: &Consensus,
        office: &Office,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let mut revisions = consensus.revisions();
        let mut first = true;
        loop {
            revisions.mark_unchanged();
            for message in self.messages(office, std::mem::take(&mut first))? {
                tokio::select! {
                    () = office.ended().cancelled() => return Err(not_leader(consensus)),
                    sent = outgoing.send(Ok(message)) => if sent.is_err() { return Ok(()) },
                }
            }
            tokio::select! {
                () = office.ended().cancelled() => return Err(not_leader(consensus)),
                () = outgoing.closed() => return Ok(()),
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// What is new, cut into messages; nothing if no range changed, unless `always`.
    fn messages(
        &mut self,
        office: &Office,
        always: bool,
    ) -> Result<Vec<wire::RangeChanges>, Status> {
        let (mut routes, revision) = self.news(office).map_err(compacted)?;
        self.told = revision;
        let mut messages = Vec::new();
        while routes.len() > ROUTES_MAX {
            let rest = routes.split_off(ROUTES_MAX);
            // Not all of it is told yet: a watch that breaks here asks for all of it again.
            messages.push(wire::RangeChanges { revision: 0, routes });
            routes = rest;
        }
        if always || !routes.is_empty() {
            messages.push(wire::RangeChanges { revision, routes });
        }
        Ok(messages)
    }

    fn news(&self, office: &Office) -> Result<(Vec<wire::Route>, u64), Compacted> {
        office.look(|state, view, now| {
            let changed: BTreeSet<RangeId> = state.ranges_changed_since(self.told + 1)?.collect();
            // A range that was merged away has none: the one that has its keys is told.
            let ranges = changed.iter().filter_map(|range_id| state.range(*range_id));
            Ok((ranges.map(|range| lookup::route(view, range, now)).collect(), state.revision()))
        })
    }
}

fn compacted(error: Compacted) -> Status {
    Status::out_of_range(format!("{error}; watch from revision 0 and look ranges up again"))
}
