//! Spans of keys. A key is a string of bytes; keys are ordered byte by byte.

use serde::{Deserialize, Serialize};

/// Prefix of the keys that belong to the system; applications may not touch them.
pub const SYSTEM_PREFIX: &[u8] = b"_/";

/// All keys from `start` (inclusive) to `end` (exclusive). An empty `end` is unbounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    pub start: Vec<u8>,
    pub end: Vec<u8>,
}

/// Why a pair of bounds is not a span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the start of the range must be smaller than its end (an empty end is unbounded)")]
    StartNotBeforeEnd,
}

impl Span {
    /// Every key there is.
    #[must_use]
    pub const fn all() -> Self {
        Self { start: Vec::new(), end: Vec::new() }
    }

    /// # Errors
    /// `StartNotBeforeEnd` if the span would hold no key.
    pub fn new(start: Vec<u8>, end: Vec<u8>) -> Result<Self, KeyError> {
        if !end.is_empty() && start >= end {
            return Err(KeyError::StartNotBeforeEnd);
        }
        Ok(Self { start, end })
    }

    /// The span that holds one key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self { start: key.to_vec(), end: next_key(key) }
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && (self.end.is_empty() || key < self.end.as_slice())
    }

    /// True if every key of `other` lies in this span.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.start >= self.start
            && (self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end))
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        (self.end.is_empty() || other.start < self.end)
            && (other.end.is_empty() || self.start < other.end)
    }

    /// The keys in both spans, if there are any.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        Some(Self { start, end })
    }
}

/// The smallest key greater than `key`.
#[must_use]
pub fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The smallest key greater than every key with this prefix; empty (unbounded) if there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: &str, end: &str) -> Span {
        Span { start: start.into(), end: end.into() }
    }

    #[test]
    fn an_empty_end_is_unbounded() {
        assert!(Span::all().contains(b"") && Span::all().contains(&[0xff; 9]));
        assert!(Span::all().covers(&span("a", "b")) && !span("a", "b").covers(&Span::all()));
        assert_eq!(Span::new(b"b".into(), b"b".into()), Err(KeyError::StartNotBeforeEnd));
        assert!(Span::new(b"b".into(), vec![]).is_ok());
    }

    #[test]
    fn intersections() {
        assert_eq!(span("a", "m").intersect(&span("g", "")), Some(span("g", "m")));
        assert_eq!(span("a", "g").intersect(&span("g", "m")), None);
        assert_eq!(Span::all().intersect(&span("a", "")), Some(span("a", "")));
    }

    #[test]
    fn prefixes_end_where_the_next_begins() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[b'a', 0xff]), b"b");
        assert_eq!(prefix_end(&[0xff, 0xff]), b"");
        assert_eq!(next_key(b"a"), b"a\0");
    }
}
