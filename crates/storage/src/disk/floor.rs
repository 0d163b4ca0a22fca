//! The durable floor: one redb file with one table, and a picture of it to read from.
//!
//! 1. [`Store::create`] writes a whole file; [`Store::open`] takes up one that is there, when every page of it is what was
//!    written: it reads them all. A damaged branch would otherwise hide rows that are there.
//! 2. [`Store::stage`] puts rows into a redb transaction and then makes room for redb's own bookkeeping. Whatever is
//!    wrong with the disk's space is found here, and undone.
//! 3. [`Store::seal`] commits that transaction: two syncs, after which a crash finds it.
//! 4. [`Store::floor`] is a picture of the last commit, its table kept open, so that a read costs no set-up.

use std::{
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition, WriteTransaction};

use super::{
    backend::{Backend, Space},
    row,
};
use crate::{
    engine::{Bytes, Error, KeyRange, Result, Row},
    fs::{Disk, File, is_full},
};

type RawBytes = &'static [u8];

const ROWS: TableDefinition<'static, RawBytes, RawBytes> = TableDefinition::new("rows");

/// Rows of this table exist only inside a transaction: they claim room and give it back before the commit.
const ROOM: TableDefinition<'static, u64, RawBytes> = TableDefinition::new("room");

/// The value of a row of [`ROOM`]: with its page's own header it fills a page of 1 MiB.
const ROOM_ROW_BYTES: usize = (1 << 20) - 512;

/// While it commits, redb lists each page freed and each page added in 8 bytes (1/512 of its size), rewrites such
/// lists of earlier commits, and stores the state of its allocator (1/16,384 of the file). 1/64 of the file is enough
/// for four such lists, and the fixed part for the allocator's state and the copied paths of small trees.
const ROOM_PART_OF_FILE: u64 = 64;
const ROOM_ROWS_MIN: u64 = 2;

/// One redb file. Dropping it writes redb's closing mark, so two may never be open on the same file.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
    space: Arc<Space>,
    path: PathBuf,
}

impl Store {
    /// Opens the file at `path`, and repairs what a crash left open.
    pub(super) fn open(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self> {
        let file = disk.open(path).map_err(|source| io_error("open", path, source))?;
        if file.len().map_err(|source| io_error("measure", path, source))? == 0 {
            return Err(corrupt(path, "it is empty"));
        }
        Self::over(file, path, cache_bytes)
    }

    /// Creates an empty file at `at`, which is going to be renamed to `path`.
    pub(super) fn create(disk: &dyn Disk, at: &Path, path: &Path, cache_bytes: usize) -> Result<Self> {
        let file = disk.create(at).map_err(|source| refusal(io_error("create", at, source)))?;
        let store = Self::over(file, path, cache_bytes)?;
        let empty = store.stage(std::iter::empty::<Result<_>>())?;
        store.seal(empty)?;
        Ok(store)
    }

    fn over(file: Arc<dyn File>, path: &Path, cache_bytes: usize) -> Result<Self> {
        let (backend, space) =
            Backend::new(file).map_err(|source| refusal(io_error("reserve space for", path, source)))?;
        let database = guarded(path, || {
            Database::builder()
                .set_cache_size(cache_bytes)
                // The rows' own checksums tell a wrong value; only those of the pages tell a row that is not found.
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)
                .map_err(|error| refusal(redb_error("open", path, error)))
        })?;
        Ok(Self { database, space, path: path.to_owned() })
    }

