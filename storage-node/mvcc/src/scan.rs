//! Reads of spans at a timestamp, page by page, in either direction.

use crate::key::{SpanBounds, bounds, decode_key, encode_key, encode_version, split_version};
use crate::read::long_value;
use crate::record::{LockRecord, WriteKind, WriteRecord};
use crate::{MvccError, Result, Seen, TombstoneSet};
use bytes::Bytes;
use rangedb_engine::{Family, Iter, Snapshot};
use rangedb_types::key::next_key;
use rangedb_types::{Span, Timestamp};

/// How many versions of one key are stepped over before seeking is taken to be cheaper.
const STEPS_BEFORE_SEEK: usize = 8;

/// What a page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// Most entries; 0 is no limit.
    pub limit: usize,
    /// Most bytes of keys and values; the first entry is in the page however large it is.
    pub bytes_max: usize,
    /// From the end of the span to its start.
    pub reverse: bool,
    /// Values are left empty and not read.
    pub keys_only: bool,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            limit: 0,
            bytes_max: rangedb_types::limits::PAGE_BYTES_MAX,
            reverse: false,
            keys_only: false,
        }
    }
}

/// A key, its value, and the value's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    pub version: Timestamp,
}

/// A part of a scan's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of the scan.
    pub entries: Vec<Entry>,
    /// Where to go on: the next page's start (forward) or end (reverse). `None` if the span holds
    /// nothing more; a page with no entries never has one.
    pub resume: Option<Bytes>,
}

/// Refuses if an intent stands in a span that a read of the latest state may have to see, wherever in the
/// span it is.
///
/// # Errors
/// `KeyLocked`; engine errors and damage.
pub fn refuse_intents(snapshot: &dyn Snapshot, span: &Span, pass_over: &[Timestamp]) -> Result<()> {
    let seen = Seen { read_ts: Timestamp::MAX, pass_over };
    match first_blocking_lock(snapshot, &bounds(span), &seen, false)? {
        Some((key, lock)) => Err(MvccError::KeyLocked { key, lock: Box::new(lock) }),
        None => Ok(()),
    }
}

/// Reads one page of `span`, which the caller has cut to the range.
///
/// # Errors
/// `KeyLocked` if the first entry to come may lie behind an undecided intent (a page that has
/// entries ends before the intent instead); engine errors and damage.
pub fn scan(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    span: &Span,
    seen: Seen<'_>,
    options: &ScanOptions,
) -> Result<Page> {
    let mut bounds = bounds(span);
    let read_ts = seen.read_ts;
    let lock = first_blocking_lock(snapshot, &bounds, &seen, options.reverse)?;
    if let Some((key, _)) = &lock {
        // Nothing at or behind the lock may be read.
        if options.reverse {
            bounds.lower = encode_key(&next_key(key));
        } else {
            bounds.upper = encode_key(key);
        }
    }
    let mut output =
        Output { snapshot, tombstones, read_ts, options, bytes: 0, page: Page::default() };
    if bounds.lower < bounds.upper {
        let iter = snapshot.iterator(Family::Write, &bounds.lower, &bounds.upper)?;
        let cursor = Cursor { iter, encoded: Vec::new(), seek: Vec::new() };
        if options.reverse {
            reverse(cursor, &mut output)?;
        } else {
            forward(cursor, &mut output)?;
        }
    }
    let mut page = output.page;
    if let (Some((key, lock)), None) = (lock, &page.resume) {
        if page.entries.is_empty() {
            return Err(MvccError::KeyLocked { key, lock: Box::new(lock) });
        }
        page.resume = Some(if options.reverse { next_key(&key) } else { key }.into());
    }
    Ok(page)
}

