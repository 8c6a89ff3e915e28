//! Versions that are held, and the version below which nothing need be kept.
//!
//! Invariant: a hold that was granted is respected by every safe point that is told later; and what was told
//! before lies at or below its version, or it is not granted.

use super::refusal::of_timestamps;
use super::{CALL_TIMEOUT, Services, unexpected};
use crate::state::{Command, HOLD_TTL_MAX, HOLD_WORDS_MAX, Hold, Rejection, Response as Outcome};
use rangedb_proto::v1 as wire;
use rangedb_types::Timestamp;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

const TTL_MIN: Duration = Duration::from_secs(1);

/// The safe point now.
pub(super) async fn safe_point(services: &Services) -> Result<Timestamp, Status> {
    // In this order: a hold that is granted later is compared with a later time than this one.
    let now = now(services).await?;
    Ok(services.consensus.read(|state| state.safe_point(now)))
}

async fn now(services: &Services) -> Result<Timestamp, Status> {
    let made = services.timestamps.batch(1, Instant::now() + CALL_TIMEOUT).await;
    let (now, _) = made.map_err(|error| of_timestamps(&services.consensus, &error))?;
    Ok(now)
}

pub(super) async fn hold(
    services: &Services,
    request: wire::HoldVersionRequest,
) -> Result<wire::VersionHold, Status> {
    let ttl = Duration::from_millis(request.ttl_ms);
    if !(TTL_MIN..=HOLD_TTL_MAX).contains(&ttl) {
        return Err(Status::invalid_argument("`ttl_ms` must be from 1 s to 24 h"));
    }
    if request.what.len() > HOLD_WORDS_MAX {
        let words = format!("`what` may have {HOLD_WORDS_MAX} bytes at most");
        return Err(Status::invalid_argument(words));
    }
    let now = now(services).await?;
    let version = if request.version == 0 { now } else { Timestamp(request.version) };
    if version > now {
        return Err(Status::invalid_argument("`version` lies in the future"));
    }
    let expires = Timestamp::new(now.physical_ms().saturating_add(request.ttl_ms), 0);
    let hold = Hold { hold_id: request.hold_id, version, expires, what: request.what };
    let stored = match services.propose(Command::PutHold { hold, now }).await? {
        Outcome::Hold(stored) => stored,
        other => return Err(unexpected(&other)),
    };
    if request.hold_id == 0 {
        check(services, &stored).await?;
    }
    Ok(to_wire(&stored))
}

/// A safe point that was asked for while the hold was being stored may lie above it.
async fn check(services: &Services, stored: &Hold) -> Result<(), Status> {
    let now = now(services).await?;
    let oldest = services.consensus.read(|state| state.oldest_to_hold(now));
    if stored.version >= oldest {
        return Ok(());
    }
    services.propose(Command::EndHold { hold_id: stored.hold_id }).await?;
    let refused = Rejection::TooOldToHold { version: stored.version, oldest };
    Err(super::refusal::of_rejection(&refused))
}

pub(super) fn to_wire(hold: &Hold) -> wire::VersionHold {
    wire::VersionHold {
        hold_id: hold.hold_id,
        version: hold.version.0,
        expires_ms: hold.expires.physical_ms(),
        what: hold.what.clone(),
    }
}
