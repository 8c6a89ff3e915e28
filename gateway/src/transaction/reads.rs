//! Whether a serializable transaction's reads would find the same at its commit timestamp.

use super::commit::Reads;
use super::ranges::{on_each, walk};
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use bytes::Bytes;
use rangedb_proto::internal::v1::node_action::{self, CheckReads, Kind};
use rangedb_types::Timestamp;
use tokio::time::Instant;

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
        let step = |start: &Bytes, end: &Bytes| {
            let span = node_action::Span { start: start.clone(), end: end.clone() };
            Kind::CheckReads(CheckReads { spans: vec![span], ..self.wire() })
        };
        walk(self.dispatcher, &reads.spans, self.deadline, &step).await
    }

    fn wire(&self) -> CheckReads {
        CheckReads {
            id: self.id.0,
            snapshot_version: self.snapshot.0,
            commit_version: self.version.0,
            ..CheckReads::default()
        }
    }
}
