//! A list of changes that an engine applies together.

use crate::{Family, VERSION_BYTES};

/// Changes in the order they were added; a later one wins over an earlier one of the same key.
///
/// All bytes live in one buffer, so that adding a change allocates nothing once the batch has
/// grown, and a cleared batch can be filled again.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    ops: Vec<Op>,
    data_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    family: Family,
    kind: Kind,
    /// Where the first part (key, start) begins, where the second (value, end) begins and ends.
    first: usize,
    second: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Delete,
    DeleteSpan,
}

/// One change of a batch, as an engine reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOp<'a> {
    Put {
        family: Family,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        family: Family,
        key: &'a [u8],
    },
    /// Every key of `[start, end)`.
    DeleteSpan {
        family: Family,
        start: &'a [u8],
        end: &'a [u8],
    },
}

impl WriteBatch {
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), ops: Vec::new(), data_bytes: 0 }
    }

    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ops: Vec::new(), data_bytes: 0 }
    }

    /// Keys of a versioned family ([`Family::is_versioned`]) must end in their version.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        debug_assert!(
            !family.is_versioned() || key.len() > VERSION_BYTES,
            "a key of {family} must end in a version"
        );
        if family != Family::Meta {
            self.data_bytes += key.len() + value.len();
        }
        self.push(family, Kind::Put, key, value);
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.push(family, Kind::Delete, key, &[]);
    }

    /// Removes every key of `[start, end)`; nothing if the span is empty. Unlike the bounds of
    /// iterators, `end` is always a bound: an empty one holds no key.
    pub fn delete_span(&mut self, family: Family, start: &[u8], end: &[u8]) {
        if start < end {
            self.push(family, Kind::DeleteSpan, start, end);
        }
    }

    fn push(&mut self, family: Family, kind: Kind, first: &[u8], second: &[u8]) {
        let at = self.bytes.len();
        self.bytes.reserve(first.len() + second.len());
        self.bytes.extend_from_slice(first);
        self.bytes.extend_from_slice(second);
        self.ops.push(Op {
            family,
            kind,
            first: at,
            second: at + first.len(),
            end: self.bytes.len(),
        });
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the keys and values that are put, those of [`Family::Meta`] left out: what the data grows
    /// by if all of them are new.
    #[must_use]
    pub const fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// How many changes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Removes every change and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ops.clear();
        self.data_bytes = 0;
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = BatchOp<'_>> {
        self.ops.iter().map(|op| {
            let family = op.family;
            let first = &self.bytes[op.first..op.second];
            let second = &self.bytes[op.second..op.end];
            match op.kind {
                Kind::Put => BatchOp::Put { family, key: first, value: second },
                Kind::Delete => BatchOp::Delete { family, key: first },
                Kind::DeleteSpan => BatchOp::DeleteSpan { family, start: first, end: second },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order() {
        let mut batch = WriteBatch::new();
        batch.put(Family::Meta, b"k", b"v");
        batch.delete(Family::Lock, b"gone");
        batch.delete_span(Family::Meta, b"a", b"b");
        batch.delete_span(Family::Meta, b"b", b"b");
        let ops: Vec<_> = batch.iter().collect();
        assert_eq!(
            ops,
            [
                BatchOp::Put { family: Family::Meta, key: b"k", value: b"v" },
                BatchOp::Delete { family: Family::Lock, key: b"gone" },
                BatchOp::DeleteSpan { family: Family::Meta, start: b"a", end: b"b" },
            ]
        );
        assert_eq!((batch.len(), batch.byte_size(), batch.data_bytes()), (3, 8, 0));
        batch.put(Family::Lock, b"key", b"value");
        assert_eq!(batch.data_bytes(), 8, "only what the data grows by");
        batch.clear();
        assert!(batch.is_empty() && batch.byte_size() == 0 && batch.data_bytes() == 0);
    }
}
