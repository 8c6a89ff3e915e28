//! Files of the Raft log that are written out a little ahead of the log.
//!
//! raft-engine takes room from the disk in advance, but its blocks count as not yet written: a sync after the first
//! write to one of them also commits the journal of the disk's file system, and waits for what others have in there.
//! Where blocks have been written before, a sync is that of the data alone. So zeros follow the end of the log, as
//! many at a time as one sync can carry along.
//!
//! Invariant: zeros go behind the last byte of the log and no further than the room taken in advance, where a file
//! reads as zeros anyway. A crash leaves nothing that it could not leave without them.

use raft_engine::env::{FileSystem, Permission, WriteExt};
use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// How far ahead.
const AHEAD_BYTES: usize = 256 << 10;

static ZEROS: [u8; AHEAD_BYTES] = [0; AHEAD_BYTES];

/// Another file system, whose files are written ahead.
pub(super) struct WrittenAhead<F>(Arc<F>);

impl<F> WrittenAhead<F> {
    pub(super) const fn new(file_system: Arc<F>) -> Self {
        Self(file_system)
    }
}

impl<F: FileSystem> FileSystem for WrittenAhead<F> {
    type Handle = F::Handle;
    type Reader = F::Reader;
    type Writer = AheadWriter<F::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<F::Handle> {
        self.0.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<F::Handle> {
        self.0.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.0.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        self.0.rename(from, to)
    }

    fn reuse<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        self.0.reuse(from, to)
    }

    fn reuse_and_open<P: AsRef<Path>>(&self, from: P, to: P) -> Result<F::Handle> {
        self.0.reuse_and_open(from, to)
    }

    fn delete_metadata<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.0.delete_metadata(path)
    }

    fn exists_metadata<P: AsRef<Path>>(&self, path: P) -> bool {
        self.0.exists_metadata(path)
    }

    fn new_reader(&self, handle: Arc<F::Handle>) -> Result<F::Reader> {
        self.0.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<F::Handle>) -> Result<Self::Writer> {
        Ok(AheadWriter::new(self.0.new_writer(handle)?))
    }
}

/// A place in a file.
pub(super) struct AheadWriter<W> {
    inner: W,
    at: usize,
    /// To here blocks are written.
    written: usize,
    /// End of the room that was taken in advance.
    room: usize,
}

impl<W: Write + Seek> AheadWriter<W> {
    const fn new(inner: W) -> Self {
        Self { inner, at: 0, written: 0, room: 0 }
    }

    /// Where the log has passed what was written ahead of it.
    fn write_ahead(&mut self) -> Result<()> {
        let count = self.room.saturating_sub(self.at).min(AHEAD_BYTES);
        if count > 0 {
            self.inner.write_all(&ZEROS[..count])?;
            self.inner.seek(SeekFrom::Start(self.at as u64))?;
        }
        self.written = self.at + count;
        Ok(())
    }
}

impl<W: Write + Seek> Write for AheadWriter<W> {
    /// After an error, the place has to be sought again.
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.inner.write(bytes)?;
        self.at += count;
        if self.at > self.written {
            self.write_ahead()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for AheadWriter<W> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = self.inner.seek(to)?;
        self.at = usize::try_from(at).map_err(std::io::Error::other)?;
        Ok(at)
    }
}

