//! The durable floor: one redb file with a table of rows and one of the pieces of long values (`pieces.rs`), and a picture of
//! it to read from.
//!
//! 1. [`Store::create`] writes a whole file; [`Store::open`] takes up one that is there, when every page of it is what was
//!    written: it reads them all. A damaged branch would otherwise hide rows that are there.
//! 2. [`Store::stage`] puts rows into a redb transaction and then makes room for redb's own bookkeeping. Whatever is
//!    wrong with the disk's space is found here, and undone.
//! 3. [`Store::seal`] commits that transaction: two syncs, after which a crash finds it.
//! 4. [`Store::floor`] is a picture of the last commit, its tables kept open, so that a read costs no set-up.

use std::{
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use super::{
    backend::{Backend, Resting, Space},
    pieces,
    row::{self, Cut, Opened},
};
use crate::{
    engine::{Bytes, Error, KeyRange, Rest, Result},
    fs::{Disk, File, is_full},
};

mod scan;
mod tables;

pub(super) use scan::{FloorScan, Found};
use tables::{PIECES, ROWS, Tables};

type RawBytes = &'static [u8];

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
        self.guarded(|| {
            let transaction = self.database.begin_read().map_err(|error| self.error("read", error))?;
            let rows = transaction.open_table(ROWS).map_err(|error| self.error("read", error))?;
            let pieces = match transaction.open_table(PIECES) {
                Ok(pieces) => Some(pieces),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(self.error("read", error)),
            };
            Ok(Floor { rows, pieces, store: self.clone() })
        })
    }

    /// Lets what follows rest now and then, until what this returns is dropped.
    pub(super) fn resting(&self, rest: Rest) -> Resting<'_> {
        Resting::begin(&self.space, rest)
    }

    /// What was written to the file since it was opened, in bytes.
    pub(super) fn written_bytes(&self) -> u64 {
        self.space.written_bytes()
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
        let mut tables = self.guarded(|| Tables::open(transaction).map_err(|error| self.error("write to", error)))?;
        for row in rows {
            let (key, value) = row?;
            self.space.rest();
            self.guarded(|| {
                let put = tables.put(&key, value.as_deref()).map_err(|error| self.error("write to", error))?;
                put.ok_or_else(|| self.unfit())?;
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

    /// What was written for `key`.
    fn opened<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<Opened<'a>> {
        row::open(key, sealed).ok_or_else(|| self.unfit())
    }

    fn unfit(&self) -> Error {
        corrupt(&self.path, "a row's checksum does not fit its key and value")
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
    rows: ReadOnlyTable<RawBytes, RawBytes>,
    pieces: Option<ReadOnlyTable<RawBytes, RawBytes>>,
    store: Arc<Store>,
}

/// A value that was found.
pub(super) enum Held {
    /// It is here.
    Whole(Bytes),
    /// Its row is: [`Floor::whole`] reads the rest.
    Cut(Bytes),
}

impl Floor {
    /// The file that this is a picture of.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.store.guarded(|| {
            let sealed = self.rows.get(key).map_err(|error| self.store.error("read", error))?;
            sealed.map(|sealed| self.value(key, sealed.value())).transpose()
        })
    }

    /// What a scan has found for `key`, whole.
    pub(super) fn whole(&self, key: &[u8], held: Held) -> Result<Bytes> {
        match held {
            Held::Whole(value) => Ok(value),
            Held::Cut(sealed) => self.store.guarded(|| self.value(key, &sealed)),
        }
    }

    fn value(&self, key: &[u8], sealed: &[u8]) -> Result<Bytes> {
        match self.store.opened(key, sealed)? {
            Opened::Whole(value) => Ok(value.into()),
            Opened::Cut(cut) => self.join(key, &cut),
        }
    }

    fn join(&self, key: &[u8], cut: &Cut<'_>) -> Result<Bytes> {
        let read = |key: Vec<u8>| match &self.pieces {
            Some(pieces) => pieces.get(&*key).map_err(|error| self.store.error("read", error)),
            None => Ok(None),
        };
        let pieces = pieces::keys(key).take(cut.pieces as usize).map(read).map_while(Result::transpose);
        let pieces: Vec<_> = pieces.collect::<Result<_>>()?;
        let value = pieces::join(key, cut, pieces.iter().map(redb::AccessGuard::value));
        value.ok_or_else(|| corrupt(&self.store.path, "a value's pieces are not what its row says"))
    }

    /// The rows of `range`, which must not be empty.
    pub(super) fn scan(&self, range: &KeyRange) -> FloorScan<'_> {
        let bounds = (Bound::Included(&*range.start), range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let rows =
            self.store.guarded(|| self.rows.range::<&[u8]>(bounds).map_err(|error| self.store.error("read", error)));
        FloorScan::new(rows, &self.store)
    }
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // redb's own would print rows.
        f.debug_struct("Floor").field("store", &self.store).finish_non_exhaustive()
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
mod tests;
