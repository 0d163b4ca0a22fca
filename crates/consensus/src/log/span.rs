//! What a log holds: a purge point and the consecutive entries behind it.

use std::{collections::VecDeque, ops::Range};

use state::ids::Position;

use super::gone;

/// An item of a [`Span`]: an entry, or what stands for it.
pub(super) trait Termed {
    /// The entry's term.
    fn term(&self) -> u64;
}

/// The consecutive items of a log behind its purge point. Indexes follow from places: item *i* is at `first + i`.
#[derive(Debug)]
pub(super) struct Span<T> {
    purged: Option<Position>,
    first: u64,
    items: VecDeque<T>,
}

/// An item that would leave a hole.
#[derive(Debug, thiserror::Error)]
#[error("entry {got} would leave a hole: entry {expected} comes next")]
pub(super) struct Hole {
    expected: u64,
    got: u64,
}

impl<T: Termed> Span<T> {
    /// No items behind `purged`.
    pub(super) fn after(purged: Option<Position>) -> Self {
        Self { purged, first: purged.map_or(0, |purged| purged.index + 1), items: VecDeque::new() }
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Option<Position> {
        self.purged
    }

    /// The last item, or the purge point when there is none.
    pub(super) fn last(&self) -> Option<Position> {
        match self.items.back() {
            Some(item) => Some(Position { term: item.term(), index: self.end() - 1 }),
            None => self.purged,
        }
    }

    /// The oldest item.
    pub(super) fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// The indexes there are.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.first..self.end()
    }

    /// The item at `index`.
    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut T> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.items.get_mut(at)
    }

    /// The items of `range` that there are, with their indexes, in order.
    pub(super) fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &T)> {
        let start = range.start.clamp(self.first, self.end());
        let end = range.end.clamp(start, self.end());
        let at = |index: u64| usize::try_from(index - self.first).expect("an index of an item in memory");
        (start..end).zip(self.items.range(at(start)..at(end)))
    }

    /// The first of the newest items that weigh `max` together at most; the index behind the last one when that one
    /// weighs more.
    pub(super) fn tail_start(&self, max: u64, weight: impl Fn(u64, &T) -> u64) -> u64 {
        let mut start = self.end();
        let mut left = max;
        for item in self.items.iter().rev() {
            match left.checked_sub(weight(start - 1, item)) {
                Some(rest) => left = rest,
                None => break,
            }
            start -= 1;
        }
        start
    }

    /// Adds the item at `index`. An empty log that was never purged begins wherever its first entry says.
    pub(super) fn push(&mut self, index: u64, item: T) -> Result<(), Hole> {
        if self.items.is_empty() && self.purged.is_none() {
            self.first = index;
        }
        if index != self.end() {
            return Err(Hole { expected: self.end(), got: index });
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Removes the items behind `last`; what is purged stays purged.
    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        let end = last.map_or(0, |last| last.saturating_add(1));
        let keep = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.items.truncate(keep);
    }

    /// Takes the items up to `upto` away, and moves the purge point there, past the last item too. Never back.
    pub(super) fn purge(&mut self, upto: Position) -> VecDeque<T> {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return VecDeque::new();
        }
        let count = usize::try_from((upto.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let gone = gone::take_front(&mut self.items, count);
        self.purged = Some(upto);
        self.first = upto.index + 1;
        gone
    }

    fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }
}
