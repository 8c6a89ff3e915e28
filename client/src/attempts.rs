//! The progress of one call over its attempts.
//!
//! Owns: when to try again and what to say at the end. Must not know: how attempts are made.

use crate::error::{Error, Verdict};
use crate::write::WriteId;
use rangedb_types::{Random as _, SystemRandom};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_millis(400);
/// With more than one gateway an attempt gets this part of the time left, so that one that hangs
/// leaves time for another.
const ATTEMPT_SHARE: f64 = 0.5;
/// The same of a call that is long even where nothing hangs, and of which nothing is left when it ends.
const LONG_ATTEMPT_SHARE: f64 = 0.75;
const ATTEMPT_SHORTEST: Duration = Duration::from_millis(500);
/// With less than this part of a call's time left, and less than [`ATTEMPT_SHORTEST`], a write of which nothing was
/// applied is not tried again: if its answer came too late, what is known now would be unknown.
const LAST_SHARE: f64 = 0.2;

/// How much of the time that is left one attempt gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// [`ATTEMPT_SHARE`].
    Short,
    /// [`LONG_ATTEMPT_SHARE`].
    Long,
}

/// One call under way.
#[derive(Debug)]
pub struct Attempts {
    deadline: Instant,
    /// A write of which nothing was applied is tried again until then.
    last: Instant,
    patience: Patience,
    /// The write's identity; `None` for reads.
    write: Option<WriteId>,
    maybe_applied: bool,
    pause: Duration,
}

impl Attempts {
    pub fn new(timeout: Duration, write: Option<WriteId>) -> Self {
        let deadline = Instant::now() + timeout;
        let last = deadline - timeout.mul_f64(LAST_SHARE).min(ATTEMPT_SHORTEST);
        let patience = Patience::Short;
        Self { deadline, last, patience, write, maybe_applied: false, pause: PAUSE_FIRST }
    }

    #[must_use]
    pub const fn with(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// True if an earlier attempt may have been applied: the next one must say that it is a retry.
    pub const fn repeated(&self) -> bool {
        self.maybe_applied
    }

    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time of the next attempt.
    pub fn attempt_time(&self, gateways: usize) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let share = match self.patience {
            Patience::Short => ATTEMPT_SHARE,
            Patience::Long => LONG_ATTEMPT_SHARE,
        };
        if gateways < 2 { left } else { left.min(left.mul_f64(share).max(ATTEMPT_SHORTEST)) }
    }

    /// Takes in a failed attempt; waits if there will be another.
    ///
    /// # Errors
    /// The end of the call.
    pub async fn failed(&mut self, verdict: Verdict) -> Result<(), Error> {
        let error = match verdict {
            // A definite refusal of a write ends it: the servers looked for an earlier attempt first.
            Verdict::Final(error) => return Err(error),
            Verdict::NotApplied(error) => error,
            Verdict::MaybeApplied(message) => {
                self.maybe_applied = true;
                Error::Unavailable { message }
            }
        };
        let until = Instant::now() + self.pause / 2 + SystemRandom.jitter(self.pause / 2);
        self.pause = (self.pause * 2).min(PAUSE_LONGEST);
        // A repeated write needs a version from before its first attempt.
        let can_repeat = match self.write {
            Some(write) => !self.maybe_applied || !write.seen.is_zero(),
            None => true,
        };
        let nothing_applied = self.write.is_some() && !self.maybe_applied;
        let end = if nothing_applied { self.last } else { self.deadline };
        if until >= end || !can_repeat {
            return Err(match self.write {
                Some(id) if self.maybe_applied => Error::OutcomeUnknown { id },
                _ => error,
            });
        }
        sleep_until(until).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    fn lost() -> Verdict {
        Verdict::MaybeApplied("gone".to_owned())
    }

    #[test]
    fn an_attempt_leaves_time_for_another_gateway() {
        let minute = Duration::from_secs(60);
        let short = Attempts::new(minute, None);
        assert!(short.attempt_time(1) > minute * 9 / 10);
        let half = short.attempt_time(3);
        assert!(half <= minute / 2 && half > minute * 4 / 10, "{half:?}");
        let most = short.with(Patience::Long).attempt_time(3);
        assert!(most <= minute * 3 / 4 && most > minute * 6 / 10, "{most:?}");
    }

    #[tokio::test]
    async fn a_write_that_may_be_applied_ends_unknown() {
        let id = WriteId::new(Version(1));
        let mut attempts = Attempts::new(Duration::from_millis(30), Some(id));
        attempts.failed(lost()).await.unwrap();
        assert!(attempts.repeated());
        let refused = Verdict::NotApplied(Error::Unavailable { message: "later".to_owned() });
        let mut end = Ok(());
        while end.is_ok() {
            end = attempts.failed(refused.clone()).await;
        }
        assert!(matches!(end, Err(Error::OutcomeUnknown { id: known }) if known == id));
    }

    #[tokio::test]
    async fn without_a_seen_version_an_unknown_write_is_not_repeated() {
        let mut attempts = Attempts::new(Duration::from_secs(5), Some(WriteId::new(Version::ZERO)));
        assert!(matches!(attempts.failed(lost()).await, Err(Error::OutcomeUnknown { .. })));
        let mut read = Attempts::new(Duration::from_secs(5), None);
        read.failed(lost()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_known_to_be_refused_does_not_become_unknown_at_the_last_moment() {
        let timeout = Duration::from_secs(1);
        let refused = Verdict::NotApplied(Error::Unavailable { message: "later".to_owned() });
        let write = WriteId::new(Version(1));
        for (seen_lost, ended) in [(false, true), (true, false)] {
            let mut attempts = Attempts::new(timeout, Some(write));
            if seen_lost {
                attempts.failed(lost()).await.unwrap();
            }
            // A pause still fits before the deadline, but not before the last part of the time.
            attempts.last = Instant::now();
            assert_eq!(attempts.failed(refused.clone()).await.is_err(), ended);
        }
        let mut read = Attempts::new(timeout, None);
        read.last = Instant::now();
        read.failed(refused).await.unwrap();
    }
}
