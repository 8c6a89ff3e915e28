//! Who is told how a request ended.

use super::Outcome;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Receives the end of one request, exactly once.
pub trait Waiter: Send {
    /// Must not block. Whoever has to be woken afterwards goes into `wakes`, so that many answers
    /// of one message wake their stream once.
    fn done(self: Box<Self>, outcome: Outcome, wakes: &mut Wakes);
}

/// A stream that takes finished answers away.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// Streams to wake after a batch of answers.
#[derive(Default)]
pub struct Wakes {
    streams: Vec<Arc<dyn Wake>>,
}

impl Wakes {
    /// Notes a stream. Answers of one stream mostly follow each other, so only the last is compared.
    pub fn add<W: Wake + 'static>(&mut self, stream: &Arc<W>) {
        let known = self
            .streams
            .last()
            .is_some_and(|last| std::ptr::addr_eq(Arc::as_ptr(last), Arc::as_ptr(stream)));
        if !known {
            self.streams.push(Arc::clone(stream) as Arc<dyn Wake>);
        }
    }

    pub fn fire(self) {
        for stream in self.streams {
            stream.wake();
        }
    }
}

struct OneshotWaiter(oneshot::Sender<Outcome>);

impl Waiter for OneshotWaiter {
    fn done(self: Box<Self>, outcome: Outcome, _wakes: &mut Wakes) {
        // The receiver is gone if its caller went away; nobody is left to tell.
        let _ = self.0.send(outcome);
    }
}

/// A waiter for one task.
#[must_use]
pub fn oneshot_waiter() -> (Box<dyn Waiter>, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(OneshotWaiter(sender)), receiver)
}
