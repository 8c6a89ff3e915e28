//! The end of a process. Owns: turning signals into a cancellation. Must not know: what stops.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was told twice to stop.
pub const EXIT_CODE_FORCED: u8 = 130;

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process at once. Must be
/// called on a tokio runtime, once, by `main`; the task behind it lives as long as the process.
///
/// # Panics
/// If the operating system refuses a signal handler, which only a broken environment does.
#[must_use]
pub fn signals() -> CancellationToken {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM may be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT may be handled");
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        cancelled.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "told twice to stop, leaving at once");
        crate::process::end(EXIT_CODE_FORCED);
    });
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_first_signal_cancels() {
        let token = signals();
        assert!(!token.is_cancelled());
        let me = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &me]).status().unwrap();
        assert!(sent.success());
        tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await.unwrap();
    }
}