/// The first key, in the direction of the scan, whose intent the read must not pass.
fn first_blocking_lock(
    snapshot: &dyn Snapshot,
    bounds: &SpanBounds,
    seen: &Seen<'_>,
    reverse: bool,
) -> Result<Option<(Vec<u8>, LockRecord)>> {
    let mut iter = snapshot.iterator(Family::Lock, &bounds.lower, &bounds.upper)?;
    let mut valid = if reverse { iter.seek_to_last()? } else { iter.seek_to_first()? };
    while valid {
        let lock = LockRecord::decode(iter.value())?;
        if seen.is_blocked_by(&lock) {
            return Ok(Some((decode_key(Family::Lock, iter.key())?, lock)));
        }
        valid = if reverse { iter.prev()? } else { iter.next()? };
    }
    Ok(None)
}

/// Whether there is room for more.
#[derive(PartialEq, Eq)]
enum Room {
    Left,
    None,
}

/// Invariant of the loop: the iterator is on the newest record of a key not looked at yet.
fn forward(mut cursor: Cursor<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut valid = cursor.iter.seek_to_first()?;
    while valid {
        if output.is_full() {
            output.resume_after_last();
            return Ok(());
        }
        let newest = cursor.take_key()?;
        if let Some(version) = cursor.seek_visible(newest, output.read_ts)? {
            let record = WriteRecord::decode(cursor.iter.value())?;
            if output.add(&cursor.encoded, version, &record)? == Room::None {
                return Ok(());
            }
        }
        valid = cursor.skip_key()?;
    }
    Ok(())
}

/// Invariant of the loop: the iterator is on the oldest record of a key not looked at yet.
fn reverse(mut cursor: Cursor<'_>, output: &mut Output<'_>) -> Result<()> {
    let mut valid = cursor.iter.seek_to_last()?;
    let mut copy = Vec::new();
    while valid {
        if output.is_full() {
            output.resume_after_last();
            return Ok(());
        }
        let oldest = cursor.take_key()?;
        if let Some(version) = cursor.collect_visible_back(oldest, output.read_ts, &mut copy)? {
            let record = WriteRecord::decode(&copy)?;
            if output.add(&cursor.encoded, version, &record)? == Room::None {
                return Ok(());
            }
        }
        valid = cursor.skip_key_back()?;
    }
    Ok(())
}

/// Moves over the write records of one key after the other.
struct Cursor<'a> {
    iter: Box<dyn Iter + 'a>,
    /// The encoded key that is being looked at.
    encoded: Vec<u8>,
    /// Memory for keys to seek.
    seek: Vec<u8>,
}

