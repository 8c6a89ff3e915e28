//! DeleteRange over any span: range by range, in key order.
//!
//! Owns: the walk over the ranges. Must not know: links, retries inside a range. Invariants: every
//! part bears the caller's request id, so that repeating the whole does no part twice; once a part
//! may have been done, a failure of a later one is told as an unknown outcome. Each range's part is
//! atomic; the whole is not.

use crate::dispatch::{Call, Dispatcher};
use crate::errors::Failure;
use crate::operation::{Identity, Operation, Place};
use bytes::Bytes;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use tokio::time::Instant;

/// Attempts at one part whose range changed its bounds under way.
const ATTEMPTS_MAX: u32 = 32;

/// Deletes every key of `[start, end)`; an empty `end` is unbounded. Returns the largest version of
/// the parts.
///
/// # Errors
/// Why it failed; `OutcomeUnknown` if a part may have been done.
pub async fn delete_range(
    dispatcher: &Dispatcher,
    start: Bytes,
    end: Bytes,
    identity: Identity,
    deadline: Instant,
) -> Result<u64, Failure> {
    let (mut cursor, mut version, mut any_done) = (start, 0, false);
    loop {
        let part = Part { dispatcher, start: cursor, end: &end, identity: &identity, deadline };
        match part.delete().await {
            Ok((done, next)) => {
                version = version.max(done);
                any_done = true;
                match next {
                    Some(next) => cursor = next,
                    None => return Ok(version),
                }
            }
            Err(_) if any_done => return Err(unknown(&identity)),
            Err(failure) => return Err(failure),
        }
    }
}

fn unknown(identity: &Identity) -> Failure {
    Failure::OutcomeUnknown { request_id: identity.request_id.clone(), seen: identity.seen }
}

/// What is left of the span, of which the first range's part is done.
struct Part<'a> {
    dispatcher: &'a Dispatcher,
    start: Bytes,
    end: &'a Bytes,
    identity: &'a Identity,
    deadline: Instant,
}

impl Part<'_> {
    /// Returns the version and where to go on, if anywhere.
    async fn delete(&self) -> Result<(u64, Option<Bytes>), Failure> {
        let mut identity = self.identity.clone();
        for _ in 0..ATTEMPTS_MAX {
            let (end, next) = self.bounds().await?;
            let start = self.start.clone();
            let operation = Operation::DeleteRange { start, end, identity: identity.clone() };
            let call = Call::new(Instant::now(), self.deadline, false);
            match self.dispatcher.execute(&operation, call).await {
                Ok(answered) => match answered.answer {
                    Answer::Write(written) => return Ok((written.version, next)),
                    _ => return Err(Failure::Internal { message: "unexpected answer".to_owned() }),
                },
                // The range was split meanwhile: its part is smaller now.
                Err(Failure::NotImplemented { .. }) => {}
                Err(Failure::OutcomeUnknown { .. }) if Instant::now() < self.deadline => {
                    identity.retry = true;
                }
                Err(failure) => return Err(failure),
            }
        }
        if identity.retry {
            return Err(unknown(&identity));
        }
        let why = "the bounds of its ranges kept changing".to_owned();
        Err(Failure::RangeUnavailable { range_id: rangedb_types::RangeId(0), why })
    }

    /// The end of the part in the first range, and the start of the next one.
    async fn bounds(&self) -> Result<(Bytes, Option<Bytes>), Failure> {
        let range_end =
            self.dispatcher.range_end(&Place::At(self.start.clone()), self.deadline).await?;
        let inside = range_end.is_empty() || (!self.end.is_empty() && *self.end <= range_end);
        Ok(if inside { (self.end.clone(), None) } else { (range_end.clone(), Some(range_end)) })
    }
}