    /// Puts `rows` into a transaction that is sure to find room when it is committed. An absent value deletes.
    /// After [`Error::DiskFull`], and after an error of `rows`, the file is as it was.
    pub(super) fn stage<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<(Bytes, Option<Bytes>), E>>,
    ) -> std::result::Result<WriteTransaction, E> {
        let transaction = self.guarded(|| self.begin())?;
        self.space.tentatively();
        let staged = self.put(&transaction, rows).and_then(|()| Ok(self.guarded(|| self.make_room(&transaction))?));
        let Err(error) = staged else {
            self.space.finally();
            return Ok(transaction);
        };
        let was_short = self.space.is_short();
        let aborted = self.guarded(|| transaction.abort().map_err(|error| self.error("undo writing to", error)));
        self.space.finally();
        match aborted {
            // Not "try again", then.
            Err(fault) if was_short => Err(fault.into()),
            // Otherwise the first error says more than what followed from it.
            Ok(()) | Err(_) => Err(error),
        }
    }

    /// Makes what was staged durable.
    pub(super) fn seal(&self, staged: WriteTransaction) -> Result<()> {
        self.guarded(|| staged.commit().map_err(|error| self.error("write to", error)))
    }

    /// A picture of what the last [`Store::seal`] left.
    pub(super) fn floor(self: &Arc<Self>) -> Result<Floor> {
        let table = self.guarded(|| {
            let transaction = self.database.begin_read().map_err(|error| self.error("read", error))?;
            transaction.open_table(ROWS).map_err(|error| self.error("read", error))
        })?;
        Ok(Floor { table, store: self.clone() })
    }

    fn begin(&self) -> Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(|error| self.error("write to", error))?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn put<E: From<Error>>(
        &self,
        transaction: &WriteTransaction,
        rows: impl Iterator<Item = std::result::Result<(Bytes, Option<Bytes>), E>>,
    ) -> std::result::Result<(), E> {
        let mut table = self.guarded(|| transaction.open_table(ROWS).map_err(|error| self.error("write to", error)))?;
        for row in rows {
            let (key, value) = row?;
            self.guarded(|| {
                let put = match &value {
                    Some(value) => table
                        .insert_reserve(&*key, row::sealed_bytes(value))
                        .map(|mut place| row::seal(&key, value, place.as_mut())),
                    None => table.remove(&*key).map(drop),
                };
                put.map_err(|error| self.error("write to", error))?;
                self.check_space()
            })?;
        }
        Ok(())
    }

    /// Sees to it that redb finds free pages for all that it writes at the commit, without growing the file.
    fn make_room(&self, transaction: &WriteTransaction) -> Result<()> {
        let rows = ROOM_ROWS_MIN + self.space.file_bytes() / ROOM_PART_OF_FILE / (ROOM_ROW_BYTES as u64);
        let mut room = transaction.open_table(ROOM).map_err(|error| self.error("write to", error))?;
        for row in 0..rows {
            room.insert_reserve(row, ROOM_ROW_BYTES).map_err(|error| self.error("write to", error))?;
            self.check_space()?;
        }
        for row in 0..rows {
            room.remove(row).map_err(|error| self.error("write to", error))?;
        }
        Ok(())
    }

    /// The value that was written for `key`.
    fn unsealed<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8]> {
        row::open(key, sealed).ok_or_else(|| corrupt(&self.path, "a row's checksum does not fit its key and value"))
    }

    fn check_space(&self) -> Result<()> {
        if self.space.is_short() { Err(Error::DiskFull { path: display(&self.path) }) } else { Ok(()) }
    }

    fn guarded<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        guarded(&self.path, operation)
    }

    fn error(&self, what: &'static str, error: impl Into<redb::Error>) -> Error {
        redb_error(what, &self.path, error)
    }
}

/// What one commit made durable. While it lives, redb cannot reuse the pages that it shows.
pub(super) struct Floor {
    table: ReadOnlyTable<RawBytes, RawBytes>,
    store: Arc<Store>,
}

impl Floor {
    /// The file that this is a picture of.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.store.guarded(|| {
            let value = self.table.get(key).map_err(|error| self.store.error("read", error))?;
            value.map(|value| self.store.unsealed(key, value.value()).map(Bytes::from)).transpose()
        })
    }

    /// The rows of `range`, which must not be empty.
    pub(super) fn scan(&self, range: &KeyRange) -> FloorScan<'_> {
        let bounds = (Bound::Included(&*range.start), range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let rows =
            self.store.guarded(|| self.table.range::<&[u8]>(bounds).map_err(|error| self.store.error("read", error)));
        match rows {
            Ok(rows) => FloorScan { rows: Some(rows), ahead: None, store: &self.store },
            Err(error) => FloorScan { rows: None, ahead: Some(Err(error)), store: &self.store },
        }
    }
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // redb's own would print rows.
        f.debug_struct("Floor").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Rows of the floor in ascending order. It ends after an error.
pub(super) struct FloorScan<'a> {
    rows: Option<redb::Range<'static, RawBytes, RawBytes>>,
    /// What was read and not taken yet.
    ahead: Option<Result<Row>>,
    store: &'a Store,
}

