//! Carries raft-rs' own log lines (slog) into `tracing`.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        let text = record.msg();
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{text}"),
            // raft-rs warns of what is normal here: a rejected vote, a follower that lags.
            Level::Warning | Level::Info => tracing::debug!(target: "raft", "{text}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{text}"),
        }
        Ok(())
    }
}

/// A logger for `RawNode`. Formatting costs nothing while the level is off.
pub fn logger() -> Logger {
    let filtered = ToTracing.filter(|record: &Record<'_>| match record.level() {
        Level::Critical | Level::Error => true,
        Level::Warning | Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
        Level::Debug | Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
    });
    Logger::root(filtered.fuse(), slog::o!())
}
