//! Entries that a log no longer holds, but whose memory is not given back yet.
//!
//! A purge takes away all entries up to a checkpoint, hundreds of thousands of commands. To free them at once would keep
//! the group from its work for tens of milliseconds, on whatever thread: the allocator's locks are everybody's. So a few
//! are freed with each entry that comes.

use std::{collections::VecDeque, mem};

/// Takes the first `count` of `items` away, or all when there are not so many.
pub(super) fn take_front<T>(items: &mut VecDeque<T>, count: usize) -> VecDeque<T> {
    let kept = items.split_off(count.min(items.len()));
    mem::replace(items, kept)
}

/// How many are freed when one comes: more than one, so that they are gone long before the next purge.
const FREED_AT_ONCE: usize = 4;

/// What waits to be freed: no more than one purge has taken.
#[derive(Debug)]
pub(super) struct Gone<T>(VecDeque<T>);

impl<T> Default for Gone<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Gone<T> {
    /// Takes what a purge has removed. What is left of the one before is freed at once: many small entries may wait where few
    /// large ones come, and would hold more memory with each purge.
    pub(super) fn take(&mut self, purged: VecDeque<T>) {
        self.0 = purged;
    }

    /// Frees some.
    pub(super) fn free_some(&mut self) {
        self.0.drain(..FREED_AT_ONCE.min(self.0.len()));
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_gone_is_freed_bit_by_bit() {
        let alive = Arc::new(());
        let mut items: VecDeque<_> = (0..10).map(|number| (number, alive.clone())).collect();
        let mut gone = Gone::default();
        gone.take(take_front(&mut items, 9));
        assert_eq!(items.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [9]);
        let left = |gone: &mut Gone<_>| {
            gone.free_some();
            Arc::strong_count(&alive) - 1 - 1
        };
        assert_eq!([left(&mut gone), left(&mut gone), left(&mut gone), left(&mut gone)], [5, 1, 0, 0]);
    }

    #[test]
    fn no_more_waits_than_one_purge_has_taken() {
        let alive = Arc::new(());
        let mut gone = Gone::default();
        for _ in 0..3 {
            gone.take((0..9).map(|_| alive.clone()).collect());
            gone.free_some();
            assert_eq!(Arc::strong_count(&alive) - 1, 5);
        }
    }
}
