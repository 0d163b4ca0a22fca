//! The newest entries, in memory: what replication and the state machine read nearly always.

use std::collections::VecDeque;

use super::shared::{Slot, Standing};
use crate::{
    log::{span::Span, weight},
    types::Entry,
};

/// The newest entries: always the last ones of the log, without a hole, bounded in bytes.
pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    /// An empty cache, bounded to `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// The entry at `index`.
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first()?)?).ok()?)
    }

    /// Adds the log's new last entry.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += weight::entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// Follows a truncation.
    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        while let Some(entry) = self.entries.pop_back_if(|entry| Some(entry.log_id.index) > last) {
            self.bytes -= weight::entry_bytes(&entry);
        }
    }

    /// Follows a purge.
    pub(super) fn purge(&mut self, upto: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index <= upto) {
            self.bytes -= weight::entry_bytes(&entry);
        }
    }

    /// Drops the oldest entries that can be read from the disk, until the rest is within the bound.
    pub(super) fn shrink(&mut self, span: &mut Span<Slot>) {
        while self.bytes > self.bytes_max {
            let written = |entry: &mut Entry| {
                let slot = span.get_mut(entry.log_id.index);
                slot.is_some_and(|slot| matches!(slot.standing, Standing::Written(_)))
            };
            let Some(entry) = self.entries.pop_front_if(written) else { return };
            self.bytes -= weight::entry_bytes(&entry);
        }
    }
}
