//! Whether the process can serve. Owns: the answer and its reason. Must not know: who asks.

use parking_lot::Mutex;
use std::sync::Arc;

/// Shared by the server that sets it and the endpoints that tell it; clones are the same health.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why the process is not ready; `None` while it is.
    reason: Arc<Mutex<Option<String>>>,
}

impl Health {
    /// Not ready yet: starting.
    #[must_use]
    pub fn new() -> Self {
        Self { reason: Arc::new(Mutex::new(Some("starting".to_owned()))) }
    }

    /// Ready, or not ready for no stated reason.
    pub fn set_ready(&self, ready: bool) {
        let reason = (!ready).then(|| "cannot serve now".to_owned());
        *self.reason.lock() = reason;
    }

    /// Not ready, and why, in a few words for an operator.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        *self.reason.lock() = Some(reason.into());
    }

    /// True while the process can serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reason.lock().is_none()
    }

    /// Why the process is not ready; `None` while it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Arc<Health>> for Health {
    fn from(health: Arc<Health>) -> Self {
        Health::clone(&health)
    }
}

impl From<&Health> for Health {
    fn from(health: &Health) -> Self {
        health.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_not_ready_and_says_why() {
        let health = Health::new();
        assert_eq!(health.reason().as_deref(), Some("starting"));
        health.set_ready(true);
        assert!(health.is_ready());
        health.set_not_ready("no placement leader");
        assert!(!health.is_ready());
        assert_eq!(health.reason().as_deref(), Some("no placement leader"));
    }

    #[test]
    fn clones_are_the_same_health() {
        let health = Arc::new(Health::new());
        let clone: Health = health.clone().into();
        clone.set_ready(true);
        assert!(health.is_ready());
    }
}
