//! The disk, as the layers above see it. Everything that reaches a file goes through [`Disk`], so that tests and
//! the simulator can lose, tear, delay and fail what they like.

#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod os;

use std::{io, path::Path, sync::Arc};

pub use os::OsDisk;

/// How many bytes whoever writes much puts into a file before syncing it, in bytes. A disk makes durable at once all that it
/// was given, whoever waits: a log's next sync would take as long as a whole checkpoint's pages.
pub const UNSYNCED_BYTES_MAX: u64 = 128 << 10;

/// Whether `error` says that the disk, or the quota of its user, has no room left.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file system directory tree.
pub trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a file, or empties the one that is there, with mode 0600.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file, replacing the target. Durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents, with mode 0700.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. All methods take an offset: there is no cursor.
#[expect(clippy::len_without_is_empty, reason = "whether a file is empty is asked by nobody")]
pub trait File: Send + Sync + std::fmt::Debug + 'static {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file; new bytes read as zero, with no space behind them.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space so that writes below `len` cannot fail with `StorageFull`. Keeps the content; the file's length becomes at least `len`.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Returns when all that was written is durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
}
