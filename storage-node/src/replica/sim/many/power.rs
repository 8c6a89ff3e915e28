//! The power of a simulated node: it can be made to fail at any write of either disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// No failure is planned.
const NEVER: u64 = u64::MAX;

/// Counts down the writes of a node to the one at which its power fails; 0 once it has.
#[derive(Debug)]
pub struct Power {
    /// Twice the writes that are left, plus one if the last of them still reaches the disk's cache.
    left: AtomicU64,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    None,
    Before,
    After,
}

impl Strike {
    /// The write changes nothing.
    pub fn before(self) -> bool {
        self == Self::Before
    }

    /// The write is made, and nobody hears of it.
    pub fn after(self) -> bool {
        self == Self::After
    }
}

impl Power {
    pub fn new() -> Self {
        Self { left: AtomicU64::new(NEVER) }
    }

    /// The power fails at the write after `writes` more.
    pub fn fail_after(&self, writes: u64, made: bool) {
        self.left.store(2 * writes + 2 + u64::from(made), Ordering::SeqCst);
    }

    /// Off at once, or on again.
    pub fn switch(&self, on: bool) {
        self.left.store(if on { NEVER } else { 0 }, Ordering::SeqCst);
    }

    pub fn is_off(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// One more write.
    pub fn strike(&self) -> Strike {
        match self.left.load(Ordering::SeqCst) {
            NEVER => Strike::None,
            0 => Strike::Before,
            left @ 2..4 => {
                self.left.store(0, Ordering::SeqCst);
                if left % 2 == 1 { Strike::After } else { Strike::Before }
            }
            left => {
                self.left.store(left - 2, Ordering::SeqCst);
                Strike::None
            }
        }
    }
}
