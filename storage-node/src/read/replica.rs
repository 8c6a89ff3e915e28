//! Reads of replicas that need not lead: see `docs/closed-timestamps.md`.

use super::reader::{DEADLINE, GetResult, ReadAt, Reader, page, values};
use super::view::View;
use crate::access::{RangeAccess, Refusal, Target};
use crate::store::ReadError;
use bytes::Bytes;
use rangedb_mvcc::{Page, ScanOptions, Seen};
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Pauses between two looks at how much is applied.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LONGEST: Duration = Duration::from_millis(16);

const NOT_CLOSED: Refusal = Refusal::NotReady("the replica has not closed the read's version");
const OTHER_BOUNDS: Refusal = Refusal::NotReady("the replica has other bounds");

/// Where and when to read.
pub struct AtReplica {
    pub access: Arc<dyn RangeAccess>,
    /// The bounds that the sender knows.
    pub epoch_version: u64,
    /// So much has to be applied; zero: the version has to be closed.
    pub index: u64,
    pub at: ReadAt,
    pub deadline: Instant,
}

impl Reader {
    /// Some keys.
    ///
    /// # Errors
    /// Any refusal of a read; `NotReady` also if the replica may lack something.
    pub async fn get_at_replica(&self, place: AtReplica, keys: Vec<Bytes>) -> GetResult {
        let at = place.at.clone();
        self.at_replica(place, move |view, span| {
            if keys.iter().any(|key| !span.contains(key)) {
                return Err(OTHER_BOUNDS);
            }
            values(view, &keys, Seen { read_ts: at.version, pass_over: &at.pass_over })
        })
        .await
    }

    /// A page of a range.
    ///
    /// # Errors
    /// As for keys.
    pub async fn scan_at_replica(
        &self,
        place: AtReplica,
        span: Span,
        options: ScanOptions,
    ) -> Result<Page, Refusal> {
        let at = place.at.clone();
        self.at_replica(place, move |view, whole| {
            let span = whole.intersect(&span).ok_or(OTHER_BOUNDS)?;
            page(view, &span, at.version, &at.pass_over, &options)
        })
        .await
    }

    async fn at_replica<T, F>(&self, place: AtReplica, read: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&View, &Span) -> Result<T, Refusal> + Send + 'static,
    {
        let deadline = place.deadline;
        wait_until_applied(&*place.access, place.index, deadline).await?;
        let engine = Arc::clone(&self.engine);
        let job = self.pool.run(move || {
            let access = &*place.access;
            // Before the snapshot, which therefore shows at least this much.
            let before = access.applied_index();
            let Some((view, range, applied)) = View::of_replica(engine.snapshot(), access)? else {
                return Err(Refusal::RangeNotFound(access.range_id()));
            };
            if range.epoch.version != place.epoch_version {
                return Err(OTHER_BOUNDS);
            }
            let applied = applied.max(before);
            let closed = match place.index {
                0 => place.at.version <= access.closed_at(applied),
                index => index <= applied,
            };
            if !closed {
                return Err(NOT_CLOSED);
            }
            view.check_version(place.at.version)?;
            read(&view, &range.span)
        });
        timeout_at(deadline, job).await.map_err(|_| DEADLINE)??
    }

    /// Closes a version on the leader, and proves that it led: gives what has to be applied to read there.
    ///
    /// # Errors
    /// Any refusal of a read.
    pub async fn claim(
        &self,
        target: &Target,
        version: Timestamp,
        deadline: Instant,
    ) -> Result<u64, Refusal> {
        self.await_writes(target, version, deadline).await?;
        let index = target.access().applied_index();
        // Also if there is a lease: the round tells the followers what is committed.
        match timeout_at(deadline, target.access().read_index()).await {
            // All that was committed is applied by now: a change of bounds, too.
            Ok(Ok(())) if target.is_current() => Ok(index),
            Ok(Ok(())) => Err(target.outdated()),
            Ok(Err(ReadError::NotLeader)) => Err(target.not_leader()),
            Ok(Err(_)) | Err(_) => Err(Refusal::NotReady("the leader could not confirm itself")),
        }
    }
}

async fn wait_until_applied(
    access: &dyn RangeAccess,
    index: u64,
    deadline: Instant,
) -> Result<(), Refusal> {
    let mut pause = LOOK_FIRST;
    while access.applied_index() < index {
        if Instant::now() + pause >= deadline {
            return Err(NOT_CLOSED);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_LONGEST);
    }
    Ok(())
}
