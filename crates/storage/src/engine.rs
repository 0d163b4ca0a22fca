//! What every engine promises: an ordered map of byte strings that changes in whole transactions.
//!
//! 1. One writer at a time calls [`Engine::begin`], reads and writes through the [`Transaction`], and
//!    [commits](Transaction::commit): from then on every new [`View`] shows all of it, none before.
//! 2. Any number of readers call [`Engine::view`]: a view is a consistent picture that never changes, costs
//!    no lock, and never makes the writer wait.
//! 3. What a commit means for durability is the engine's own: nothing for [`crate::memory`], the next
//!    checkpoint for [`crate::disk`], since the Raft log is the write-ahead log.

use std::sync::Arc;

use crate::ahead::Ahead;

/// A row's key or value: immutable and shared, so that a view costs no copies.
pub type Bytes = Arc<[u8]>;

/// A row as scans yield it.
pub type Row = (Bytes, Bytes);

/// Errors of an engine. All of them are faults: the node must stop rather than go on with them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system failed a file operation.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done, as a phrase that reads before the path: `read`, `write to`.
        what: &'static str,
        /// The file it was done to.
        path: String,
        /// The operating system's own error.
        source: std::io::Error,
    },
    /// There is no room on the disk. Nothing was changed, and trying again later is safe.
    #[error("no space left on the disk for {path}")]
    DiskFull {
        /// The file that could not grow.
        path: String,
    },
    /// The file's content is not what was written to it.
    #[error("{path} is damaged: {detail}")]
    Corrupt {
        /// The damaged file.
        path: String,
        /// What was found, and where.
        detail: String,
    },
}

/// The result of an engine's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The rows with `start <= key < end`; an absent `end` is the end of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that may be part of the range.
    pub start: Bytes,
    /// The first key behind the range.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.into(), end: successor(prefix).map(Into::into) }
    }

    /// The keys that begin with `prefix` and are greater than `after`.
    pub fn prefix_after(prefix: &[u8], after: &[u8]) -> Self {
        let mut first: Vec<u8> = after.to_vec();
        first.push(0); // the least key greater than `after`
        let start = if first.as_slice() < prefix { prefix.into() } else { first.into() };
        Self { start, end: successor(prefix).map(Into::into) }
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The least key greater than every key that begins with `prefix`; none when there is no such key.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// What an engine holds that no checkpoint has made durable, in bytes of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// What was changed since the last checkpoint began: for the next one.
    pub active_bytes: u64,
    /// What a checkpoint is writing, and what the memory holds until that ends.
    pub frozen_bytes: u64,
    /// Of [`Backlog::frozen_bytes`], what has found its place among what is durable; only then is it written.
    pub staged_bytes: u64,
    /// Of [`Backlog::frozen_bytes`], what is likely to be written by now.
    pub written_bytes: u64,
}

/// Reading, from a [`View`] or from inside a [`Transaction`].
pub trait Read {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The rows of `range`, in ascending byte order of the key. Lazy: a row costs when it is taken.
    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_;
}

/// A consistent picture of the whole map, at the commit that was the last when it was taken.
pub trait View: Read + Clone + Send + Sync + 'static {
    /// The keys of `range` in ascending order, without the first `offset`, which cost less than those that are taken. An error
    /// among them is not passed over. Long values are not read, but for those that earlier versions wrote.
    fn keys(&self, range: KeyRange, offset: u64) -> impl Iterator<Item = Result<Bytes>> + Send + '_;
}

/// The one writer's changes, not yet seen by any view. Dropping it discards them.
pub trait Transaction: Read + Send {
    /// A point to come back to with [`Transaction::rollback`].
    type Savepoint;

    /// Sets `key` to `value`. Both are copied to where they belong, as a rule into memory that is there already.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Removes `key`; no change when it is absent.
    fn delete(&mut self, key: &[u8]);

    /// Remembers the transaction as it is now. Cheap, whatever its size.
    fn savepoint(&self) -> Self::Savepoint;

    /// Undoes all that was done since `savepoint`.
    fn rollback(&mut self, savepoint: Self::Savepoint);

    /// Makes all changes visible at once.
    fn commit(self) -> Result<()>;
}

/// What a checkpoint does between two pieces of its work: it may block for a while, to let others go first.
pub type Rest = Box<dyn FnMut() + Send>;

/// An ordered map with one writer and any number of readers.
pub trait Engine: Send + Sync + 'static {
    /// What a reader holds.
    type View: View;
    /// What the writer holds.
    type Transaction<'a>: Transaction
    where
        Self: 'a;

    /// A picture of the map as the last commit left it.
    fn view(&self) -> Self::View;

    /// Begins the one transaction. Waits while another is open.
    fn begin(&self) -> Self::Transaction<'_>;

    /// As [`Engine::begin`], with rows that were looked up ahead. It is never wrong to: those that are not what is durable any
    /// more are of no use. An engine in which nothing takes long to look up has none for them.
    fn begin_with(&self, ahead: Ahead<Self::View>) -> Self::Transaction<'_> {
        drop(ahead);
        self.begin()
    }

    /// Replaces the whole map, atomically: after an error the map is as before. A durable engine returns when
    /// the new content is durable. `rows` come in ascending order of their keys; its error type is the caller's.
    fn replace<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<(), E>;

    /// Makes durable what is committed now, and returns a view of exactly that. Blocks for as long as the disk
    /// needs; the writer and the readers go on meanwhile. One runs at a time; a second caller waits for the first.
    /// After [`Error::DiskFull`] the engine goes on as before and it may be tried again. An engine without a disk
    /// answers its newest view.
    fn checkpoint(&self) -> Result<Self::View> {
        self.checkpoint_when(|_| Ok(()), Box::new(|| ()))
    }

    /// As [`Engine::checkpoint`]; but first shows `ready` what is going to be durable, when anything is, and waits for
    /// it. After an error of `ready` nothing is durable that was not, and the engine goes on as before. Between small pieces
    /// of its work, where neither the writer nor a reader waits for it, it calls `rest`: not within what redb does in one step, nor
    /// while another caller waits for its end.
    fn checkpoint_when(&self, ready: impl FnOnce(&Self::View) -> Result<()>, rest: Rest) -> Result<Self::View>;

    /// What the last checkpoint made durable: what a restart would find. Does not block.
    fn checkpointed(&self) -> Self::View;

    /// What waits for the disk: nothing, for an engine without one.
    fn backlog(&self) -> Backlog;

    /// How much that is.
    fn dirty_bytes(&self) -> u64 {
        let Backlog { active_bytes, frozen_bytes, staged_bytes: _, written_bytes: _ } = self.backlog();
        active_bytes + frozen_bytes
    }
}
