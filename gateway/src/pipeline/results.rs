//! Finished operations of one Pipeline stream, until the stream takes them away.
//!
//! Owns: how many operations and bytes the stream holds. Must not know: operations' meaning.
//! Invariant: an operation counts from `admit` until its result is taken, so a client that does not
//! read its results cannot make the gateway hold more than the bounds allow.

use crate::nodes::waiter::Wake;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rangedb_proto::v1::PipelineResult;
use rangedb_proto::v1::pipeline_result::Result as Outcome;
use std::task::Waker;

/// Most results and bytes in one message; one result may be larger than the bytes.
const MESSAGE_RESULTS_MAX: usize = 2048;
const MESSAGE_BYTES_SOFT_MAX: usize = 4 << 20;
/// What a result costs beside its values.
const RESULT_OVERHEAD_BYTES: usize = 32;

#[derive(Default)]
struct State {
    results: Vec<PipelineResult>,
    result_bytes: usize,
    /// Operations admitted whose results were not taken yet.
    admitted: usize,
    /// Bytes of operations under way.
    operation_bytes: usize,
}

/// The buffer between operations that finish anywhere and the stream that sends their results.
#[derive(Default)]
pub struct Results {
    state: Mutex<State>,
    stream: AtomicWaker,
}

impl Results {
    /// Called before looking at the state, so that no later change is missed.
    pub fn register(&self, waker: &Waker) {
        self.stream.register(waker);
    }

    /// How many more operations fit.
    pub fn room(&self, operations_max: usize, bytes_max: usize) -> usize {
        let state = self.state.lock();
        if state.operation_bytes + state.result_bytes >= bytes_max {
            return 0;
        }
        operations_max.saturating_sub(state.admitted)
    }

    pub fn admit(&self, operations: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.admitted += operations;
        state.operation_bytes += bytes;
    }

    /// Keeps a result. Whoever calls this wakes the stream.
    pub fn push(&self, tag: u64, outcome: Outcome, operation_bytes: usize) {
        let bytes = result_bytes(&outcome);
        let mut state = self.state.lock();
        state.operation_bytes -= operation_bytes;
        state.result_bytes += bytes;
        state.results.push(PipelineResult { tag, result: Some(outcome) });
    }

    /// Results for one message.
    pub fn take(&self) -> Vec<PipelineResult> {
        let mut state = self.state.lock();
        let taken = if state.results.len() <= MESSAGE_RESULTS_MAX
            && state.result_bytes <= MESSAGE_BYTES_SOFT_MAX
        {
            let room = state.results.len();
            state.result_bytes = 0;
            std::mem::replace(&mut state.results, Vec::with_capacity(room))
        } else {
            let (count, bytes) = first_message(&state.results);
            state.result_bytes -= bytes;
            state.results.drain(..count).collect()
        };
        state.admitted -= taken.len();
        taken
    }

    /// True if nothing is under way and nothing waits to be taken.
    pub fn is_idle(&self) -> bool {
        self.state.lock().admitted == 0
    }
}

impl Wake for Results {
    fn wake(&self) {
        self.stream.wake();
    }
}

/// How many of the first results fit into one message, and their bytes.
fn first_message(results: &[PipelineResult]) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for result in results.iter().take(MESSAGE_RESULTS_MAX) {
        let next = result.result.as_ref().map_or(0, result_bytes);
        if count > 0 && bytes + next > MESSAGE_BYTES_SOFT_MAX {
            break;
        }
        count += 1;
        bytes += next;
    }
    (count, bytes)
}

fn result_bytes(outcome: &Outcome) -> usize {
    RESULT_OVERHEAD_BYTES
        + match outcome {
            Outcome::Get(get) => get.value.len(),
            Outcome::BatchGet(batch) => {
                batch.values.iter().map(|get| get.value.len() + RESULT_OVERHEAD_BYTES).sum()
            }
            Outcome::Error(error) => error.message.len(),
            Outcome::Put(_) | Outcome::Delete(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rangedb_proto::v1::{GetResponse, PutResponse};

    #[test]
    fn operations_count_until_their_results_are_taken() {
        let results = Results::default();
        results.admit(2, 20);
        assert_eq!(results.room(2, 100), 0);
        results.push(1, Outcome::Put(PutResponse { version: 1 }), 10);
        assert_eq!(results.room(2, 100), 0, "the result was not taken yet");
        assert_eq!(results.take().len(), 1);
        assert_eq!(results.room(2, 100), 1);
        assert!(!results.is_idle());
        results.push(2, Outcome::Put(PutResponse { version: 2 }), 10);
        assert_eq!(results.take().len(), 1);
        assert!(results.is_idle());
    }

    #[test]
    fn messages_are_cut_at_their_bytes_but_hold_at_least_one() {
        let results = Results::default();
        results.admit(3, 0);
        let large = Bytes::from(vec![0; MESSAGE_BYTES_SOFT_MAX + 1]);
        for tag in 0..3 {
            let get = GetResponse { found: true, value: large.clone(), version: 1 };
            results.push(tag, Outcome::Get(get), 0);
        }
        assert_eq!(results.room(10, MESSAGE_BYTES_SOFT_MAX), 0, "the bytes are bounded too");
        for tag in 0..3 {
            let taken = results.take();
            assert_eq!((taken.len(), taken[0].tag), (1, tag));
        }
        assert!(results.take().is_empty() && results.is_idle());
    }
}
