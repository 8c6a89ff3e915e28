//! Judging logs: an unexpected WARN or ERROR, or any line that is no log line (a panic), is trouble.

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// What processes say, rightly, when another one is killed or stopped.
pub const PEER_LOST: &[&str] = &[
    "storage node stays unreachable",
    "no longer ready to serve",
    "cannot send raft messages",
    "a snapshot was not sent",
    // The torn end of a log whose process was killed is normal.
    "Truncating log file due to broken batch",
    // openraft tells of every connection that it cannot make.
    r#""target":"openraft"#,
];

/// What is said in healthy clusters too: openraft warns of votes that come late at an election.
const HARMLESS: &[&str] = &["A message will be ignored because vote changed"];

/// How much is trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    Warn,
    /// While a cluster stops, its parts lose each other one by one: warnings mean nothing.
    Error,
}

/// The lines of a JSON log that are trouble, without those that contain one of `allowed`.
///
/// # Errors
/// The file cannot be read.
pub fn trouble(log: &Path, threshold: Threshold, allowed: &[&str]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let found = text.lines().filter(|line| is_trouble(line, threshold, allowed));
    Ok(found.map(str::to_owned).collect())
}

fn is_trouble(line: &str, threshold: Threshold, allowed: &[&str]) -> bool {
    let quiet = match serde_json::from_str::<serde_json::Value>(line) {
        Ok(entry) => match entry["level"].as_str() {
            Some("WARN") => threshold == Threshold::Error,
            Some("ERROR") | None => false,
            Some(_) => true,
        },
        Err(_) => line.trim().is_empty(),
    };
    !quiet && !is_allowed(line, allowed)
}

fn is_allowed(line: &str, allowed: &[&str]) -> bool {
    HARMLESS.iter().chain(allowed).any(|words| line.contains(words))
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

    /// Forgets what was collected, for the next cluster of this process.
    pub fn clear(&self) {
        self.lines.lock().clear();
    }

    /// What was collected so far, without what contains one of `allowed`.
    #[must_use]
    pub fn trouble(&self, threshold: Threshold, allowed: &[&str]) -> Vec<String> {
        let lines = self.lines.lock();
        let loud = |line: &&String| threshold == Threshold::Warn || line.starts_with("ERROR");
        let found = lines.iter().filter(loud).filter(|line| !is_allowed(line, allowed));
        found.cloned().collect()
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
        let trouble = |line: &str, allowed: &[&str]| is_trouble(line, Threshold::Warn, allowed);
        assert!(!trouble(r#"{"level":"INFO","message":"became leader"}"#, &[]));
        assert!(trouble(r#"{"level":"WARN","message":"slow disk"}"#, &[]));
        assert!(!trouble(r#"{"level":"WARN","message":"slow disk"}"#, &["slow disk"]));
        assert!(trouble("thread 'main' panicked at src/main.rs", &[]));
        assert!(!trouble("", &[]));
        assert!(!is_trouble(r#"{"level":"WARN"}"#, Threshold::Error, &[]));
        assert!(is_trouble(r#"{"level":"ERROR"}"#, Threshold::Error, &[]));
    }
}
