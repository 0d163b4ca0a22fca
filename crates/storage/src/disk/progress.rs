//! How far a checkpoint has come, by what it has written of what it is going to.
//!
//! How much that is nobody knows before the end: each changed row takes a page along, which it may share with others. The last
//! checkpoint tells how many bytes of pages one of rows takes.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Of a first checkpoint: pages of rows that come in no order are half full.
const FIRST: Checkpoint = Checkpoint { rows_bytes: 1, written_bytes: 2 };

/// A checkpoint of fewer rows tells nothing: of what it writes, most is redb's own books.
const TELLING_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Progress {
    /// What had been written to the file when the checkpoint began, in bytes.
    begin: AtomicU64,
    /// How much it is likely to write, in bytes.
    expected: AtomicU64,
    /// Bytes of rows that are staged.
    staged: AtomicU64,
    last: Mutex<Checkpoint>,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    rows_bytes: u64,
    written_bytes: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            begin: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            staged: AtomicU64::new(0),
            last: Mutex::new(FIRST),
        }
    }
}

impl Progress {
    /// Notes that a checkpoint of `rows_bytes` begins, to a file to which `written_bytes` were written so far.
    pub(super) fn begin(&self, rows_bytes: u64, written_bytes: u64) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = u128::from(rows_bytes) * u128::from(last.written_bytes) / u128::from(last.rows_bytes.max(1));
        self.staged.store(0, Ordering::Relaxed);
        self.begin.store(written_bytes, Ordering::Relaxed);
        self.expected.store(u64::try_from(expected).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes that a row of `row_bytes` is staged.
    pub(super) fn stage(&self, row_bytes: u64) {
        self.staged.fetch_add(row_bytes, Ordering::Relaxed);
    }

    /// How much of `rows_bytes` is staged now.
    pub(super) fn staged(&self, rows_bytes: u64) -> u64 {
        self.staged.load(Ordering::Relaxed).min(rows_bytes)
    }

    /// Notes that it is done.
    pub(super) fn end(&self, rows_bytes: u64, written_bytes: u64) {
        if rows_bytes < TELLING_BYTES {
            return;
        }
        let written_bytes = written_bytes.saturating_sub(self.begin.load(Ordering::Relaxed));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Checkpoint { rows_bytes, written_bytes };
    }

    /// How much of `rows_bytes` is likely to be written now.
    pub(super) fn written(&self, rows_bytes: u64, written_bytes: u64) -> u64 {
        if rows_bytes == 0 {
            return 0;
        }
        let written = written_bytes.saturating_sub(self.begin.load(Ordering::Relaxed));
        let expected = self.expected.load(Ordering::Relaxed).max(1);
        let share = u128::from(rows_bytes) * u128::from(written.min(expected)) / u128::from(expected);
        u64::try_from(share).unwrap_or(rows_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_checkpoint_tells_how_much_the_next_one_writes() {
        const MIB: u64 = 1 << 20;
        let progress = Progress::default();
        progress.begin(100 * MIB, 1_000 * MIB);
        let written = |rows: u64, file: u64| progress.written(rows * MIB, file * MIB) / MIB;
        assert_eq!([1_000, 1_100, 1_200, 9_000].map(|file| written(100, file)), [0, 50, 100, 100]);
        progress.end(100 * MIB, 1_800 * MIB);
        progress.begin(50 * MIB, 2_000 * MIB);
        assert_eq!([2_000, 2_040, 2_400, 2_401].map(|file| written(50, file)), [0, 5, 50, 50]);
        assert_eq!(written(50, 3), 0, "a file that is begun anew");
        progress.begin(u64::MAX, 0);
        assert_eq!(progress.written(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_checkpoint_of_a_few_rows_tells_nothing() {
        let progress = Progress::default();
        progress.begin(300, 0);
        progress.end(300, 40_000);
        progress.begin(1 << 26, 40_000);
        assert_eq!(progress.written(1 << 26, 40_000 + (1 << 26)), 1 << 25, "as a first one");
    }
}