impl<W: WriteExt> WriteExt for AheadWriter<W> {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.inner.truncate(offset)?;
        self.at = offset;
        self.written = self.written.min(offset);
        self.room = self.room.min(offset);
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.inner.allocate(offset, size)?;
        self.room = offset + size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Cursor, Error};

    /// A file in memory that notes where it was written, and whose disk can fail in the middle of a write.
    #[derive(Default)]
    struct Noted {
        bytes: Cursor<Vec<u8>>,
        writes: Vec<(usize, usize)>,
        /// After so many more bytes.
        fails_after: Option<usize>,
    }

    impl Write for Noted {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let at = usize::try_from(self.bytes.position()).expect("it is small");
            let most = self.fails_after.unwrap_or(usize::MAX);
            let count = self.bytes.write(&bytes[..bytes.len().min(most)])?;
            self.fails_after = self.fails_after.map(|most| most - count);
            self.writes.push((at, count));
            if count < bytes.len() { Err(Error::other("no")) } else { Ok(count) }
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Seek for Noted {
        fn seek(&mut self, to: SeekFrom) -> Result<u64> {
            self.bytes.seek(to)
        }
    }

    impl WriteExt for Noted {
        fn truncate(&mut self, offset: usize) -> Result<()> {
            self.bytes.get_mut().truncate(offset);
            self.bytes.set_position(offset as u64);
            Ok(())
        }

        fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
            let length = self.bytes.get_ref().len().max(offset + size);
            self.bytes.get_mut().resize(length, 0);
            Ok(())
        }
    }

    const ROOM: usize = 2 << 20;

    #[test]
    fn most_writes_reach_blocks_that_are_written() {
        let mut file = AheadWriter::new(Noted::default());
        file.allocate(0, ROOM).expect("it has room");
        for _ in 0..ROOM / 1_024 {
            file.write_all(&[7; 1_024]).expect("it writes");
        }
        let mut written = 0;
        let mut beyond = 0;
        for (at, count) in &file.inner.writes {
            // One write follows the zeros of the last; the end of the room is not passed.
            beyond += usize::from(*count == 1_024 && at + count > written);
            written = written.max(at + count);
        }
        assert_eq!((beyond, written), (ROOM / AHEAD_BYTES, ROOM));
        assert_eq!(file.inner.bytes.get_ref(), &vec![7; ROOM]);
    }

    #[test]
    fn a_file_that_is_used_again_is_left_as_it_is_behind_the_end() {
        let mut old = Noted::default();
        old.write_all(&[9; 1_000]).expect("it writes");
        let mut file = AheadWriter::new(old);
        file.rewind().expect("it seeks");
        file.write_all(&[7; 10]).expect("it writes");
        assert_eq!(file.inner.bytes.get_ref()[..11], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 9]);
    }

    /// What raft-engine does with a file.
    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        /// After so many bytes, zeros included, an error follows, and the place is sought again.
        Fail(usize, usize),
        Truncate,
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = || prop_oneof![1..10_000_usize, 1..700_000_usize];
        prop_oneof![
            8 => size().prop_map(Step::Write),
            2 => (size(), size()).prop_map(|(size, after)| Step::Fail(size, after)),
            1 => Just(Step::Truncate),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// What is written reads back, and zeros behind it, as if nothing were written ahead.
        #[test]
        fn nothing_of_the_log_is_written_over(steps in proptest::collection::vec(step(), 1..30)) {
            let (mut ahead, mut plain) = (AheadWriter::new(Noted::default()), Noted::default());
            let (mut end, mut room) = (0, 0);
            for (number, step) in steps.into_iter().enumerate() {
                let (size, after) = match step {
                    Step::Write(size) => (size, None),
                    Step::Fail(size, after) => (size, Some(after)),
                    Step::Truncate => {
                        ahead.truncate(end).expect("it truncates");
                        plain.truncate(end).expect("it truncates");
                        room = end;
                        continue;
                    }
                };
                if end + size > room {
                    let more = ROOM.max(end + size - room);
                    ahead.allocate(room, more).expect("it has room");
                    plain.allocate(room, more).expect("it has room");
                    room += more;
                }
                let bytes = vec![u8::try_from(number + 1).expect("few steps"); size];
                ahead.inner.fails_after = after;
                let done = ahead.write_all(&bytes);
                prop_assert!(done.is_ok() || after.is_some());
                prop_assert!(done.is_err() || after.is_none_or(|after| after >= size));
                if done.is_err() {
                    ahead.seek(SeekFrom::Start(end as u64)).expect("it seeks");
                } else {
                    plain.write_all(&bytes).expect("it writes");
                    end += size;
                }
                ahead.inner.fails_after = None;
                let [ahead, plain] = [&ahead.inner, &plain].map(|file| file.bytes.get_ref());
                prop_assert_eq!(&ahead[..end], &plain[..end]);
                prop_assert_eq!(ahead.len(), plain.len());
            }
        }
    }
}
