//! Whether a serializable transaction's reads would find the same at its commit timestamp.

use super::commit::Reads;
use super::ranges::on_each;
use super::steps::act;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{Action, Place, Reach};
use bytes::Bytes;
use rangedb_proto::internal::v1::node_action::{self, CheckReads, Kind};
use rangedb_types::Timestamp;
use tokio::time::Instant;

/// How often the part of a span is cut anew because the bounds of its range changed.
const CUTS_MAX: usize = 64;

pub(super) struct Check<'a> {
    pub(super) dispatcher: &'a Dispatcher,
    pub(super) id: Timestamp,
    pub(super) snapshot: Timestamp,
    pub(super) version: Timestamp,
    pub(super) deadline: Instant,
}

impl Check<'_> {
    /// # Errors
    /// `WriteConflict` or `KeyLocked` if something changed, or may.
    pub(super) async fn all(&self, reads: &Reads) -> Result<(), Failure> {
        let step = |part: &[usize]| {
            let keys = part.iter().map(|at| reads.keys[*at].clone()).collect();
            Kind::CheckReads(CheckReads { keys, ..self.wire() })
        };
        let all = (0..reads.keys.len()).collect();
        let done = on_each(self.dispatcher, &reads.keys, all, self.deadline, &step).await;
        if let Some(failure) = done.failure {
            return Err(failure);
        }
        for (start, end) in &reads.spans {
            self.span(start, end).await?;
        }
        Ok(())
    }

    fn wire(&self) -> CheckReads {
        CheckReads {
            id: self.id.0,
            snapshot_version: self.snapshot.0,
            commit_version: self.version.0,
            ..CheckReads::default()
        }
    }

    /// A span, range by range.
    async fn span(&self, start: &Bytes, end: &Bytes) -> Result<(), Failure> {
        let (mut start, mut cuts) = (start.clone(), 0);
        loop {
            let place = Place::At(start.clone());
            let range_end = self.dispatcher.range_end(&place, self.deadline).await?;
            let is_last = range_end.is_empty() || (!end.is_empty() && *end <= range_end);
            let part_end = if is_last { end.clone() } else { range_end };
            let span = node_action::Span { start: start.clone(), end: part_end.clone() };
            let kind = Kind::CheckReads(CheckReads { spans: vec![span], ..self.wire() });
            let reach = Reach::Below(part_end.clone());
            let action = Action { first: start.clone(), reach, kind };
            match act(self.dispatcher, action, self.deadline).await {
                Ok(_) if is_last => return Ok(()),
                Ok(_) => start = part_end,
                Err(Failure::SeveralRanges) if cuts < CUTS_MAX => cuts += 1,
                Err(failure) => return Err(failure),
            }
        }
    }
}
