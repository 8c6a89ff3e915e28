//! What runs only while this member leads.
//!
//! Owns: terms of office. Each begins after leadership was confirmed, so that everything committed
//! before is applied, and ends as soon as it is lost or can no longer be confirmed; then its
//! streams end and all that was known only from reports is forgotten.
//! Must not know: the wire of nodes and gateways beyond the commands it sends.
//! Invariant: at most one term of office at a time, and nothing of it outlives it.

mod duties;
mod office;
mod quiet;
mod sessions;

pub use office::Office;
pub use sessions::Session;

use crate::consensus::Consensus;
use crate::metrics::{LEADING, TERMS};
use rangedb_types::{MonotonicClock, SystemClock};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a confirmation of leadership may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before leadership is looked at again after it could not be confirmed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The present term of office, if this member leads.
pub type CurrentOffice = watch::Receiver<Option<Arc<Office>>>;

/// Takes office whenever this member leads, until cancelled.
pub(crate) async fn run(
    consensus: Arc<Consensus>,
    clock: SystemClock,
    current: watch::Sender<Option<Arc<Office>>>,
    cancel: CancellationToken,
) {
    let mut leadership = consensus.leadership();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            led = leadership.wait_for(|now| now.is_leader) => if led.is_err() { return },
        }
        let deadline = Instant::now() + CONFIRM_TIMEOUT;
        let term = tokio::select! {
            () = cancel.cancelled() => return,
            confirmed = consensus.confirm_leadership(deadline) => match confirmed {
                Ok(term) => term,
                Err(error) => {
                    tracing::debug!(%error, "leadership is not confirmed");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            },
        };
        let ended = cancel.child_token();
        let office = Arc::new(Office::new(consensus.clone(), clock, clock.now(), ended.clone()));
        tracing::info!(term = term.0, "serving as placement's leader");
        TERMS.inc();
        LEADING.set(1);
        current.send_replace(Some(office.clone()));
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = leadership.wait_for(|now| !now.is_leader || now.term != term) => {}
            () = duties::run(&office) => {}
        }
        ended.cancel();
        current.send_replace(None);
        LEADING.set(0);
        tracing::info!(term = term.0, "no longer serving as placement's leader");
    }
}
