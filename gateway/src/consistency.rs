//! What a read sees, and who may answer it.
//!
//! Owns: the meaning of a read's context. Must not know: routes, links.

use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{ReadAt, Source};
use crate::transaction::{Isolation, Tokens};
use rangedb_proto::v1::consistency::{Level, Stale};
use rangedb_proto::v1::{Consistency, RequestContext};
use rangedb_types::Timestamp;
use tokio::time::Instant;

/// What a read sees.
///
/// # Errors
/// `Invalid` for a token that is none, or for two answers to the question; `Expired`;
/// `PlacementUnavailable`.
pub async fn read_at(
    dispatcher: &Dispatcher,
    tokens: &Tokens,
    context: Option<&RequestContext>,
    deadline: Instant,
) -> Result<ReadAt, Failure> {
    let Some(context) = context else { return Ok(ReadAt::default()) };
    let level = level(context.consistency.as_ref());
    if !context.transaction.is_empty() {
        let version = of_transaction(dispatcher, tokens, context, deadline).await?;
        let source = Source::LeaderOfSnapshot;
        return Ok(ReadAt { version, source, ..ReadAt::default() });
    }
    let at_version = Timestamp(context.at_version);
    let (version, source) = match level {
        None | Some(Level::Linearizable(_)) => (at_version, Source::Leader),
        Some(Level::Stale(stale)) => {
            if !at_version.is_zero() {
                let words = "a stale read has a version of its own; leave out one of the two";
                return Err(Failure::invalid("context.at_version", words));
            }
            let session = Timestamp(context.session_version);
            (stale_version(dispatcher, stale, deadline).await?.max(session), Source::Closed)
        }
        Some(Level::Follower(_)) if at_version.is_zero() => {
            (dispatcher.timestamp(deadline).await?, Source::Claimed)
        }
        Some(Level::Follower(_)) => (at_version, Source::Claimed),
    };
    Ok(ReadAt { version, pass_over: Vec::new(), source })
}

fn level(consistency: Option<&Consistency>) -> Option<Level> {
    consistency.and_then(|consistency| consistency.level)
}

/// The oracle's time, less the age. Asks nobody, once anything was ever asked.
async fn stale_version(
    dispatcher: &Dispatcher,
    stale: Stale,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    if stale.max_age_ms == 0 {
        let words =
            "a stale read has an age of at least 1 ms; for the latest state ask linearizable";
        return Err(Failure::invalid("context.consistency.stale.max_age_ms", words));
    }
    let now = match dispatcher.timestamps.estimate() {
        Some(now) => now,
        None => dispatcher.timestamp(deadline).await?,
    };
    Ok(Timestamp::new(now.physical_ms().saturating_sub(stale.max_age_ms), 0))
}

async fn of_transaction(
    dispatcher: &Dispatcher,
    tokens: &Tokens,
    context: &RequestContext,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    if context.at_version != 0 {
        let words = "a transaction reads at a version of its own";
        return Err(Failure::invalid("context.at_version", words));
    }
    if !matches!(level(context.consistency.as_ref()), None | Some(Level::Linearizable(_))) {
        let words = "the reads of a transaction are as its isolation says";
        return Err(Failure::invalid("context.consistency", words));
    }
    let token = tokens.read(&context.transaction, deadline).await?;
    if token.is_expired(dispatcher.timestamps.latest_seen()) {
        return Err(Failure::Expired);
    }
    let version = token.read_version();
    if version.is_zero() && token.isolation != Isolation::ReadCommitted {
        let words =
            "this transaction has no snapshot yet: call TakeSnapshot, or Acquire with `read`";
        return Err(Failure::invalid("context.transaction", words));
    }
    Ok(version)
}
