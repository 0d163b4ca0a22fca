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

use redb::{Database, ReadOnlyTable, ReadableDatabase, Table, TableDefinition, TableError, WriteTransaction};

use super::{
    backend::{Backend, Space},
    pieces,
    row::{self, Cut, Opened},
};
use crate::{
    engine::{Bytes, Error, KeyRange, Result},
    fs::{Disk, File, is_full},
};

type RawBytes = &'static [u8];

const ROWS: TableDefinition<'static, RawBytes, RawBytes> = TableDefinition::new("rows");

/// What rows that were cut leave out. A file that was never written since there are pieces has no such table.
const PIECES: TableDefinition<'static, RawBytes, RawBytes> = TableDefinition::new("pieces");

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

/// The tables of a transaction.
struct Tables<'t> {
    rows: Table<'t, RawBytes, RawBytes>,
    pieces: Table<'t, RawBytes, RawBytes>,
    /// A row as it is going to be written.
    sealed: Vec<u8>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> std::result::Result<Self, TableError> {
        let (rows, pieces) = (transaction.open_table(ROWS)?, transaction.open_table(PIECES)?);
        Ok(Self { rows, pieces, sealed: Vec::new() })
    }

    /// Sets a row, or removes it, and the pieces that belong to it. None when the row that was there is not what was written: how
    /// many pieces it had is then known to nobody.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> std::result::Result<Option<()>, redb::StorageError> {
        let (cut, former) = match value {
            Some(value) => {
                let (cut, tail) = pieces::cut(key, value);
                if cut.is_empty() {
                    row::seal(key, value, &mut self.sealed);
                } else {
                    let pieces = u32::try_from(cut.len()).expect("a value has fewer pieces than bytes");
                    let checksum = row::checksum(key, value);
                    let head = Cut { pieces, value_bytes: value.len() as u64, checksum, tail };
                    row::seal_cut(key, &head, &mut self.sealed);
                }
                (cut, self.rows.insert(key, &*self.sealed)?)
            }
            None => (Vec::new(), self.rows.remove(key)?),
        };
        let former_pieces = match former.as_ref().map(|former| row::open(key, former.value())) {
            None | Some(Some(Opened::Whole(_))) => 0,
            Some(Some(Opened::Cut(former))) => former.pieces as usize,
            Some(None) => return Ok(None),
        };
        drop(former);
        for (piece, key) in cut.iter().zip(pieces::keys(key)) {
            self.pieces.insert(&*key, *piece)?;
        }
        for key in pieces::keys(key).take(former_pieces).skip(cut.len()) {
            self.pieces.remove(&*key)?;
        }
        Ok(Some(()))
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

/// What a scan finds: a key and its value.
pub(super) type Found = (Bytes, Held);

/// Rows of the floor in ascending order. It ends after an error.
pub(super) struct FloorScan<'a> {
    rows: Option<redb::Range<'static, RawBytes, RawBytes>>,
    /// What was read and not taken yet.
    ahead: Option<Result<Found>>,
    store: &'a Store,
}

