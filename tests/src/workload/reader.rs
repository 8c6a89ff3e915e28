//! One reader: looks at random keys, and at all of them at once, while they are written.

use super::Shared;
use super::history::{Keys, check_read};
use anyhow::{Result, bail};
use rand::Rng as _;
use rand::rngs::StdRng;
use rangedb_client::{Client, Error, RetryAdvice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two reads, so that readers do not take the machine from the writers.
const PAUSE: Duration = Duration::from_millis(5);

pub async fn run(shared: Arc<Shared>, client: Client, mut random: StdRng) -> Result<()> {
    while !shared.stop.is_cancelled() {
        let index = random.random_range(0..shared.keys.len());
        let low = shared.keys.last_done(index);
        match client.get(Keys::name(index)).await {
            Ok(found) => {
                let history = shared.keys.history(index);
                let found = found.as_ref().map(|found| (&found.value[..], found.version));
                check_read(index, &history, low, found).map_err(anyhow::Error::msg)?;
                shared.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if may_fail(&error) => {
                shared.reads_refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => bail!("a read was refused: {error}"),
        }
        let _ = tokio::time::timeout(PAUSE, shared.stop.cancelled()).await;
    }
    Ok(())
}

/// A fault may be longer than a read's time.
fn may_fail(error: &Error) -> bool {
    error.retry_advice() == RetryAdvice::Safe
}