impl Cursor<'_> {
    /// Makes the key the iterator is on the one that is looked at, and says the version there.
    fn take_key(&mut self) -> Result<Timestamp> {
        let (encoded, version) = split_version(Family::Write, self.iter.key())?;
        self.encoded.clear();
        self.encoded.extend_from_slice(encoded);
        Ok(version)
    }

    /// The version the iterator is on, if it is still on the key that is looked at.
    fn version_here(&self) -> Result<Option<Timestamp>> {
        if !self.iter.valid() {
            return Ok(None);
        }
        let (encoded, version) = split_version(Family::Write, self.iter.key())?;
        Ok((encoded == self.encoded).then_some(version))
    }

    fn seek_version(&mut self, version: Timestamp) -> Result<Option<Timestamp>> {
        self.seek.clear();
        self.seek.extend_from_slice(&self.encoded);
        self.seek.extend_from_slice(&encode_version(version));
        self.iter.seek(&self.seek)?;
        self.version_here()
    }

    fn next_version(&mut self) -> Result<Option<Timestamp>> {
        self.iter.next()?;
        self.version_here()
    }

    /// From the version the iterator is on, down to the one that a read at `read_ts` sees.
    fn seek_visible(&mut self, here: Timestamp, read_ts: Timestamp) -> Result<Option<Timestamp>> {
        let mut here = Some(here);
        let mut steps = 0;
        while let Some(version) = here {
            if version <= read_ts {
                if !WriteRecord::decode(self.iter.value())?.kind.is_passed_over() {
                    return Ok(here);
                }
                here = self.next_version()?;
            } else if steps < STEPS_BEFORE_SEEK {
                steps += 1;
                here = self.next_version()?;
            } else {
                here = self.seek_version(read_ts)?;
            }
        }
        Ok(None)
    }

    /// From the oldest version of the key, on which the iterator is, up to the one that a read at
    /// `read_ts` sees; its record is left in `copy`, because the iterator moves past it.
    fn collect_visible_back(
        &mut self,
        oldest: Timestamp,
        read_ts: Timestamp,
        copy: &mut Vec<u8>,
    ) -> Result<Option<Timestamp>> {
        let mut here = Some(oldest);
        let mut found = None;
        for _ in 0..STEPS_BEFORE_SEEK {
            let Some(version) = here.filter(|version| *version <= read_ts) else {
                return Ok(found);
            };
            let record = self.iter.value();
            if !WriteRecord::decode(record)?.kind.is_passed_over() {
                copy.clear();
                copy.extend_from_slice(record);
                found = Some(version);
            }
            self.iter.prev()?;
            here = self.version_here()?;
        }
        // Many versions: to the newest that may be seen, and down from there.
        let Some(newest) = self.seek_version(read_ts)? else { return Ok(found) };
        let Some(version) = self.seek_visible(newest, read_ts)? else { return Ok(found) };
        copy.clear();
        copy.extend_from_slice(self.iter.value());
        Ok(Some(version))
    }

    /// Past every version of the key that is looked at.
    fn skip_key(&mut self) -> Result<bool> {
        let mut here = self.version_here()?;
        let mut steps = 0;
        while here.is_some() {
            here = if steps == STEPS_BEFORE_SEEK {
                self.seek_version(Timestamp::ZERO)?
            } else {
                self.next_version()?
            };
            steps += 1;
        }
        Ok(self.iter.valid())
    }

    /// To the oldest version of the key before the one that is looked at, if not there already.
    fn skip_key_back(&mut self) -> Result<bool> {
        if self.version_here()?.is_some() {
            // The bare encoded key sorts before its versions and after every smaller key.
            return Ok(self.iter.seek_for_prev(&self.encoded)?);
        }
        Ok(self.iter.valid())
    }
}

/// The page that is being filled.
struct Output<'a> {
    snapshot: &'a dyn Snapshot,
    tombstones: &'a TombstoneSet,
    read_ts: Timestamp,
    options: &'a ScanOptions,
    bytes: usize,
    page: Page,
}

impl Output<'_> {
    /// Puts a key into the page, if the record that a read sees is a value and there is room.
    fn add(
        &mut self,
        encoded: &[u8],
        version: Timestamp,
        record: &WriteRecord<'_>,
    ) -> Result<Room> {
        if record.kind != WriteKind::Put {
            return Ok(Room::Left);
        }
        let key = decode_key(Family::Write, encoded)?;
        if self.tombstones.hides(&key, version, self.read_ts) {
            return Ok(Room::Left);
        }
        let value = if self.options.keys_only {
            Bytes::new()
        } else {
            record.check_readable()?;
            match record.short_value {
                Some(short) => Bytes::copy_from_slice(short),
                None => long_value(self.snapshot, encoded, record.start_ts)?,
            }
        };
        let size = key.len() + value.len();
        if !self.page.entries.is_empty() && self.bytes + size > self.options.bytes_max {
            self.resume_after_last();
            return Ok(Room::None);
        }
        self.bytes += size;
        self.page.entries.push(Entry { key: key.into(), value, version });
        Ok(Room::Left)
    }

    fn is_full(&self) -> bool {
        self.options.limit > 0 && self.page.entries.len() == self.options.limit
    }

    fn resume_after_last(&mut self) {
        let last = self.page.entries.last().expect("a page that is full has entries");
        self.page.resume =
            Some(if self.options.reverse { last.key.clone() } else { next_key(&last.key).into() });
    }
}
