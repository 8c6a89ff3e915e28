//! What was done to every key, and with which outcome.

use parking_lot::Mutex;
use rangedb_client::Version;
use std::time::Instant;

/// One write of one key.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub deletes: bool,
    pub begun: Instant,
    pub outcome: Outcome,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Under way, or not settled yet.
    Open,
    /// It took effect, and was acknowledged (or found by CommitStatus) at this moment.
    Done { version: Version, at: Instant },
    /// It did not take effect and never will.
    NotDone,
}

/// The keys' histories. The number of a step is its place in the history, from 1 on; 0 is "never
/// written".
pub struct Keys {
    keys: Vec<Mutex<Vec<Step>>>,
}

impl Keys {
    pub fn new(count: usize) -> Self {
        Self { keys: (0..count).map(|_| Mutex::default()).collect() }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// What all keys begin with.
    pub const PREFIX: &str = "workload/";

    /// A key as the database knows it. They are spread over what may one day be ranges.
    pub fn name(index: usize) -> String {
        format!("{}{:02x}/key-{index:05}", Self::PREFIX, (index * 37) % 256)
    }

    /// The value that a step writes: names key and step, so that every value is unique.
    pub fn value(index: usize, step: usize, bytes: usize) -> String {
        let value = format!("{index}:{step}:");
        format!("{value:.<bytes$}")
    }

    /// The step that wrote a value of this key.
    pub fn step_of(index: usize, value: &[u8]) -> Option<usize> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let key: usize = parts.next()?.parse().ok()?;
        (key == index).then(|| parts.next()?.parse().ok())?
    }

    /// Begins a step; gives its number.
    pub fn begin(&self, index: usize, deletes: bool) -> usize {
        let mut steps = self.keys[index].lock();
        steps.push(Step { deletes, begun: Instant::now(), outcome: Outcome::Open });
        steps.len()
    }

    pub fn settle(&self, index: usize, step: usize, outcome: Outcome) {
        self.keys[index].lock()[step - 1].outcome = outcome;
    }

    pub fn history(&self, index: usize) -> Vec<Step> {
        self.keys[index].lock().clone()
    }

    /// The last step that is known to have taken effect; 0 if there is none.
    pub fn last_done(&self, index: usize) -> usize {
        let steps = self.keys[index].lock();
        let done = |step: &Step| matches!(step.outcome, Outcome::Done { .. });
        steps.iter().rposition(done).map_or(0, |at| at + 1)
    }
}

/// Checks what a read of a key returned against its history: the state after `low`, or after a
/// later step that was begun by the time the read ended.
pub fn check_read(
    index: usize,
    history: &[Step],
    low: usize,
    found: Option<(&[u8], Version)>,
) -> Result<(), String> {
    let name = Keys::name(index);
    let possible = |step: usize| step >= low && history[step - 1].outcome != Outcome::NotDone;
    let Some((value, version)) = found else {
        let absent = (low == 0 || history[low - 1].deletes)
            || (low + 1..=history.len()).any(|step| possible(step) && history[step - 1].deletes);
        return if absent {
            Ok(())
        } else {
            Err(format!("{name}: nothing was found, but step {low} was acknowledged"))
        };
    };
    let Some(step) = Keys::step_of(index, value).filter(|step| (1..=history.len()).contains(step))
    else {
        return Err(format!("{name}: a value that nobody wrote: {value:?}"));
    };
    if history[step - 1].deletes || !possible(step) {
        return Err(format!(
            "{name}: the value of step {step} ({:?}), but step {low} was acknowledged before",
            history[step - 1]
        ));
    }
    match history[step - 1].outcome {
        Outcome::Done { version: told, .. } if told != version => {
            Err(format!("{name}: step {step} was acknowledged as {told} and is read as {version}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(deletes: bool, outcome: Outcome) -> Step {
        Step { deletes, begun: Instant::now(), outcome }
    }

    fn done(version: u64) -> Outcome {
        Outcome::Done { version: Version(version), at: Instant::now() }
    }

    fn check(history: &[Step], low: usize, found: Option<(usize, u64)>) -> bool {
        let value = found.map(|(step, version)| (Keys::value(7, step, 20), Version(version)));
        let found = value.as_ref().map(|(value, version)| (value.as_bytes(), *version));
        check_read(7, history, low, found).is_ok()
    }

    #[test]
    fn lost_returned_and_invented_values_are_found() {
        let history = [step(false, done(10)), step(true, done(20)), step(false, Outcome::Open)];
        assert!(check(&history, 2, None));
        assert!(check(&history, 2, Some((3, 30))), "the open step may have taken effect");
        assert!(!check(&history, 2, Some((1, 10))), "a deleted value is back");
        assert!(!check(&history[..1], 1, None), "an acknowledged value is lost");
        assert!(!check(&history[..1], 1, Some((1, 11))), "another version");
        assert!(!check(&history, 2, Some((4, 40))), "nobody wrote that");
        let refused = [step(false, done(10)), step(false, Outcome::NotDone)];
        assert!(!check(&refused, 1, Some((2, 20))), "it was promised that this never happens");
        assert!(check_read(7, &history, 2, Some((b"noise", Version(1)))).is_err());
        assert!(check(&[], 0, None));
    }
}
