//! Reads that wait for a ReadIndex round, and the rounds that renew the lease. Pure.
//!
//! A round serves exactly the reads that arrived before it was started. Contexts are minted here
//! from a counter and never used twice: raft-rs would let a repeated one confirm a later read.

use crate::store::handle::ReadError;
use rangedb_types::MonotonicTime;
use std::collections::VecDeque;
use std::time::Duration;

/// Answers a waiting read.
pub type ReadReply = Box<dyn FnOnce(Result<(), ReadError>) + Send>;

/// How many rounds may be under way; older ones are given up first.
const ROUNDS_MAX: usize = 64;
/// How many reads may wait; more are refused as not ready.
const READS_MAX: usize = 100_000;
/// A round that was not confirmed by now is repeated under a new context.
pub const ROUND_TIMEOUT: Duration = Duration::from_millis(300);

struct Round {
    context: u64,
    sent: MonotonicTime,
    waiting: Vec<ReadReply>,
}

struct Confirmed {
    index: u64,
    waiting: Vec<ReadReply>,
}

/// The reads of one replica.
#[derive(Default)]
pub struct Reads {
    last_context: u64,
    arrived: Vec<ReadReply>,
    rounds: VecDeque<Round>,
    confirmed: VecDeque<Confirmed>,
    waiting: usize,
}

impl Reads {
    /// Takes a read that arrived. Above the limit it is refused.
    pub fn push(&mut self, reply: ReadReply) {
        if self.waiting >= READS_MAX {
            reply(Err(ReadError::NotReady));
            return;
        }
        self.waiting += 1;
        self.arrived.push(reply);
    }

    /// True if reads arrived that no round serves yet.
    #[must_use]
    pub fn wants_round(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// True if no read waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Starts a round for all that arrived; the context must be handed to Raft.
    pub fn start_round(&mut self, now: MonotonicTime) -> u64 {
        if self.rounds.len() >= ROUNDS_MAX
            && let Some(oldest) = self.rounds.pop_front()
        {
            self.arrived.extend(oldest.waiting);
        }
        self.last_context += 1;
        let waiting = std::mem::take(&mut self.arrived);
        self.rounds.push_back(Round { context: self.last_context, sent: now, waiting });
        self.last_context
    }

    /// Reads of rounds that went unanswered wait for the next one.
    pub fn give_up_old_rounds(&mut self, now: MonotonicTime) {
        while let Some(round) = self.rounds.front() {
            if now.since(round.sent) < ROUND_TIMEOUT {
                break;
            }
            let round = self.rounds.pop_front().expect("the front was just seen");
            self.arrived.extend(round.waiting);
        }
    }

    /// A quorum confirmed a round at `index`; earlier rounds are confirmed by it too. Returns when
    /// the round was sent, or `None` if it had been given up.
    pub fn confirm(&mut self, context: u64, index: u64) -> Option<MonotonicTime> {
        let mut sent = None;
        let mut waiting = Vec::new();
        while self.rounds.front().is_some_and(|round| round.context <= context) {
            let round = self.rounds.pop_front().expect("the front was just seen");
            if round.context == context {
                sent = Some(round.sent);
            }
            waiting.extend(round.waiting);
        }
        if !waiting.is_empty() {
            self.confirmed.push_back(Confirmed { index, waiting });
        }
        sent
    }

    /// Answers the confirmed reads whose index has been applied.
    pub fn applied(&mut self, applied: u64) {
        while self.confirmed.front().is_some_and(|reads| reads.index <= applied) {
            let reads = self.confirmed.pop_front().expect("the front was just seen");
            self.waiting -= reads.waiting.len();
            for reply in reads.waiting {
                reply(Ok(()));
            }
        }
    }

    /// Refuses every read that is waiting: leadership ended.
    pub fn fail_all(&mut self, error: &ReadError) {
        let rounds = self.rounds.drain(..).flat_map(|round| round.waiting);
        let confirmed = self.confirmed.drain(..).flat_map(|reads| reads.waiting);
        for reply in self.arrived.drain(..).chain(rounds).chain(confirmed) {
            reply(Err(error.clone()));
        }
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    type Log = Arc<Mutex<Vec<(u32, bool)>>>;

    fn reply(log: &Log, id: u32) -> ReadReply {
        let log = Arc::clone(log);
        Box::new(move |result| log.lock().push((id, result.is_ok())))
    }

    fn at(ms: u64) -> MonotonicTime {
        MonotonicTime(Duration::from_millis(ms))
    }

    /// raft-rs confirms a later read by an earlier round's answer if a context repeats.
    #[test]
    fn read_index_contexts_are_never_used_twice() {
        let mut reads = Reads::default();
        let contexts: Vec<u64> = (0..200).map(|i| reads.start_round(at(i))).collect();
        assert!(contexts.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_round_serves_only_what_arrived_before_it() {
        let (mut reads, log) = (Reads::default(), Log::default());
        reads.push(reply(&log, 1));
        let first = reads.start_round(at(0));
        reads.push(reply(&log, 2));
        assert_eq!(reads.confirm(first, 7), Some(at(0)));
        reads.applied(6);
        assert!(log.lock().is_empty(), "index 7 is not applied yet");
        reads.applied(7);
        assert_eq!(*log.lock(), [(1, true)]);
        assert!(reads.wants_round());
    }

    /// raft-rs drops a ReadIndex without a word before the term's first commit.
    #[test]
    fn an_unanswered_round_is_repeated_under_a_new_context() {
        let (mut reads, log) = (Reads::default(), Log::default());
        reads.push(reply(&log, 1));
        let lost = reads.start_round(at(0));
        reads.give_up_old_rounds(at(300));
        let again = reads.start_round(at(300));
        assert_eq!(reads.confirm(lost, 5), None, "too late");
        assert!(reads.confirm(again, 5).is_some());
        reads.applied(5);
        assert_eq!(*log.lock(), [(1, true)]);
    }

    #[test]
    fn lost_leadership_fails_all() {
        let (mut reads, log) = (Reads::default(), Log::default());
        for id in 0..3 {
            reads.push(reply(&log, id));
            if id < 2 {
                let context = reads.start_round(at(0));
                if id == 0 {
                    reads.confirm(context, 9);
                }
            }
        }
        reads.fail_all(&ReadError::NotLeader);
        assert_eq!(log.lock().iter().filter(|(_, ok)| !ok).count(), 3);
    }
}
