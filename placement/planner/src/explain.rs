//! Why nothing (more) is done: the answer to "why did nothing move?".

/// Most reasons told; the rest is counted.
pub const PENDING_MAX: usize = 100;

/// What is wanted and cannot start, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pending: Vec<String>,
    untold: usize,
}

impl Explanation {
    pub(crate) fn wait(&mut self, why: impl FnOnce() -> String) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(why());
        } else {
            self.untold += 1;
        }
    }

    /// One sentence for each thing that waits; the last one counts those left out.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let mut pending = self.pending.clone();
        if self.untold > 0 {
            pending.push(format!("and {} more", self.untold));
        }
        pending
    }
}

/// "1 node is up", "2 nodes are up".
pub(crate) fn nodes_are_up(count: usize) -> String {
    if count == 1 { "1 node is up".to_owned() } else { format!("{count} nodes are up") }
}

/// "1 voter", "2 voters".
pub(crate) fn count_of(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}
