//! The Raft logs: [`disk`] for the `values` group, [`memory`] for the `cache` group.
//!
//! Both keep the same picture of the log, a `span`: a purge point and the consecutive entries behind it.

pub mod disk;
pub mod memory;
mod span;
pub(crate) mod weight;

use std::ops::{Bound, Range, RangeBounds};

/// The most bytes of entries that one bounded read returns, save that it always returns one entry.
pub const READ_BYTES_MAX: usize = 1_048_576;

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
