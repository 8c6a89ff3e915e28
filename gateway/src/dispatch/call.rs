//! The progress of one operation over its attempts: whether to try again, when, and what to say at
//! the end.
//!
//! Owns: the retry rules. Must not know: routes, links, time (it is passed in). Invariant: once an
//! attempt may have been applied, the operation ends in an answer or in `OutcomeUnknown`.

use crate::backoff::Backoff;
use crate::errors::Failure;
use crate::operation::Operation;
use bytes::Bytes;
use rangedb_types::{RangeId, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// Attempts that follow a redirect at once; later ones pause, so that two replicas that name each
/// other do not spin.
const REDIRECTS_MAX: u32 = 4;
/// Attempts after an overload refusal, unless the caller is patient.
const OVERLOADS_MAX: u32 = 4;
/// Every so many attempts without a leader the route is asked for anew.
const REFRESH_EVERY: u32 = 4;
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_LONGEST: Duration = Duration::from_millis(200);
/// With no more than a tenth of a call's time left, and no more than this, a write of which nothing was applied is not
/// tried again: if the node's answer came too late, what is known now would be unknown. What a node keeps for the way
/// of its answer is as long, so that after a node that used all its time there is no other attempt.
const LAST_MAX: Duration = Duration::from_millis(100);

/// Why an attempt has to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another replica was named, or none is known.
    NotLeader,
    /// The route was out of date.
    EpochMismatch,
    RangeNotFound,
    NotReady,
    Overloaded,
    NoTimestamp,
    /// Placement gave no route.
    NoRoute,
    /// The node could not be reached; nothing was sent.
    NotSent,
    /// The stream broke with the request on it.
    Lost,
    TimedOut,
    /// The node does not know what became of the write.
    OutcomeUnknown,
    /// Another transaction's intent is in the way.
    Locked,
}

impl Reason {
    /// Label of the retry metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotLeader => "not_leader",
            Self::EpochMismatch => "epoch_mismatch",
            Self::RangeNotFound => "range_not_found",
            Self::NotReady => "not_ready",
            Self::Overloaded => "overloaded",
            Self::NoTimestamp => "no_timestamp",
            Self::NoRoute => "no_route",
            Self::NotSent => "not_sent",
            Self::Lost => "lost",
            Self::TimedOut => "timed_out",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Locked => "locked",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotLeader => "no leader was found",
            Self::EpochMismatch => "its bounds kept changing",
            Self::RangeNotFound => "its replicas were not found",
            Self::NotReady => "its leader is not ready yet",
            Self::Overloaded => "its node is overloaded",
            Self::NoTimestamp => "its node got no timestamp from placement",
            Self::NoRoute => "its place is not known",
            Self::NotSent => "its node cannot be reached",
            Self::Lost => "the connection to its node broke",
            Self::TimedOut => "its node did not answer in time",
            Self::OutcomeUnknown => "its leader changed meanwhile",
            Self::Locked => "a transaction holds the key",
        }
    }

    /// True if a write may have been applied by the attempt.
    #[must_use]
    pub const fn may_be_applied(self) -> bool {
        matches!(self, Self::Lost | Self::TimedOut | Self::OutcomeUnknown)
    }

    /// True if the way led to the wrong place and placement may know better.
    const fn is_misrouted(self) -> bool {
        matches!(self, Self::NotLeader | Self::EpochMismatch | Self::NotSent | Self::TimedOut)
    }
}

/// What to do after an attempt that has to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub reason: Reason,
    pub range_id: RangeId,
    /// True if the next attempt goes elsewhere and may start at once.
    pub redirected: bool,
}

/// What to do before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub pause: Duration,
    /// Ask placement for the route again.
    pub refresh: bool,
}

/// One operation under way.
#[derive(Debug)]
pub struct Call {
    pub deadline: Instant,
    /// A write of which nothing was applied is tried again until then.
    last: Instant,
    /// Waits out an overload until the deadline, for streams that hold their client back instead.
    patient: bool,
    maybe_applied: bool,
    attempts: u32,
    redirects: u32,
    overloads: u32,
    backoff: Backoff,
    failed: Option<(Reason, RangeId)>,
}

impl Retry {
    /// After an attempt that met an intent: the next one, made by [`super::Dispatcher::execute`], sees to it.
    #[must_use]
    pub const fn locked() -> Self {
        Self { reason: Reason::Locked, range_id: RangeId(0), redirected: true }
    }
}

