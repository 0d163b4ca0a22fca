//! The newest entries, in memory: what replication and the state machine read nearly always.

use std::collections::VecDeque;

use super::shared::{Slot, Standing};
use crate::{
    log::{
        gone::{self, Gone},
        span::Span,
    },
    types::Entry,
};

/// The newest entries: always the last ones of the log, without a hole, bounded in bytes.
pub(super) struct Cache {
    entries: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
    /// What was purged of it.
    gone: Gone<Cached>,
}

/// An entry with its [weight](crate::log::weight).
struct Cached {
    entry: Entry,
    bytes: usize,
}

impl Cached {
    fn index(&self) -> u64 {
        self.entry.log_id.index
    }
}

impl Cache {
    /// An empty cache, bounded to `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max, gone: Gone::default() }
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(Cached::index)
    }

    /// The entry at `index`, with its weight in bytes.
    pub(super) fn get(&self, index: u64) -> Option<(&Entry, usize)> {
        let cached = self.entries.get(usize::try_from(index.checked_sub(self.first()?)?).ok()?)?;
        Some((&cached.entry, cached.bytes))
    }

    /// Adds the log's new last entry, of a weight of `bytes`.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back(Cached { entry, bytes });
        self.gone.free_some();
    }

    /// Follows a truncation.
    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        while let Some(cached) = self.entries.pop_back_if(|cached| Some(cached.index()) > last) {
            self.bytes -= cached.bytes;
        }
    }

    /// Follows a purge.
    pub(super) fn purge(&mut self, upto: u64) {
        let count = self.entries.partition_point(|cached| cached.index() <= upto);
        self.bytes -= self.entries.range(..count).map(|cached| cached.bytes).sum::<usize>();
        self.gone.take(gone::take_front(&mut self.entries, count));
    }

    /// Drops the oldest entries that can be read from the disk, until the rest is within the bound.
    pub(super) fn shrink(&mut self, span: &mut Span<Slot>) {
        while self.bytes > self.bytes_max {
            let written = |cached: &mut Cached| {
                let slot = span.get_mut(cached.index());
                slot.is_some_and(|slot| matches!(slot.standing, Standing::Written(_)))
            };
            let Some(cached) = self.entries.pop_front_if(written) else { return };
            self.bytes -= cached.bytes;
        }
    }
}
