//! The column families. Their numbers are part of the format on disk and of the Raft log.

/// Bytes that a version (a timestamp) takes at the end of a key.
pub const VERSION_BYTES: usize = 8;

/// One ordered map of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Family {
    /// Values that are too long for their write record.
    Data = 1,
    /// Intents of transactions.
    Lock = 2,
    /// Which versions of a key exist, and short values.
    Write = 3,
    /// Deletions of whole spans.
    RangeTombstone = 4,
    /// State of ranges and of the store.
    Meta = 5,
}

impl Family {
    /// Every family, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Data, Self::Lock, Self::Write, Self::RangeTombstone, Self::Meta];

    /// The number that stands for this family on disk and on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The family with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Lock),
            3 => Some(Self::Write),
            4 => Some(Self::RangeTombstone),
            5 => Some(Self::Meta),
            _ => None,
        }
    }

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Lock => "lock",
            Self::Write => "write",
            Self::RangeTombstone => "range_tombstone",
            Self::Meta => "meta",
        }
    }

    /// True if every key of this family ends in [`VERSION_BYTES`] bytes of a version. The rest of
    /// such a key is its *prefix*, over which an engine may build filters.
    #[must_use]
    pub const fn is_versioned(self) -> bool {
        matches!(self, Self::Data | Self::Write | Self::RangeTombstone)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize - 1
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            assert_eq!(Family::from_number(family.number()), Some(family));
            assert_eq!(family.index(), index);
        }
        assert_eq!(Family::from_number(0), None);
        assert_eq!(Family::from_number(6), None);
    }
}
