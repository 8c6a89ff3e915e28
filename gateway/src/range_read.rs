//! Reads a span of keys in pages, over as many ranges as it takes.
//!
//! Owns: the version of the read and the way through the ranges. Must not know: gRPC streams.
//! Invariants: every page is as of one version; pages follow each other in key order (or reverse),
//! without gap or repetition; nothing is read ahead of the caller.

use crate::batch_get::unexpected;
use crate::dispatch::{Call, Dispatcher};
use crate::errors::Failure;
use crate::operation::{Operation, Place, ReadAt, Scan, Source};
use bytes::Bytes;
use rangedb_proto::internal::v1::NodeScanResult;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::v1::{KeyValueEntry, RangeResponse};
use rangedb_types::key::SYSTEM_PREFIX;
use rangedb_types::{RangeDescriptor, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What to read.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub start: Bytes,
    /// Exclusive; empty: unbounded.
    pub end: Bytes,
    /// `None`: all.
    pub limit: Option<u64>,
    pub reverse: bool,
    pub keys_only: bool,
    pub page_bytes: u64,
}

/// How long pages may take.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// The whole read ends here: the caller's own deadline.
    Until(Instant),
    /// Each page may take so long: a long read with a slow consumer is no failure.
    PerPage(Duration),
}

impl Patience {
    pub fn deadline(self) -> Instant {
        match self {
            Self::Until(deadline) => deadline,
            Self::PerPage(time) => Instant::now() + time,
        }
    }
}

/// A read under way.
pub struct RangeReader {
    dispatcher: Arc<Dispatcher>,
    /// What is left to read; the cursor is its start (or its end, in reverse).
    left: Wanted,
    patience: Patience,
    version: Timestamp,
    source: Source,
    finished: bool,
    sent_any: bool,
}

impl RangeReader {
    #[must_use]
    pub fn new(
        dispatcher: Arc<Dispatcher>,
        wanted: Wanted,
        at: ReadAt,
        patience: Patience,
    ) -> Self {
        let ReadAt { version, source, .. } = at;
        let (finished, sent_any) = (false, false);
        Self { dispatcher, left: wanted, patience, version, source, finished, sent_any }
    }

    /// The next page; `None` after the last. Even an empty read has one page, which tells its version.
    ///
    /// # Errors
    /// Those of the pages' reads.
    pub async fn next_page(&mut self) -> Result<Option<RangeResponse>, Failure> {
        let deadline = self.patience.deadline();
        while !self.finished {
            let (page, range) = self.read(deadline).await?;
            self.version = self.version.max(Timestamp(page.read_version));
            let entries = self.advance(page, &range);
            if !entries.is_empty() || (self.finished && !self.sent_any) {
                self.sent_any = true;
                return Ok(Some(RangeResponse { entries, version: self.version.0 }));
            }
        }
        Ok(None)
    }

    /// One page of one range.
    async fn read(
        &mut self,
        deadline: Instant,
    ) -> Result<(NodeScanResult, RangeDescriptor), Failure> {
        if self.version.is_zero() && !self.is_in_one_range(deadline).await {
            self.version = self.dispatcher.timestamp(deadline).await?;
        }
        let left = &self.left;
        let scan = Scan {
            start: left.start.clone(),
            end: left.end.clone(),
            limit: left.limit.unwrap_or(0),
            bytes_max: left.page_bytes,
            reverse: left.reverse,
            keys_only: left.keys_only,
            at: ReadAt { version: self.version, source: self.source, ..ReadAt::default() },
        };
        let call = Call::new(Instant::now(), deadline, false);
        let answered = self.dispatcher.execute(&Operation::Scan(scan), call).await?;
        let descriptor = answered.route.descriptor.clone();
        let Answer::Scan(page) = answered.answer else { return Err(unexpected()) };
        if self.version.is_zero() && !covers(&descriptor, &self.left) {
            // The range was split between the look at its route and the read. The page is as of a
            // version that means nothing to the other ranges: read it again at the oracle's.
            self.version = self.dispatcher.timestamp(deadline).await?;
            return Box::pin(self.read(deadline)).await;
        }
        Ok((page, descriptor))
    }

    /// True if all that is left lies in one range, as far as is known. A route that cannot be found
    /// is the read's business to report.
    async fn is_in_one_range(&self, deadline: Instant) -> bool {
        let place = if self.left.reverse {
            Place::Below(self.left.end.clone())
        } else {
            Place::At(self.left.start.clone())
        };
        match self.dispatcher.routes.find(&place, deadline).await {
            Ok(route) => covers(&route.descriptor, &self.left),
            Err(_) => false,
        }
    }

    /// Moves the cursor behind the page, and gives the entries that applications may see.
    fn advance(&mut self, page: NodeScanResult, range: &RangeDescriptor) -> Vec<KeyValueEntry> {
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            if !entry.key.starts_with(SYSTEM_PREFIX) {
                let (key, value, version) = (entry.key, entry.value, entry.version);
                entries.push(KeyValueEntry { key, value, version });
            }
        }
        if let Some(limit) = &mut self.left.limit {
            *limit = limit.saturating_sub(entries.len() as u64);
            self.finished |= *limit == 0;
        }
        let left = &mut self.left;
        if left.reverse {
            match page.resume {
                Some(resume) => left.end = resume,
                None => {
                    self.finished |= range.span.start.as_slice() <= left.start.as_ref();
                    left.end = Bytes::copy_from_slice(&range.span.start);
                }
            }
        } else {
            match page.resume {
                Some(resume) => left.start = resume,
                None => {
                    self.finished |= reaches(&range.span.end, &left.end);
                    left.start = Bytes::copy_from_slice(&range.span.end);
                }
            }
        }
        let empty = !left.end.is_empty() && left.start >= left.end;
        self.finished |= empty;
        entries
    }
}

/// True if the exclusive bound `range_end` lies at or behind `end`; empty is unbounded.
fn reaches(range_end: &[u8], end: &[u8]) -> bool {
    range_end.is_empty() || (!end.is_empty() && end <= range_end)
}

fn covers(range: &RangeDescriptor, left: &Wanted) -> bool {
    range.span.start.as_slice() <= left.start.as_ref() && reaches(&range.span.end, &left.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbounded_ends_reach_everything() {
        assert!(reaches(b"", b"") && reaches(b"", b"z") && reaches(b"m", b"m"));
        assert!(!reaches(b"m", b"") && !reaches(b"m", b"n"));
    }
}