impl Call {
    /// An operation that began then, perhaps with an attempt made elsewhere.
    #[must_use]
    pub fn new(began: Instant, deadline: Instant, patient: bool) -> Self {
        let last = (deadline.saturating_duration_since(began) / 10).min(LAST_MAX);
        Self {
            deadline,
            last: deadline - last,
            patient,
            maybe_applied: false,
            attempts: 0,
            redirects: 0,
            overloads: 0,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_LONGEST),
            failed: None,
        }
    }

    /// True if an earlier attempt of this gateway's may have been applied.
    #[must_use]
    pub const fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    /// Decides what follows a failed attempt.
    ///
    /// # Errors
    /// The end of the operation, if it is not tried again.
    pub fn after(
        &mut self,
        operation: &Operation,
        retry: Retry,
        now: Instant,
    ) -> Result<Next, Failure> {
        self.attempts += 1;
        self.maybe_applied |= retry.reason.may_be_applied();
        self.failed = Some((retry.reason, retry.range_id));
        if retry.reason == Reason::Overloaded && !self.patient && !self.maybe_applied {
            self.overloads += 1;
            if self.overloads > OVERLOADS_MAX {
                return Err(self.give_up(operation));
            }
        }
        let redirect = retry.redirected && self.redirects < REDIRECTS_MAX;
        let pause = if redirect {
            self.redirects += 1;
            Duration::ZERO
        } else {
            self.backoff.pause()
        };
        let nothing_applied = may_write(operation) && !self.is_open(operation);
        if now + pause >= if nothing_applied { self.last } else { self.deadline } {
            return Err(self.give_up(operation));
        }
        let refresh = retry.reason == Reason::RangeNotFound
            || (retry.reason == Reason::EpochMismatch && !retry.redirected)
            || (retry.reason.is_misrouted() && self.attempts.is_multiple_of(REFRESH_EVERY));
        Ok(Next { pause, refresh })
    }

    /// True of a write of which an attempt, of this gateway's or of an earlier one's, may have been applied.
    fn is_open(&self, operation: &Operation) -> bool {
        may_write(operation)
            && (self.maybe_applied || operation.identity().is_some_and(|of| of.retry))
    }

    /// The end of an operation that found no answer.
    #[must_use]
    pub fn give_up(&self, operation: &Operation) -> Failure {
        if self.is_open(operation) {
            let (request_id, seen) = operation
                .identity()
                .map_or((Bytes::new(), Timestamp::ZERO), |of| (of.request_id.clone(), of.seen));
            return Failure::OutcomeUnknown { request_id, seen };
        }
        let (reason, range_id) = self.failed.unwrap_or((Reason::TimedOut, RangeId(0)));
        match reason {
            Reason::Overloaded => Failure::Overloaded,
            Reason::NoTimestamp | Reason::NoRoute => {
                Failure::PlacementUnavailable { why: reason.words().to_owned() }
            }
            _ => Failure::RangeUnavailable { range_id, why: reason.words().to_owned() },
        }
    }
}

fn may_write(operation: &Operation) -> bool {
    operation.identity().is_some() || matches!(operation, Operation::Action(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Identity;
    use tonic::Code;

    fn put(retry: bool) -> Operation {
        Operation::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::new(),
            condition: None,
            identity: Identity {
                request_id: Bytes::from_static(&[1; 16]),
                seen: Timestamp(1),
                retry,
            },
        }
    }

    fn get() -> Operation {
        Operation::get(vec![Bytes::from_static(b"k")])
    }

    fn retry(reason: Reason, redirected: bool) -> Retry {
        Retry { reason, range_id: RangeId(7), redirected }
    }

    #[test]
    fn a_write_that_may_be_applied_ends_unknown_and_a_read_unavailable() {
        let now = Instant::now();
        for reason in [Reason::Lost, Reason::TimedOut, Reason::OutcomeUnknown] {
            let mut call = Call::new(now, now + Duration::from_secs(1), false);
            call.after(&put(false), retry(reason, false), now).unwrap();
            assert!(call.maybe_applied());
            // A later attempt that surely did nothing does not make the first one undone.
            let end = call.after(&put(false), retry(Reason::NotSent, false), call.deadline);
            assert_eq!(end.unwrap_err().code(), Code::Unknown);
            let end = call.after(&get(), retry(reason, false), call.deadline);
            assert_eq!(end.unwrap_err().code(), Code::Unavailable);
        }
    }

    #[test]
    fn a_write_that_was_never_sent_ends_unavailable() {
        let now = Instant::now();
        for reason in [Reason::NotLeader, Reason::NotSent, Reason::NotReady, Reason::NoTimestamp] {
            let mut call = Call::new(now, now, false);
            let end = call.after(&put(false), retry(reason, false), now).unwrap_err();
            assert_eq!(end.code(), Code::Unavailable);
            let end = call.after(&put(true), retry(reason, false), now).unwrap_err();
            assert_eq!(end.code(), Code::Unknown, "the caller's first attempt is still open");
        }
    }

    #[test]
    fn redirects_are_followed_at_once_but_not_for_ever() {
        let now = Instant::now();
        let mut call = Call::new(now, now + Duration::from_secs(9), false);
        for _ in 0..REDIRECTS_MAX {
            let next = call.after(&get(), retry(Reason::NotLeader, true), now).unwrap();
            assert_eq!(next.pause, Duration::ZERO);
        }
        let next = call.after(&get(), retry(Reason::NotLeader, true), now).unwrap();
        assert!(next.pause > Duration::ZERO);
    }

    #[test]
    fn overload_is_shed_unless_the_caller_is_patient() {
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        let mut call = Call::new(now, far, false);
        let mut patient = Call::new(now, far, true);
        for _ in 0..OVERLOADS_MAX {
            call.after(&get(), retry(Reason::Overloaded, false), now).unwrap();
        }
        let end = call.after(&get(), retry(Reason::Overloaded, false), now).unwrap_err();
        assert_eq!(end.code(), Code::ResourceExhausted);
        for _ in 0..100 {
            patient.after(&get(), retry(Reason::Overloaded, false), now).unwrap();
        }
    }

    #[test]
    fn what_surely_did_nothing_does_not_become_unknown_at_the_last_moment() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        // When the node's answer came, as it used all the time it was given, and a moment before.
        for (late, tried_again) in
            [(Duration::from_millis(900), false), (Duration::from_millis(850), true)]
        {
            let mut call = Call::new(now, now + second, true);
            let next = call.after(&put(false), retry(Reason::NoTimestamp, false), now + late);
            assert_eq!(next.is_ok(), tried_again);
            for (operation, reason) in [
                (get(), Reason::NoTimestamp),
                (put(true), Reason::NoTimestamp),
                (put(false), Reason::Lost),
            ] {
                let mut call = Call::new(now, now + second, true);
                call.after(&operation, retry(reason, false), now + late).unwrap();
            }
        }
        let mut long = Call::new(now, now + 60 * second, true);
        long.after(&put(false), retry(Reason::NotReady, false), now + second * 59).unwrap();
    }
}
