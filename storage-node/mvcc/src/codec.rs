//! Numbers and byte strings in records: big-endian, byte strings with a 32-bit length before them.

use crate::{MvccError, Result};
use rangedb_engine::Family;

/// Reads a record from its front.
pub(crate) struct Reader<'a> {
    family: Family,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(family: Family, record: &'a [u8]) -> Self {
        Self { family, rest: record }
    }

    /// Begins a record whose first byte is its format.
    pub(crate) fn with_format(family: Family, record: &'a [u8], newest: u8) -> Result<Self> {
        let mut reader = Self::new(family, record);
        match reader.u8()? {
            0 => Err(reader.damaged("its format is 0")),
            found if found > newest => Err(MvccError::NewerFormat { family, found }),
            _ => Ok(reader),
        }
    }

    pub(crate) const fn damaged(&self, detail: &'static str) -> MvccError {
        MvccError::Damaged { family: self.family, detail }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged("it is cut short"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > self.rest.len() {
            return Err(self.damaged("a length points behind its end"));
        }
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends a record that must have nothing more.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("it is too long")) }
    }
}

/// Appends a byte string with its length.
pub(crate) fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys and values are limited far below 4 GiB");
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(bytes);
}

/// Ends a record with the CRC-32 of everything before.
pub(crate) fn seal(mut record: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Takes a sealed record's checksum off.
pub(crate) fn unseal(family: Family, record: &[u8]) -> Result<&[u8]> {
    let (body, checksum) = record
        .split_last_chunk::<4>()
        .ok_or(MvccError::Damaged { family, detail: "it is cut short" })?;
    if crc32fast::hash(body) == u32::from_be_bytes(*checksum) {
        Ok(body)
    } else {
        Err(MvccError::Damaged { family, detail: "its checksum does not match" })
    }
}
