//! How fast something large is written.
//!
//! Others' writes share processors, logs and disks with it, and wait no longer than one of its steps takes: so its
//! steps are small, and one follows the other. They grow where each takes long whatever its size, on a slow disk or a
//! long way to the nodes: else it would come to no end before its deadline.

use super::ranges::Limits;
use std::time::Duration;

/// What it goes for.
const BYTES_A_SECOND: f64 = 3.0 * (1 << 20) as f64;
/// Least and most of a step.
const STEP_BYTES: (f64, f64) = (8.0 * 1024.0, 256.0 * 1024.0);
/// What each key of a step counts at least, however short it is.
const KEY_BYTES: usize = 256;
/// How much of the time that steps take is that of the last one.
const LAST_SHARE: f64 = 0.125;
/// More than this says nothing of steps: it waited for somebody, or for an election.
const STEP_TIME_MAX: f64 = STEP_BYTES.1 / BYTES_A_SECOND;

/// The size of the next step.
pub(super) struct Pace {
    /// Average of the last steps, in seconds.
    step_time: f64,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self { step_time: 0.0 }
    }

    /// Takes in how long a step took.
    pub(super) fn took(&mut self, time: Duration) {
        let time = time.as_secs_f64().min(STEP_TIME_MAX);
        self.step_time += (time - self.step_time) * LAST_SHARE;
    }

    pub(super) fn limits(&self) -> Limits {
        let wanted = self.step_time * BYTES_A_SECOND;
        // Positive and far below the largest number.
        let bytes = wanted.clamp(STEP_BYTES.0, STEP_BYTES.1) as usize;
        Limits { bytes, keys: bytes / KEY_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: &[u64]) -> Limits {
        let mut pace = Pace::new();
        steps.iter().for_each(|ms| pace.took(Duration::from_millis(*ms)));
        pace.limits()
    }

    #[test]
    fn steps_are_small_where_they_are_fast() {
        assert_eq!(after(&[]), Limits { bytes: 8 << 10, keys: 32 });
        assert_eq!(after(&[1; 10]), after(&[]));
    }

    #[test]
    fn steps_grow_with_the_time_they_take() {
        let limits = after(&[8; 100]);
        assert_eq!((limits.bytes >> 10, limits.keys), (24, 98));
        let most = after(&[1_000; 100]);
        assert!(most.bytes <= 256 << 10 && most.bytes > 250 << 10, "{most:?}");
    }

    #[test]
    fn one_long_wait_changes_little() {
        let mut steps = [4; 60];
        let steady = after(&steps).bytes;
        steps[30] = 30_000;
        assert!(after(&steps[..=30]).bytes < steady + (32 << 10));
        assert!(after(&steps).bytes < steady + 1_024);
    }
}
