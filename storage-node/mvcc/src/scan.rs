//! Reads of spans at a timestamp, page by page, in either direction.

use crate::key::{SpanBounds, bounds, decode_key, encode_key, encode_version, split_version};
use crate::read::long_value;
use crate::record::{LockRecord, WriteKind, WriteRecord};
use crate::{MvccError, Result, TombstoneSet};
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

/// Reads one page of `span`, which the caller has cut to the range, at `read_ts`.
///
/// # Errors
/// `KeyLocked` if the first entry to come may lie behind an undecided intent (a page that has
/// entries ends before the intent instead); engine errors and damage.
pub fn scan(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    span: &Span,
    read_ts: Timestamp,
    options: &ScanOptions,
) -> Result<Page> {
    let mut bounds = bounds(span);
    let lock = first_blocking_lock(snapshot, &bounds, read_ts, options.reverse)?;
    if let Some((key, _)) = &lock {
        // Nothing at or behind the lock may be read.
        if options.reverse {
            bounds.lower = encode_key(&next_key(key));
        } else {
            bounds.upper = encode_key(key);
        }
    }
    let mut page = Page::default();
    if bounds.lower < bounds.upper {
        let iter = snapshot.iterator(Family::Write, &bounds.lower, &bounds.upper)?;
        let mut scanner = Scanner {
            snapshot,
            tombstones,
            read_ts,
            options,
            iter,
            encoded: Vec::new(),
            seek: Vec::new(),
            bytes: 0,
            page: &mut page,
        };
        if options.reverse { scanner.reverse()? } else { scanner.forward()? }
    }
    if let (Some((key, lock)), None) = (lock, &page.resume) {
        if page.entries.is_empty() {
            return Err(MvccError::KeyLocked { key, lock: Box::new(lock) });
        }
        page.resume = Some(if options.reverse { next_key(&key) } else { key }.into());
    }
    Ok(page)
}

/// The first key, in the direction of the scan, whose intent a read at `read_ts` must not pass.
fn first_blocking_lock(
    snapshot: &dyn Snapshot,
    bounds: &SpanBounds,
    read_ts: Timestamp,
    reverse: bool,
) -> Result<Option<(Vec<u8>, LockRecord)>> {
    let mut iter = snapshot.iterator(Family::Lock, &bounds.lower, &bounds.upper)?;
    let mut valid = if reverse { iter.seek_to_last()? } else { iter.seek_to_first()? };
    while valid {
        let lock = LockRecord::decode(iter.value())?;
        if lock.blocks_read_at(read_ts) {
            return Ok(Some((decode_key(Family::Lock, iter.key())?, lock)));
        }
        valid = if reverse { iter.prev()? } else { iter.next()? };
    }
    Ok(None)
}

/// Walks over write records. Invariant between steps: the iterator is on the first record, in the
/// direction of the scan, of a key that was not looked at yet, or on none.
struct Scanner<'a> {
    snapshot: &'a dyn Snapshot,
    tombstones: &'a TombstoneSet,
    read_ts: Timestamp,
    options: &'a ScanOptions,
    iter: Box<dyn Iter + 'a>,
    /// The encoded key that is being looked at.
    encoded: Vec<u8>,
    /// Memory for keys to seek.
    seek: Vec<u8>,
    bytes: usize,
    page: &'a mut Page,
}

/// Whether there is room for more.
#[derive(PartialEq, Eq)]
enum Room {
    Left,
    None,
}

