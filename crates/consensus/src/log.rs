//! The Raft logs: [`disk`] for the `values` group, [`memory`] for the `cache` group.
//!
//! Both keep the same picture of the log, a `span`: a purge point and the consecutive entries behind it.

#[cfg(test)]
pub(crate) mod asked;
pub mod disk;
mod gone;
pub mod memory;
mod span;
pub(crate) mod weight;

use std::{
    io,
    ops::{Bound, Range, RangeBounds},
    time::Duration,
};

use state::ids::Position;
use tokio::sync::oneshot;

/// The most bytes of entries that one bounded read returns, save that it always returns one entry.
pub const READ_BYTES_MAX: usize = 1_048_576;

/// What a group asks of its log beside what openraft does.
pub trait LocalLog: Send + Sync + 'static {
    /// How long the write or sync that is under way has taken; zero when none is. Waiting for room on a full disk does
    /// not count.
    fn stalled_for(&self) -> Duration;

    /// Whether entries of so many bytes can be written now. While the disk has no room for the next segment, the rest of the
    /// present one is for what is `vital`, and for votes.
    fn has_room_for(&self, bytes: u64, vital: bool) -> bool;

    /// Gives the disk back what the log keeps only to be quicker: called where something else lacks room.
    fn give_back(&self);

    /// How many bytes of entries that a checkpoint holds are kept all the same, for members that lag a little.
    fn tail_bytes(&self) -> u64;

    /// The first of the newest entries that have `bytes` together at most, as the log stores them; the index behind the
    /// last entry when that one is larger.
    fn tail_start(&self, bytes: u64) -> u64;

    /// Notes that all up to `position` is committed, also where the log does not hold it yet. The receiver answers when
    /// the note is durable, and with it all that was given to the log before.
    fn note_committed(&self, position: Position) -> oneshot::Receiver<io::Result<()>>;
}

/// What became of a note: a log that drops whoever waits has ended.
pub(crate) fn noted(answer: Result<io::Result<()>, oneshot::error::RecvError>) -> io::Result<()> {
    answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::BrokenPipe, "the log has ended")))
}

/// A range of indexes as `start..end`.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
