//! The limits of the public interface, and their checks.

use crate::key::SYSTEM_PREFIX;

/// Largest key, in bytes. The smallest is one byte.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// Largest batch or transaction, in bytes of keys and values.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest page of a range read, in bytes; a page holds at least one entry however large.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// Largest Raft entry, in bytes.
pub const RAFT_ENTRY_BYTES_MAX: usize = 16 << 20;
/// Largest gRPC message any process accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;
/// Most keys in one BatchGet.
pub const BATCH_GET_KEYS_MAX: usize = 10_000;
/// Oracle time after which a retried write is refused, because its first attempt can no longer be
/// told from one that never happened.
pub const REQUEST_ID_LIFETIME_MS: u64 = 10 * 60 * 1000;

/// Why a key or a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("the key is empty; a key has 1 to {KEY_BYTES_MAX} bytes")]
    KeyEmpty,
    #[error("the key has {0} bytes; a key has 1 to {KEY_BYTES_MAX} bytes")]
    KeyTooLong(usize),
    #[error("the value has {0} bytes; a value has at most {VALUE_BYTES_MAX} bytes")]
    ValueTooLong(usize),
    #[error(
        "keys that begin with `_/` belong to the system; use `rangedb-cli admin meta` to read them"
    )]
    SystemKey,
}

/// Checks a key that an application named.
///
/// # Errors
/// The limit that the key breaks.
pub fn check_key(key: &[u8]) -> Result<(), LimitError> {
    if key.is_empty() {
        return Err(LimitError::KeyEmpty);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(LimitError::KeyTooLong(key.len()));
    }
    if key.starts_with(SYSTEM_PREFIX) {
        return Err(LimitError::SystemKey);
    }
    Ok(())
}

/// Checks a value that an application wants to write.
///
/// # Errors
/// `ValueTooLong` above [`VALUE_BYTES_MAX`].
pub fn check_value(value: &[u8]) -> Result<(), LimitError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(LimitError::ValueTooLong(value.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(check_key(b""), Err(LimitError::KeyEmpty));
        assert_eq!(check_key(&vec![1; KEY_BYTES_MAX]), Ok(()));
        assert!(check_key(&vec![1; KEY_BYTES_MAX + 1]).is_err());
        assert_eq!(check_key(b"_/x"), Err(LimitError::SystemKey));
        assert_eq!(check_key(b"_x"), Ok(()));
        assert!(check_value(&vec![0; VALUE_BYTES_MAX + 1]).is_err());
    }
}
