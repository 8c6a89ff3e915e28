//! The bounded queue of one peer node: filled by Raft threads, emptied by the peer's task.

use super::Outbound;
use super::wire::queued_bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Messages queued for one node, whatever their size.
const MESSAGES_MAX: usize = 128 << 10;
/// A frame is ended once it has this many bytes; a larger message travels alone.
const FRAME_BYTES: usize = 1 << 20;

pub(super) struct Queue {
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Outbound>,
    bytes: usize,
    /// A frame is to leave even if it is empty.
    beat: bool,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// Returns how many messages did not fit.
    pub fn push(&self, messages: impl Iterator<Item = Outbound>) -> usize {
        let mut refused = 0;
        let mut waiting = self.waiting.lock();
        for message in messages {
            let bytes = queued_bytes(&message);
            // A message always fits into an empty queue, however large it is.
            let full = waiting.bytes + bytes > self.bytes_max && waiting.bytes > 0;
            if full || waiting.messages.len() >= MESSAGES_MAX {
                refused += 1;
                continue;
            }
            waiting.bytes += bytes;
            waiting.messages.push_back(message);
        }
        drop(waiting);
        self.filled.notify_one();
        refused
    }

    /// Asks for a sign of life: a frame, even if it is empty.
    pub fn beat(&self) {
        self.waiting.lock().beat = true;
        self.filled.notify_one();
    }

    /// Waits until there is something, and takes a frame of it. It is empty if there is nothing to
    /// say but that this node lives.
    pub async fn next_frame(&self) -> Vec<Outbound> {
        loop {
            let (frame, beat) = {
                let mut waiting = self.waiting.lock();
                (waiting.take_frame(), std::mem::take(&mut waiting.beat))
            };
            if beat || !frame.is_empty() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    /// Waits until there is something and leaves it there.
    pub async fn wait(&self) {
        while !self.waiting.lock().is_wanted() {
            self.filled.notified().await;
        }
    }

    /// Throws everything away. Returns how many messages that were.
    pub fn clear(&self) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.messages).len()
    }
}

impl Waiting {
    fn is_wanted(&self) -> bool {
        self.beat || !self.messages.is_empty()
    }

    fn take_frame(&mut self) -> Vec<Outbound> {
        let mut frame = Vec::new();
        let mut frame_bytes = 0;
        while let Some(message) = self.messages.front() {
            let bytes = queued_bytes(message);
            if !frame.is_empty() && frame_bytes + bytes > FRAME_BYTES {
                break;
            }
            frame_bytes += bytes;
            self.bytes -= bytes;
            frame.extend(self.messages.pop_front());
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::append_of;
    use super::*;

    #[tokio::test]
    async fn frames_are_bounded_and_large_messages_travel_alone() {
        let queue = Queue::new(16 << 20);
        let sizes = [1000, 2000, 3 << 20, 1000, 600 << 10, 600 << 10];
        assert_eq!(queue.push(sizes.into_iter().map(append_of)), 0);
        let mut frames = Vec::new();
        for _ in 0..4 {
            frames.push(queue.next_frame().await.len());
        }
        assert_eq!(frames, [2, 1, 2, 1]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_room_comes_back() {
        let queue = Queue::new(10_000);
        assert_eq!(queue.push([50_000].into_iter().map(append_of)), 0);
        assert_eq!(queue.push([10].into_iter().map(append_of)), 1);
        assert_eq!(queue.next_frame().await.len(), 1);
        assert_eq!(queue.push([4_000, 4_000, 4_000].into_iter().map(append_of)), 1);
        assert_eq!(queue.clear(), 2);
        assert_eq!(queue.push([4_000, 4_000].into_iter().map(append_of)), 0);
    }
}