impl FloorScan<'_> {
    /// What comes next.
    pub(super) fn peek(&mut self) -> Option<&Result<Row>> {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        self.ahead.as_ref()
    }

    /// Leaves out up to `most` rows, those of lesser keys than `below` when there is one, and answers how many. They are checked
    /// as others are, but not copied.
    pub(super) fn pass(&mut self, most: u64, below: Option<&[u8]>) -> Result<u64> {
        let is_below = |key: &[u8]| below.is_none_or(|below| key < below);
        let mut passed = 0;
        let may_pass = |row: &mut Result<Row>| row.as_ref().map_or(true, |(key, _)| is_below(key));
        if most > 0
            && let Some(row) = self.ahead.take_if(may_pass)
        {
            row?;
            passed = 1;
        }
        let (None, Some(rows)) = (&self.ahead, &mut self.rows) else { return Ok(passed) };
        let stopped_at = self.store.guarded(|| {
            while passed < most {
                let Some(row) = rows.next() else { return Ok(None) };
                let (key, value) = row.map_err(|error| self.store.error("read", error))?;
                let (key, value) = (key.value(), self.store.unsealed(key.value(), value.value())?);
                if !is_below(key) {
                    return Ok(Some((key.into(), value.into())));
                }
                passed += 1;
            }
            Ok(None)
        });
        // As `read` does: what has come to its end, or has failed, is asked no more.
        if passed < most && !matches!(stopped_at, Ok(Some(_))) {
            self.rows = None;
        }
        self.ahead = stopped_at?.map(Ok);
        Ok(passed)
    }

    fn read(&mut self) -> Option<Result<Row>> {
        let rows = self.rows.as_mut()?;
        let row = self.store.guarded(|| match rows.next() {
            Some(Ok((key, value))) => {
                let value = self.store.unsealed(key.value(), value.value())?;
                Ok(Some((key.value().into(), value.into())))
            }
            Some(Err(error)) => Err(self.store.error("read", error)),
            None => Ok(None),
        });
        if !matches!(row, Ok(Some(_))) {
            self.rows = None;
        }
        row.transpose()
    }
}

impl Iterator for FloorScan<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        self.ahead.take().or_else(|| self.read())
    }
}

/// Turns a panic of redb, which trusts the pages that it reads, into an error of the file.
fn guarded<T>(path: &Path, operation: impl FnOnce() -> Result<T>) -> Result<T> {
    // What redb leaves behind is latched by itself: after a panic it writes no more.
    catch_unwind(AssertUnwindSafe(operation))
        .unwrap_or_else(|_| Err(corrupt(path, "its pages contradict each other (redb panicked on them)")))
}

fn redb_error(what: &'static str, path: &Path, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(source) => io_error(what, path, source),
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)) => {
            Error::Io { what, path: display(path), source: io::Error::other(error) }
        }
        // What is left is about content: the wrong tables, types, versions, checksums.
        error => corrupt(path, error),
    }
}

/// Of a file that redb reads, the end that comes too early and the wrong first bytes are damage.
fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => corrupt(path, source),
        _ => Error::Io { what, path: display(path), source },
    }
}

/// While a file is being opened or created, a full disk has spoilt nothing yet.
fn refusal(error: Error) -> Error {
    match error {
        Error::Io { path, source, .. } if is_full(&source) => Error::DiskFull { path },
        error @ (Error::Io { .. } | Error::DiskFull { .. } | Error::Corrupt { .. }) => error,
    }
}

fn corrupt(path: &Path, detail: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: display(path), detail: detail.to_string() }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fs::faulty::FaultyDisk;

    fn rows(
        keys: impl Iterator<Item = u32>,
        value: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(Bytes, Option<Bytes>)>> {
        let value = value.map(Bytes::from);
        keys.map(move |key| Ok((Bytes::from(key.to_be_bytes().as_slice()), value.clone())))
    }

    /// Commits with not a byte left on the disk: what `stage` made room for must be enough.
    fn checkpoint(disk: &FaultyDisk, store: &Arc<Store>, rows: impl Iterator<Item = Result<(Bytes, Option<Bytes>)>>) {
        let staged = store.stage(rows).unwrap();
        let file_bytes = store.space.file_bytes();
        disk.set_capacity(Some(0));
        store.seal(staged).unwrap();
        disk.set_capacity(None);
        assert!(store.space.file_bytes() <= file_bytes, "the file grew after it was staged");
    }

    #[test]
    fn a_commit_never_grows_the_file() {
        for (keys, value_bytes) in [(10, 10), (3_000, 10), (20_000, 10), (20_000, 200), (2_000, 5_000), (40, 300_000)] {
            let disk = FaultyDisk::new();
            let path = Path::new("/floor");
            disk.create_dir(Path::new("/")).unwrap();
            let store = Arc::new(Store::create(&disk, path, path, 1 << 20).unwrap());
            let value = Some(vec![1; value_bytes]);
            checkpoint(&disk, &store, rows(0..keys, value.clone()));
            // Pages of the first rows stay pinned, so that the lists of freed pages grow.
            let pinned = store.floor().unwrap();
            for step in [1, 2, 7, 50, 1] {
                checkpoint(&disk, &store, rows((0..keys).step_by(step), value.clone()));
            }
            drop(pinned);
            checkpoint(&disk, &store, rows(keys..keys + 10, value.clone()));
            checkpoint(&disk, &store, rows((0..keys).step_by(3), None));
            checkpoint(&disk, &store, rows(0..keys, None));
            checkpoint(&disk, &store, rows(0..keys, value));
        }
    }
}
