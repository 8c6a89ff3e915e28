//! Waiting for conditions, always with a limit.

use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is no error; gives the last error when the limit is over.
///
/// # Errors
/// The condition's last error, with what was waited for.
pub async fn until<T, F>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(PAUSE);
        let error = match tokio::time::timeout(left, condition()).await {
            Ok(Ok(met)) => return Ok(met),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("the look itself did not end"),
        };
        if Instant::now() >= end {
            return Err(error).with_context(|| format!("waited {limit:?} until {what}"));
        }
        pause().await;
    }
}

/// One pause between two looks.
pub async fn pause() {
    // tidy: the pause between two looks at a condition; `until` has the limit.
    tokio::time::sleep(PAUSE).await;
}

/// Lets a workload run for a while: the time is what is tested, not a condition.
pub async fn let_run(time: Duration) {
    // tidy: a workload is given time; nothing is waited for.
    tokio::time::sleep(time).await;
}
