//! Judging logs: an unexpected WARN or ERROR, or any line that is no log line (a panic), is trouble.

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// The lines of a JSON log that are trouble, without those that contain one of `allowed`.
///
/// # Errors
/// The file cannot be read.
pub fn trouble(log: &Path, allowed: &[&str]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    Ok(text.lines().filter(|line| is_trouble(line, allowed)).map(str::to_owned).collect())
}

fn is_trouble(line: &str, allowed: &[&str]) -> bool {
    let quiet = match serde_json::from_str::<serde_json::Value>(line) {
        Ok(entry) => !matches!(entry["level"].as_str(), Some("WARN" | "ERROR") | None),
        Err(_) => line.trim().is_empty(),
    };
    !quiet && !allowed.iter().any(|words| line.contains(words))
}

/// WARN and ERROR events of this process, for clusters inside it.
#[derive(Clone, Default)]
pub struct Collected {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Collected {
    /// The process's collector; its logs also go to stderr, which a test runner keeps for failures.
    pub fn get() -> &'static Self {
        static COLLECTED: OnceLock<Collected> = OnceLock::new();
        COLLECTED.get_or_init(|| {
            let collected = Self::default();
            let filter = std::env::var("RANGEDB_TEST_LOG")
                .unwrap_or_else(|_| "warn,rangedb_storage_node=info".to_owned());
            // Another subscriber can only be a test's own; then there is nothing to collect.
            let _ = tracing_subscriber::registry()
                .with(EnvFilter::new(filter))
                .with(fmt::layer().with_ansi(false).with_writer(std::io::stderr))
                .with(collected.clone())
                .try_init();
            collected
        })
    }

    /// What was collected so far, without what contains one of `allowed`.
    #[must_use]
    pub fn trouble(&self, allowed: &[&str]) -> Vec<String> {
        let lines = self.lines.lock();
        let unexpected = |line: &&String| !allowed.iter().any(|words| line.contains(words));
        lines.iter().filter(unexpected).cloned().collect()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Collected {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() <= tracing::Level::WARN {
            let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
            event.record(&mut line);
            self.lines.lock().push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_panics_are_trouble_and_news_is_not() {
        assert!(!is_trouble(r#"{"level":"INFO","message":"became leader"}"#, &[]));
        assert!(is_trouble(r#"{"level":"WARN","message":"slow disk"}"#, &[]));
        assert!(!is_trouble(r#"{"level":"WARN","message":"slow disk"}"#, &["slow disk"]));
        assert!(is_trouble("thread 'main' panicked at src/main.rs", &[]));
        assert!(!is_trouble("", &[]));
    }
}
