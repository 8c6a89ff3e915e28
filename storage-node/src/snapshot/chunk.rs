//! The chunks of a snapshot: how they are filled, summed up and checked.

use rangedb_engine::{Engine, Family, Snapshot};
use rangedb_mvcc::{FamilySpan, replicated_spans};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::RangeDescriptor;

/// The format of snapshots that this version sends and reads.
pub(super) const FORMAT: u32 = 1;
/// A chunk is ended once it has this many bytes; a larger entry has one for itself.
const CHUNK_BYTES: usize = 256 << 10;

/// What the end of a snapshot says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub chunks: u64,
    pub bytes: u64,
    /// CRC-32 over the chunks' checksums, in order.
    pub checksum: u32,
}

/// Sums chunks up as they pass.
#[derive(Default)]
pub(super) struct Sum {
    chunks: u64,
    bytes: u64,
    checksum: crc32fast::Hasher,
}

impl Sum {
    /// How many chunks passed; the number of the next one.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    pub fn add(&mut self, entries: &[u8], checksum: u32) {
        self.chunks += 1;
        self.bytes += entries.len() as u64;
        self.checksum.update(&checksum.to_be_bytes());
    }

    pub fn totals(&self) -> Totals {
        let Self { chunks, bytes, checksum } = self;
        Totals { chunks: *chunks, bytes: *bytes, checksum: checksum.clone().finalize() }
    }
}

/// Reads a range out of an engine snapshot and hands it over in chunks, until `emit` says no.
///
/// # Errors
/// The engine's, in words.
pub(super) fn read_range(
    data: &dyn Snapshot,
    range: &RangeDescriptor,
    mut emit: impl FnMut(wire::SnapshotChunk) -> bool,
) -> Result<Totals, String> {
    let mut sum = Sum::default();
    let mut flush = |family: Family, entries: &mut Vec<u8>| {
        if entries.is_empty() {
            return true;
        }
        let entries = std::mem::take(entries);
        let checksum = crc32fast::hash(&entries);
        let sequence = sum.chunks();
        sum.add(&entries, checksum);
        let entries = entries.into();
        emit(wire::SnapshotChunk { sequence, family: family.number(), entries, checksum })
    };
    for span in replicated_spans(range) {
        let mut iter = data
            .iterator(span.family, &span.lower, &span.upper)
            .map_err(|error| error.to_string())?;
        let mut entries = Vec::new();
        let mut valid = iter.seek_to_first().map_err(|error| error.to_string())?;
        while valid {
            let (key, value) = (iter.key(), iter.value());
            let size = key.len() + value.len() + 8;
            if entries.len() + size > CHUNK_BYTES && !flush(span.family, &mut entries) {
                return Err("nobody takes it any more".to_owned());
            }
            put(&mut entries, key);
            put(&mut entries, value);
            valid = iter.next().map_err(|error| error.to_string())?;
        }
        if !flush(span.family, &mut entries) {
            return Err("nobody takes it any more".to_owned());
        }
    }
    Ok(sum.totals())
}

fn put(entries: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys and values are limited far below 4 GiB");
    entries.extend_from_slice(&length.to_be_bytes());
    entries.extend_from_slice(bytes);
}

/// The next key and value of a chunk.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let key = take(rest)?;
    let value = take(rest)?;
    Some((key, value))
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes)
}

/// Checks the chunks of one range in their order.
pub(super) struct Verifier {
    /// In the order in which a snapshot sends them.
    spans: Vec<FamilySpan>,
    at: usize,
    last_key: Vec<u8>,
    sum: Sum,
}

impl Verifier {
    pub fn new(range: &RangeDescriptor) -> Self {
        Self { spans: replicated_spans(range), at: 0, last_key: Vec::new(), sum: Sum::default() }
    }

    pub fn totals(&self) -> Totals {
        self.sum.totals()
    }

    /// Checks a chunk and hands its entries over.
    ///
    /// # Errors
    /// In words: what is wrong with it, or what `each` says.
    pub fn check(
        &mut self,
        chunk: &ChunkRef<'_>,
        mut each: impl FnMut(Family, &[u8], &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        if chunk.sequence != self.sum.chunks() {
            return Err(format!("chunk {} came for {}", chunk.sequence, self.sum.chunks()));
        }
        if crc32fast::hash(chunk.entries) != chunk.checksum {
            return Err(format!("the checksum of chunk {} does not match", chunk.sequence));
        }
        self.enter(chunk.family)?;
        let mut rest = chunk.entries;
        while !rest.is_empty() {
            let (key, value) =
                next(&mut rest).ok_or_else(|| format!("chunk {} is cut short", chunk.sequence))?;
            self.check_key(key)?;
            each(self.spans[self.at].family, key, value)?;
        }
        self.sum.add(chunk.entries, chunk.checksum);
        Ok(())
    }

    /// Families come one after the other.
    fn enter(&mut self, family: u32) -> Result<(), String> {
        let ahead = self.spans[self.at..].iter().position(|span| span.family.number() == family);
        match ahead {
            Some(0) => Ok(()),
            Some(skipped) => {
                self.at += skipped;
                self.last_key.clear();
                Ok(())
            }
            None => Err(format!("a chunk of family {family} came out of order")),
        }
    }

    fn check_key(&mut self, key: &[u8]) -> Result<(), String> {
        let span = &self.spans[self.at];
        if key < span.lower.as_slice() || key >= span.upper.as_slice() {
            return Err(format!("a key of {} lies outside of the range", span.family));
        }
        if !self.last_key.is_empty() && key <= self.last_key.as_slice() {
            return Err(format!("the keys of {} do not ascend", span.family));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }
}

/// A chunk, wherever it lies.
pub(super) struct ChunkRef<'a> {
    pub sequence: u64,
    pub family: u32,
    pub entries: &'a [u8],
    pub checksum: u32,
}

impl<'a> From<&'a wire::SnapshotChunk> for ChunkRef<'a> {
    fn from(chunk: &'a wire::SnapshotChunk) -> Self {
        Self {
            sequence: chunk.sequence,
            family: chunk.family,
            entries: &chunk.entries,
            checksum: chunk.checksum,
        }
    }
}

/// True if a range holds nothing at all, so that there is nothing to clear.
pub(super) fn is_empty(engine: &dyn Engine, range: &RangeDescriptor) -> Result<bool, String> {
    let data = engine.snapshot();
    for span in replicated_spans(range) {
        let mut iter = data
            .iterator(span.family, &span.lower, &span.upper)
            .map_err(|error| error.to_string())?;
        if iter.seek_to_first().map_err(|error| error.to_string())? {
            return Ok(false);
        }
    }
    Ok(true)
}