impl Scanner<'_> {
    fn forward(&mut self) -> Result<()> {
        let mut valid = self.iter.seek_to_first()?;
        while valid {
            self.take_key()?;
            if self.seek_visible()? && self.add()? == Room::None {
                return Ok(());
            }
            valid = self.skip_key()?;
            if valid && self.is_full() {
                self.resume_after_last();
                return Ok(());
            }
        }
        Ok(())
    }

    fn reverse(&mut self) -> Result<()> {
        let mut valid = self.iter.seek_to_last()?;
        while valid {
            self.take_key()?;
            if self.seek_visible_back()? && self.add()? == Room::None {
                return Ok(());
            }
            // The bare encoded key sorts before its versions and after every smaller key.
            valid = self.iter.seek_for_prev(&self.encoded)?;
            if valid && self.is_full() {
                self.resume_after_last();
                return Ok(());
            }
        }
        Ok(())
    }

    fn take_key(&mut self) -> Result<()> {
        let (encoded, _) = split_version(Family::Write, self.iter.key())?;
        self.encoded.clear();
        self.encoded.extend_from_slice(encoded);
        Ok(())
    }

    /// The version the iterator is on, if it is still on the present key.
    fn version_here(&self) -> Result<Option<Timestamp>> {
        if !self.iter.valid() {
            return Ok(None);
        }
        let (encoded, version) = split_version(Family::Write, self.iter.key())?;
        Ok((encoded == self.encoded).then_some(version))
    }

    fn seek_version(&mut self, version: Timestamp) -> Result<()> {
        self.seek.clear();
        self.seek.extend_from_slice(&self.encoded);
        self.seek.extend_from_slice(&encode_version(version));
        self.iter.seek(&self.seek)?;
        Ok(())
    }

    /// From any version of the present key at or above the one a read sees: to that one. False if
    /// there is none.
    fn seek_visible(&mut self) -> Result<bool> {
        let mut steps = 0;
        loop {
            let Some(version) = self.version_here()? else { return Ok(false) };
            if version <= self.read_ts {
                if WriteRecord::decode(self.iter.value())?.kind != WriteKind::Rollback {
                    return Ok(true);
                }
                self.iter.next()?;
            } else if steps < STEPS_BEFORE_SEEK {
                steps += 1;
                self.iter.next()?;
            } else {
                self.seek_version(self.read_ts)?;
            }
        }
    }

    /// From the oldest version of the present key to the one a read sees. False if there is none.
    fn seek_visible_back(&mut self) -> Result<bool> {
        let Some(oldest) = self.version_here()? else { return Ok(false) };
        if oldest > self.read_ts {
            return Ok(false);
        }
        // Most keys have few versions: the newest is a step or two away.
        for _ in 0..STEPS_BEFORE_SEEK {
            self.iter.prev()?;
            match self.version_here()? {
                Some(version) if version <= self.read_ts => {}
                Some(_) => {
                    self.iter.next()?;
                    return self.seek_visible();
                }
                None => {
                    // Gone past the key's newest version.
                    if self.iter.valid() {
                        self.iter.next()?;
                    } else {
                        self.iter.seek_to_first()?;
                    }
                    return self.seek_visible();
                }
            }
        }
        self.seek_version(self.read_ts)?;
        self.seek_visible()
    }

    /// Past every version of the present key.
    fn skip_key(&mut self) -> Result<bool> {
        for _ in 0..STEPS_BEFORE_SEEK {
            if self.version_here()?.is_none() {
                return Ok(self.iter.valid());
            }
            self.iter.next()?;
        }
        if self.version_here()?.is_some() {
            self.seek_version(Timestamp::ZERO)?;
            // Version zero is never written, but a key that has it must not be met twice.
            while self.version_here()?.is_some() {
                self.iter.next()?;
            }
        }
        Ok(self.iter.valid())
    }

    /// Puts the record the iterator is on into the page, if it is a value and there is room.
    fn add(&mut self) -> Result<Room> {
        let (_, version) = split_version(Family::Write, self.iter.key())?;
        let record = WriteRecord::decode(self.iter.value())?;
        if record.kind != WriteKind::Put {
            return Ok(Room::Left);
        }
        let key = decode_key(Family::Write, &self.encoded)?;
        if self.tombstones.hides(&key, version, self.read_ts) {
            return Ok(Room::Left);
        }
        let value = if self.options.keys_only {
            Bytes::new()
        } else {
            record.check_readable()?;
            match record.short_value {
                Some(short) => Bytes::copy_from_slice(short),
                None => long_value(self.snapshot, &self.encoded, record.start_ts)?,
            }
        };
        let size = key.len() + value.len();
        if !self.page.entries.is_empty() && self.bytes + size > self.options.bytes_max {
            if self.options.reverse {
                self.resume_after_last();
            } else {
                self.page.resume = Some(key.into());
            }
            return Ok(Room::None);
        }
        self.bytes += size;
        self.page.entries.push(Entry { key: key.into(), value, version });
        Ok(Room::Left)
    }

    fn is_full(&self) -> bool {
        self.page.entries.len() == self.options.limit && self.options.limit > 0
    }

    fn resume_after_last(&mut self) {
        let last = self.page.entries.last().expect("a page that is full has entries");
        self.page.resume =
            Some(if self.options.reverse { last.key.clone() } else { next_key(&last.key).into() });
    }
}
