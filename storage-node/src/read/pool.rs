//! Threads for everything that reads the engine on behalf of requests, because engines block.
//!
//! Owns: the threads and their one bounded queue. Must not know: what a job does. Invariants: a job
//! that is taken runs, also while the pool stops; the queue never holds more than its limit.

use super::metrics;
use crate::access::Refusal;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// Jobs that wait at most, for each thread. A job reads at most one page or a few hundred keys, so a
/// longer queue would only hold requests that time out in it.
const QUEUED_PER_THREAD_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

struct Queued {
    job: Job,
    since: Instant,
}

/// The pool. Stops when it is told to, or dropped.
pub struct ReadPool {
    /// `None` once stopped.
    queue: Mutex<Option<Sender<Queued>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ReadPool {
    /// Starts the threads, at least one.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let count = threads.max(1);
        let (queue, jobs) = crossbeam_channel::bounded(count * QUEUED_PER_THREAD_MAX);
        let threads = (0..count)
            .map(|number| {
                let jobs = jobs.clone();
                std::thread::Builder::new()
                    .name(format!("read-{number}"))
                    .spawn(move || work(&jobs))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { queue: Mutex::new(Some(queue)), threads: Mutex::new(threads) })
    }

    /// Queues a job.
    ///
    /// # Errors
    /// `Overloaded` if the queue is full, `NotReady` if the pool has stopped.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let queued = Queued { job: Box::new(job), since: Instant::now() };
        // The lock is held for the length of a try_send, which never blocks.
        let queue = self.queue.lock();
        let queue = queue.as_ref().ok_or(Refusal::NotReady("the node is stopping"))?;
        match queue.try_send(queued) {
            Ok(()) => {
                metrics::POOL_QUEUED.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(Refusal::Overloaded("too many reads wait")),
            Err(TrySendError::Disconnected(_)) => Err(Refusal::NotReady("the node is stopping")),
        }
    }

    /// Runs a job and waits for what it returns.
    ///
    /// # Errors
    /// As `submit`; `Corrupt` if the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.submit(move || {
            // Nobody waits any more if the caller's deadline has passed.
            let _ = sender.send(job());
        })?;
        receiver.await.map_err(|_| Refusal::Corrupt("a read failed; see the node's log".to_owned()))
    }

    /// Takes no more jobs, runs those that wait, and ends the threads. Blocks.
    pub fn stop(&self) {
        drop(self.queue.lock().take());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // The panic of a job is caught; a panic of the loop itself has been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(jobs: &Receiver<Queued>) {
    for queued in jobs {
        metrics::POOL_QUEUED.set(i64::try_from(jobs.len()).unwrap_or(i64::MAX));
        metrics::POOL_WAIT.observe(queued.since.elapsed().as_secs_f64());
        // One broken request must not take a thread from all others.
        if catch_unwind(AssertUnwindSafe(queued.job)).is_err() {
            tracing::error!("a read panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn jobs_run_and_a_panic_is_one_requests_trouble() {
        let pool = ReadPool::start(1).unwrap();
        assert_eq!(pool.run(|| 1 + 1).await, Ok(2));
        let failed: Result<(), _> = pool.run(|| panic!("broken")).await;
        assert!(matches!(failed, Err(Refusal::Corrupt(_))));
        assert_eq!(pool.run(|| 3).await, Ok(3));
    }

    #[test]
    fn the_queue_is_bounded_and_emptied_at_the_end() {
        let pool = ReadPool::start(1).unwrap();
        let (release, gate) = mpsc::channel::<()>();
        let (ran, runs) = mpsc::channel();
        let mut taken = 0;
        pool.submit(move || gate.recv().expect("the gate opens")).unwrap();
        let refused = loop {
            let ran = ran.clone();
            match pool.submit(move || ran.send(()).expect("the test listens")) {
                Ok(()) => taken += 1,
                Err(refusal) => break refusal,
            }
        };
        assert!(matches!(refused, Refusal::Overloaded(_)));
        assert!(taken >= QUEUED_PER_THREAD_MAX - 1);
        release.send(()).unwrap();
        pool.stop();
        drop(ran);
        assert_eq!(runs.iter().count(), taken);
        assert!(matches!(pool.submit(|| ()), Err(Refusal::NotReady(_))));
    }
}