impl FloorScan<'_> {
    /// What comes next.
    pub(super) fn peek(&mut self) -> Option<&Result<Found>> {
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
        let may_pass = |row: &mut Result<Found>| row.as_ref().map_or(true, |(key, _)| is_below(key));
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
                let (key, sealed) = row.map_err(|error| self.store.error("read", error))?;
                let opened = self.store.opened(key.value(), sealed.value())?;
                if !is_below(key.value()) {
                    return Ok(Some(found(key.value(), &opened, sealed.value())));
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

    fn read(&mut self) -> Option<Result<Found>> {
        let rows = self.rows.as_mut()?;
        let row = self.store.guarded(|| match rows.next() {
            Some(Ok((key, sealed))) => {
                let opened = self.store.opened(key.value(), sealed.value())?;
                Ok(Some(found(key.value(), &opened, sealed.value())))
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
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        self.ahead.take().or_else(|| self.read())
    }
}

fn found(key: &[u8], opened: &Opened<'_>, sealed: &[u8]) -> Found {
    let held = match opened {
        Opened::Whole(value) => Held::Whole((*value).into()),
        Opened::Cut(_) => Held::Cut(sealed.into()),
    };
    (key.into(), held)
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

    use redb::ReadableTableMetadata as _;

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

    fn new_store(disk: &FaultyDisk) -> Arc<Store> {
        let path = Path::new("/floor");
        disk.create_dir(Path::new("/")).unwrap();
        Arc::new(Store::create(disk, path, path, 1 << 20).unwrap())
    }

    fn row_of(key: &'static str, value: Option<Vec<u8>>) -> std::iter::Once<Result<(Bytes, Option<Bytes>)>> {
        std::iter::once(Ok((key.as_bytes().into(), value.map(Bytes::from))))
    }

    /// How many pieces there are of all values together.
    fn pieces_of(store: &Arc<Store>) -> u64 {
        store.floor().unwrap().pieces.unwrap().len().unwrap()
    }

    #[test]
    fn a_long_value_comes_back_and_takes_its_pieces_along() {
        let disk = FaultyDisk::new();
        let store = new_store(&disk);
        let mut pieces = Vec::new();
        for bytes in [0, 5_000, 4_000, 65_536, 100_000, 65_536, 1 << 20, 4_060, 4_080, 9_000, 3, 300_000] {
            let value: Vec<u8> = (0..bytes).map(|at: u32| (at * 7 % 251) as u8).collect();
            checkpoint(&disk, &store, row_of("key", Some(value.clone())));
            let floor = store.floor().unwrap();
            assert!(floor.get(b"key").unwrap().as_deref() == Some(&*value), "a value of {bytes} bytes");
            pieces.push(pieces_of(&store));
        }
        assert_eq!(pieces, [0, 1, 0, 1, 2, 1, 16, 0, 1, 1, 0, 6]);
        checkpoint(&disk, &store, row_of("key", None));
        assert_eq!(pieces_of(&store), 0);
        assert!(store.floor().unwrap().get(b"key").unwrap().is_none());
    }

    #[test]
    fn long_values_take_less_than_a_page_more_than_their_bytes() {
        // Of 6,091 and 10,187 bytes more than half a page is left over.
        for value_bytes in [4_096, 5_000, 6_091, 10_000, 10_187, 40_000, 65_536, 100_000, 300_000] {
            let disk = FaultyDisk::new();
            let store = new_store(&disk);
            let keys = 20_000_000 / value_bytes;
            checkpoint(&disk, &store, rows(0..keys, Some(vec![1; value_bytes as usize])));
            let stored = store.floor().unwrap();
            let pages = |table: &ReadOnlyTable<RawBytes, RawBytes>| {
                let stats = table.stats().unwrap();
                stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()
            };
            let taken = pages(&stored.rows) + pages(stored.pieces.as_ref().unwrap());
            let least = u64::from(keys * value_bytes);
            // All of it: what the pages hold, and what is left free in them.
            let most = least + u64::from(keys) * 4_096;
            assert!(taken < most, "{taken} bytes for {least} in values of {value_bytes}");
        }
    }

    /// What was written before there were pieces.
    #[test]
    fn a_long_value_in_one_row_is_read_and_replaced() {
        let disk = FaultyDisk::new();
        let path = Path::new("/floor");
        disk.create_dir(Path::new("/")).unwrap();
        let (backend, _) = Backend::new(disk.create(path).unwrap()).unwrap();
        let database = Database::builder().create_with_backend(backend).unwrap();
        let mut sealed = Vec::new();
        row::seal(b"old", &[5; 65_536], &mut sealed);
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ROWS).unwrap().insert(b"old".as_slice(), &*sealed).unwrap();
        transaction.commit().unwrap();
        drop(database);

        let store = Arc::new(Store::open(&disk, path, 1 << 20).unwrap());
        assert_eq!(store.floor().unwrap().get(b"old").unwrap().as_deref(), Some([5; 65_536].as_slice()));
        checkpoint(&disk, &store, row_of("new", Some(vec![6; 65_536])));
        let floor = store.floor().unwrap();
        assert_eq!(floor.get(b"old").unwrap().as_deref(), Some([5; 65_536].as_slice()));
        assert_eq!(floor.get(b"new").unwrap().as_deref(), Some([6; 65_536].as_slice()));
        checkpoint(&disk, &store, row_of("old", Some(vec![7; 65_536])));
        assert_eq!(store.floor().unwrap().get(b"old").unwrap().as_deref(), Some([7; 65_536].as_slice()));
        assert_eq!(pieces_of(&store), 2);
    }

    #[test]
    fn a_piece_that_is_gone_or_another_is_told_as_damage() {
        for is_gone in [true, false] {
            let disk = FaultyDisk::new();
            let store = new_store(&disk);
            checkpoint(&disk, &store, row_of("key", Some(vec![1; 100_000])));
            let key = pieces::keys(b"key").nth(1).unwrap();
            let transaction = store.begin().unwrap();
            let mut pieces = transaction.open_table(PIECES).unwrap();
            let mut piece = pieces.remove(&*key).unwrap().unwrap().value().to_vec();
            if !is_gone {
                piece[9] ^= 1;
                pieces.insert(&*key, &*piece).unwrap();
            }
            drop(pieces);
            transaction.commit().unwrap();
            let error = store.floor().unwrap().get(b"key").unwrap_err();
            assert!(matches!(&error, Error::Corrupt { path, .. } if path == "/floor"), "{error}");
        }
    }

    #[test]
    fn a_commit_never_grows_the_file() {
        for (keys, value_bytes) in [(10, 10), (3_000, 10), (20_000, 10), (20_000, 200), (2_000, 5_000), (40, 300_000)] {
            let disk = FaultyDisk::new();
            let store = new_store(&disk);
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
