//! The file under redb, and the room it may grow into.
//!
//! One failed write, and redb refuses to read as well, for good: rightly so for a broken disk, wrongly for a full one.
//! So a full disk must be noticed at a moment when redb can still turn back, without redb seeing an error:
//!
//! 1. The whole file is allocated at all times: redb's pages are never written into a hole.
//! 2. While rows are staged ([`Space::tentatively`]), growth that finds no room is granted all the same, by a hole.
//!    What redb writes there is kept in memory instead, and [`Space::is_short`] says that the transaction must end.
//!    Aborting it makes redb cut the file back to where it was.
//! 3. While redb commits ([`Space::finally`]) it must not grow. `floor` sees to it that it need not.
//!
//! redb writes a checkpoint's pages all together, and syncs once. Here they are synced bit by bit, so that the log beside
//! them never waits for more than a bit; and there is a rest behind each bit, where whoever makes the checkpoint wants it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    engine::Rest,
    fs::{File, UNSYNCED_BYTES_MAX, is_full},
};

/// The file as redb sees it.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn File>,
    space: Arc<Space>,
    /// What was written since the last sync.
    unsynced_bytes: AtomicU64,
}

/// What the owner of a [`Backend`] keeps: how far the file has grown, whether it may fail to, and whether it has; and how much was
/// written to it.
#[derive(Debug, Default)]
pub(super) struct Space {
    file_bytes: AtomicU64,
    written_bytes: AtomicU64,
    tentative: AtomicBool,
    short: AtomicBool,
    shortage: Mutex<Shortage>,
    rests: Mutex<Rests>,
}

/// How what goes on rests; none when it does not.
#[derive(Default)]
struct Rests(Option<Rest>);

impl std::fmt::Debug for Rests {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Rests").field(&self.0.is_some()).finish()
    }
}

/// While it lives, the owner of the [`Space`] and the [`Backend`] rest between pieces of their work.
pub(super) struct Resting<'a>(&'a Space);

impl<'a> Resting<'a> {
    pub(super) fn begin(space: &'a Space, rest: Rest) -> Self {
        space.rests().0 = Some(rest);
        Self(space)
    }

    pub(super) fn rest(&self) {
        self.0.rest();
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.rests().0 = None;
    }
}

/// What lies behind the allocated part of the file while the disk is full.
#[derive(Debug, Default)]
struct Shortage {
    allocated_bytes: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Space {
    /// The file's length.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Acquire)
    }

    /// What was written to the file since it was opened.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// From now on what is written can still be undone.
    pub(super) fn tentatively(&self) {
        self.tentative.store(true, Ordering::Release);
    }

    /// From now on what is written is meant.
    pub(super) fn finally(&self) {
        self.tentative.store(false, Ordering::Release);
    }

    /// Whether the disk was full, and the transaction must be aborted.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// A place for a rest: nobody waits for what is under way.
    pub(super) fn rest(&self) {
        if let Some(rest) = &mut self.rests().0 {
            rest();
        }
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shortage(&self) -> MutexGuard<'_, Shortage> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend {
    /// The file, allocated in full, and its space. Fails with `StorageFull` when it has holes and no room for them.
    pub(super) fn new(file: Arc<dyn File>) -> io::Result<(Self, Arc<Space>)> {
        let file_bytes = file.len()?;
        file.allocate(file_bytes)?;
        let space = Arc::new(Space { file_bytes: AtomicU64::new(file_bytes), ..Space::default() });
        Ok((Self { file, space: space.clone(), unsynced_bytes: AtomicU64::new(0) }, space))
    }

    fn grow(&self, file_bytes: u64) -> io::Result<()> {
        if !self.space.is_short() {
            match self.file.allocate(file_bytes) {
                Err(error) if is_full(&error) && self.space.tentative.load(Ordering::Acquire) => {
                    self.space.shortage().allocated_bytes = self.space.file_bytes();
                    self.space.short.store(true, Ordering::Release);
                }
                result => return result,
            }
        }
        self.file.set_len(file_bytes)
    }

    /// Writes, and syncs whenever there is enough to.
    fn write_bit_by_bit(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let left = UNSYNCED_BYTES_MAX.saturating_sub(self.unsynced_bytes.load(Ordering::Relaxed));
            let (piece, rest) = data.split_at(usize::try_from(left).map_or(data.len(), |left| left.min(data.len())));
            self.file.write_all_at(piece, offset)?;
            self.unsynced_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.space.written_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if piece.len() as u64 == left {
                self.sync()?;
                self.space.rest();
            }
            offset += piece.len() as u64;
            data = rest;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn cut(&self, file_bytes: u64) -> io::Result<()> {
        self.file.set_len(file_bytes)?;
        let mut shortage = self.space.shortage();
        if self.space.is_short() && file_bytes <= shortage.allocated_bytes {
            shortage.pages.clear();
            self.space.short.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.space.file_bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.space.is_short()
            && let Some(page) = self.space.shortage().pages.get(&offset)
            && let Some(page) = page.get(..out.len())
        {
            out.copy_from_slice(page);
            return Ok(());
        }
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, file_bytes: u64) -> io::Result<()> {
        if file_bytes > self.space.file_bytes() {
            self.grow(file_bytes)?
        } else {
            self.cut(file_bytes)?
        }
        self.space.file_bytes.store(file_bytes, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.space.is_short() {
            let mut shortage = self.space.shortage();
            if offset + data.len() as u64 > shortage.allocated_bytes {
                shortage.pages.insert(offset, data.to_vec());
                return Ok(());
            }
        }
        self.write_bit_by_bit(offset, data)
    }
}
