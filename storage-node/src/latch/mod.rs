//! Latches: they order the writes of one range that touch the same keys.
//!
//! Owns: who may work on a key or a span of keys, first come first served. Must not know: time,
//! versions, Raft. A latch is held in memory by a leader only; it says nothing to other nodes.
//!
//! Invariants: two latches that overlap are held at once only if both are shared; a latch waits for
//! nothing but overlapping latches that were asked for earlier, so there is no deadlock (one request
//! takes one latch) and no starvation, of shared ones or of exclusive ones; dropping a latch, held or
//! still waiting, gives up its place.

mod core;

use self::core::{Core, Ticket};
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_types::Span;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Most latches of one range that wait at one time. A request beyond that is refused at once,
/// because it would time out in the queue anyway.
pub const WAITING_MAX: usize = 16_384;

/// What a latch covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Key(Bytes),
    /// All of them or none; sorted, each once.
    Keys(Vec<Bytes>),
    Span(Span),
}

impl Scope {
    #[must_use]
    pub fn covers(&self, key: &Bytes) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Keys(keys) => keys.binary_search(key).is_ok(),
            Self::Span(span) => span.contains(key),
        }
    }

    /// The keys that it lists; none if it is a span.
    fn listed(&self) -> &[Bytes] {
        match self {
            Self::Key(key) => std::slice::from_ref(key),
            Self::Keys(keys) => keys,
            Self::Span(_) => &[],
        }
    }

    /// The latch over some keys, in any order.
    #[must_use]
    pub fn keys(mut keys: Vec<Bytes>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        match keys.as_slice() {
            [only] => Self::Key(only.clone()),
            _ => Self::Keys(keys),
        }
    }
}

/// Whom a latch keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every other that overlaps.
    Exclusive,
    /// Every exclusive one that overlaps.
    Shared,
}

impl Mode {
    /// One if it is exclusive, none otherwise.
    const fn exclusive(self) -> usize {
        match self {
            Self::Exclusive => 1,
            Self::Shared => 0,
        }
    }
}

/// Why a latch was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LatchError {
    #[error("too many writes wait for the same keys")]
    TooManyWaiting,
    #[error("the deadline passed while other writes held the same keys")]
    Deadline,
}

/// The latches of one range.
#[derive(Clone, Default)]
pub struct Latches {
    core: Arc<Mutex<Core>>,
}

impl Latches {
    /// Takes a place in the queue. Never waits: see [`Latch::is_held`] and [`Latch::wait`].
    ///
    /// # Errors
    /// `TooManyWaiting` if it would have to wait behind [`WAITING_MAX`] others.
    pub fn enqueue(&self, scope: Scope, mode: Mode) -> Result<Latch, LatchError> {
        let (ticket, granted) = self.core.lock().enqueue(&scope, mode, WAITING_MAX)?;
        Ok(Latch { ticket, scope, mode, granted, core: Arc::clone(&self.core) })
    }

    /// How many latches are held or waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.core.lock().len()
    }

    /// True if nobody holds or waits for anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A latch, held or waited for.
pub struct Latch {
    ticket: Ticket,
    scope: Scope,
    mode: Mode,
    /// Resolves when the latch is held; `None` once it is.
    granted: Option<oneshot::Receiver<()>>,
    core: Arc<Mutex<Core>>,
}

impl Latch {
    /// Whom it keeps out.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// True if nothing that keeps it out was asked for earlier.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.granted.is_none()
    }

    /// Waits until the latch is held.
    ///
    /// # Errors
    /// `Deadline`; the place in the queue is lost with the latch.
    pub async fn wait(&mut self, deadline: Instant) -> Result<(), LatchError> {
        let Some(granted) = self.granted.as_mut() else { return Ok(()) };
        match tokio::time::timeout_at(deadline, granted).await {
            Ok(outcome) => {
                outcome.expect("the core grants every latch before it forgets it");
                self.granted = None;
                Ok(())
            }
            Err(_) => Err(LatchError::Deadline),
        }
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let freed = self.core.lock().release(self.ticket, &self.scope, self.mode);
        // Woken outside the lock: a woken task may drop its latch on this very thread.
        for waiter in freed {
            // A waiter that gave up meanwhile releases its place by itself.
            let _ = waiter.send(());
        }
    }
}

#[cfg(test)]
mod tests;
