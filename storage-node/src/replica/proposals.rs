//! Proposals between their arrival and their application. Pure.
//!
//! Writes that arrive together enter the log as one entry. A waiting proposal is found again by the
//! index and term of its entry; if another term's entry is applied at that index, or leadership
//! ends, its outcome is unknown here.

use crate::store::handle::ProposeError;
use rangedb_proto::internal::v1::WriteCommand;
use std::collections::VecDeque;

/// Answers a proposal.
pub type ProposeReply = Box<dyn FnOnce(Result<(), ProposeError>) + Send>;

/// A write that has not entered the log yet.
pub struct Write {
    /// The term its evaluation relied on.
    pub term: u64,
    pub epoch_version: u64,
    pub command: WriteCommand,
    pub size_bytes: usize,
    pub reply: ProposeReply,
}

struct Waiting {
    index: u64,
    term: u64,
    replies: Vec<ProposeReply>,
}

/// Entries of this leader that are not applied yet.
#[derive(Default)]
pub struct Proposals {
    waiting: VecDeque<Waiting>,
}

impl Proposals {
    /// An entry entered the log. Indexes only grow within a term.
    pub fn push(&mut self, index: u64, term: u64, replies: Vec<ProposeReply>) {
        self.waiting.push_back(Waiting { index, term, replies });
    }

    /// The replies that wait for a committed entry; those whose place was taken by another term's
    /// entry are answered as unknown on the way.
    pub fn take(&mut self, index: u64, term: u64) -> Vec<ProposeReply> {
        while let Some(waiting) = self.waiting.front() {
            if waiting.index > index {
                break;
            }
            let waiting = self.waiting.pop_front().expect("the front was just seen");
            if waiting.index == index && waiting.term == term {
                return waiting.replies;
            }
            fail(waiting.replies, &ProposeError::OutcomeUnknown);
        }
        Vec::new()
    }

    /// Leadership ended.
    pub fn fail_all(&mut self) {
        for waiting in self.waiting.drain(..) {
            fail(waiting.replies, &ProposeError::OutcomeUnknown);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Answers all with the same error.
pub fn fail(replies: Vec<ProposeReply>, error: &ProposeError) {
    for reply in replies {
        reply(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[test]
    fn replies_follow_their_entry_and_no_other() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let reply = |id: u32| -> ProposeReply {
            let log = Arc::clone(&log);
            Box::new(move |result| log.lock().push((id, result)))
        };
        let mut proposals = Proposals::default();
        proposals.push(5, 2, vec![reply(1)]);
        proposals.push(6, 2, vec![reply(2), reply(3)]);
        proposals.push(7, 2, vec![reply(4)]);
        assert!(proposals.take(4, 2).is_empty());
        assert!(proposals.take(5, 3).is_empty(), "another leader's entry took the place");
        assert_eq!(log.lock().pop(), Some((1, Err(ProposeError::OutcomeUnknown))));
        assert_eq!(proposals.take(6, 2).len(), 2);
        proposals.fail_all();
        assert_eq!(log.lock().pop(), Some((4, Err(ProposeError::OutcomeUnknown))));
        assert!(proposals.is_empty());
    }
}
