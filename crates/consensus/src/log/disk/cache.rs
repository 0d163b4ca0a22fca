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

/// Entries that are kept however large they are, within the cache's own bound: what followers that keep pace and the state
/// machine are about to read. A command's memory comes from the thread of its connection, which gets it back when its entry
/// goes: were entries kept for seconds, all of it would be cold by then, in the processor's caches and in the allocator's.
const RECENT_ENTRIES: usize = 16;
/// Bytes of entries that are kept however many they are.
const RECENT_BYTES: usize = 128 << 10;

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

    /// Takes out the oldest entries that can be read from the disk, until the rest is within the bounds. Those from `new` on
    /// have just been written: the state machine reads them next, and only the cache's own bound counts for them. The caller
    /// frees what it gets when nobody waits for it.
    pub(super) fn shrink(&mut self, span: &mut Span<Slot>, new: Option<u64>) -> Vec<Entry> {
        let mut old = Vec::new();
        let is_read = |first: Option<u64>| new.is_none_or(|new| first.is_some_and(|first| first < new));
        while self.bytes > self.bytes_max
            || (self.bytes > RECENT_BYTES && self.entries.len() > RECENT_ENTRIES && is_read(self.first()))
        {
            let written = |cached: &mut Cached| {
                let slot = span.get_mut(cached.index());
                slot.is_some_and(|slot| matches!(slot.standing, Standing::Written(_)))
            };
            let Some(cached) = self.entries.pop_front_if(written) else { break };
            self.bytes -= cached.bytes;
            old.push(cached.entry);
        }
        old
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;
    use state::ids::Position;

    use super::{super::shared::Location, *};
    use crate::types::log_id;

    /// A log of entries 0, 1, 2 … of `bytes` each, of which the first `written` lie on the disk.
    fn log(bytes: &[usize], written: usize) -> (Span<Slot>, Cache) {
        let (mut span, mut cache) = (Span::after(None), Cache::new(64 << 20));
        for (index, bytes) in (0..).zip(bytes) {
            let location = Location { segment: 1, offset: 0, length: 0 };
            let is_written = index < written as u64;
            let standing = if is_written { Standing::Written(location) } else { Standing::Queued(index) };
            span.push(index, Slot { term: 1, standing }).unwrap();
            let log_id = log_id(Position { term: 1, index });
            cache.push(Entry { log_id, payload: EntryPayload::Blank }, *bytes);
        }
        (span, cache)
    }

    /// How many entries are left.
    fn shrunk((mut span, mut cache): (Span<Slot>, Cache), new: Option<u64>) -> usize {
        let (all, bytes) = (cache.entries.len(), cache.bytes);
        let old = cache.shrink(&mut span, new);
        assert!(old.iter().zip(0..).all(|(entry, index)| entry.log_id.index == index), "the oldest, in their order");
        assert_eq!(cache.first(), (all > old.len()).then_some(old.len() as u64));
        assert_eq!(cache.bytes, cache.entries.iter().map(|cached| cached.bytes).sum::<usize>());
        assert!(cache.bytes <= bytes && all == old.len() + cache.entries.len());
        cache.entries.len()
    }

    #[test]
    fn of_what_is_written_the_newest_stay_by_count_or_by_bytes() {
        assert_eq!(shrunk(log(&[100; 1_000], 1_000), None), 1_000, "few bytes");
        assert_eq!(shrunk(log(&[1_000; 1_000], 1_000), None), RECENT_BYTES / 1_000);
        assert_eq!(shrunk(log(&[1 << 20; 60], 60), None), RECENT_ENTRIES);
        assert_eq!(shrunk(log(&[20 << 20; 10], 10), None), 3, "no more than the cache's own bound");
    }

    #[test]
    fn what_was_written_just_now_stays_within_the_caches_own_bound() {
        assert_eq!(shrunk(log(&[1 << 20; 60], 60), Some(20)), 40);
        assert_eq!(shrunk(log(&[1 << 20; 60], 60), Some(50)), RECENT_ENTRIES);
        assert_eq!(shrunk(log(&[1 << 20; 100], 100), Some(20)), 64);
    }

    #[test]
    fn what_is_not_written_stays() {
        assert_eq!(shrunk(log(&[1 << 20; 100], 0), None), 100);
        assert_eq!(shrunk(log(&[1 << 20; 100], 70), None), 30);
        assert_eq!(shrunk(log(&[1 << 20; 100], 90), None), RECENT_ENTRIES);
    }
}
