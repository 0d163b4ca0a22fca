//! A leaf: some twenty rows, with their keys and values in one page.
//!
//! A value is stored *inline*, behind a byte that says so; or, when it is large, *outside*, where all copies of the leaf
//! share it. A row may also hold a *removal*: a key that is known to be absent. Every change makes a new page, but for
//! an overwrite with a value as long as the former in a page that nobody shares.

use std::{ops::Range, slice, sync::Arc};

use super::{
    Bounds, Change, Cut,
    cells::{Cells, Pieces},
    page::Page,
};
use crate::engine::Bytes;

const REMOVED: &[u8] = &[0];
const INLINE: &[u8] = &[1];
const OUTSIDE: &[u8] = &[2];

/// What a value outside counts against [`Bounds::leaf_bytes`]. It is more than the reference has, since copying one
/// goes to the value's memory, which is seldom in a cache.
pub(super) const OUTSIDE_BYTES: usize = 128;

/// Rows in ascending order. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    /// To each key belongs a byte that says what the row holds, and the value when it is inline.
    page: Page,
    /// The values that are outside, in the order of their rows. None when there are none: that is the rule.
    outside: Option<Arc<Vec<Bytes>>>,
}

/// What a row holds, where it lies.
enum Stored<'a> {
    Removed,
    Inline(&'a [u8]),
    Outside(&'a Bytes),
}

impl Leaf {
    /// The size that [`Bounds::leaf_bytes`] is about.
    pub(super) fn bytes(&self) -> usize {
        self.page.bytes() + self.outside().len() * OUTSIDE_BYTES
    }

    pub(super) fn len(&self) -> usize {
        self.cells().len()
    }

    pub(super) fn cells(&self) -> Cells<'_> {
        self.page.cells()
    }

    /// What is known of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Change> {
        let cells = self.cells();
        cells.search(key).ok().map(|slot| self.change(cells, slot))
    }

    /// What the row at `slot` holds.
    pub(super) fn change(&self, cells: Cells<'_>, slot: usize) -> Change {
        match self.stored(cells, slot) {
            Stored::Removed => None,
            Stored::Inline(value) => Some(value.into()),
            Stored::Outside(value) => Some(value.clone()),
        }
    }

    /// The length of the value at `slot`, 0 for a removal.
    pub(super) fn value_bytes(&self, slot: usize) -> usize {
        match self.stored(self.cells(), slot) {
            Stored::Removed => 0,
            Stored::Inline(value) => value.len(),
            Stored::Outside(value) => value.len(),
        }
    }

    fn stored<'a>(&'a self, cells: Cells<'a>, slot: usize) -> Stored<'a> {
        let (kind, value) = cells.value(slot).split_at(1);
        match kind {
            INLINE => Stored::Inline(value),
            OUTSIDE => Stored::Outside(&self.outside()[self.outside_before(slot)]),
            _ => Stored::Removed,
        }
    }

    fn outside(&self) -> &[Bytes] {
        self.outside.as_ref().map_or(&[], |values| values)
    }

    /// How many values of the rows before `slot` are outside.
    fn outside_before(&self, slot: usize) -> usize {
        let cells = self.cells();
        let count = || (0..slot).filter(|slot| cells.value(*slot) == OUTSIDE).count();
        self.outside.as_ref().map_or(0, |_| count())
    }

    /// The leaf with `change` at `at`, which is what a search for `key` has answered.
    pub(super) fn set(&self, at: Result<usize, usize>, key: &[u8], change: Option<&[u8]>, bounds: &Bounds) -> Self {
        let value = encode(change, bounds);
        let outside = change.filter(|value| value.len() > bounds.inline_bytes).map(Bytes::from);
        match at {
            Ok(slot) => Self {
                page: self.page.replace(slot, value),
                outside: self.outside_with(slot..slot + 1, outside.as_ref()),
            },
            Err(slot) => Self {
                page: self.page.insert(slot, key, Some(value)),
                outside: self.outside_with(slot..slot, outside.as_ref()),
            },
        }
    }

    /// Writes `change` over what the row at `slot` holds, when both are inline and of one length, and the leaf is not
    /// shared.
    pub(super) fn overwrite(&mut self, slot: usize, change: Option<&[u8]>, bounds: &Bounds) -> bool {
        let new = encode(change, bounds);
        let inline = self.cells().value(slot) != OUTSIDE && new[0] != OUTSIDE;
        inline && self.page.overwrite(slot, new)
    }

    /// The leaf without the row at `slot`.
    pub(super) fn without(&self, slot: usize) -> Self {
        Self { page: self.page.remove(slot), outside: self.outside_with(slot..slot + 1, None) }
    }

    /// The values outside, with `value` in place of those of `rows`.
    fn outside_with(&self, rows: Range<usize>, value: Option<&Bytes>) -> Option<Arc<Vec<Bytes>>> {
        let (before, until) = (self.outside_before(rows.start), self.outside_before(rows.end));
        let value = value.map_or(&[][..], slice::from_ref);
        if value.is_empty() && before == until {
            return self.outside.clone();
        }
        list(&[&self.outside()[..before], value, &self.outside()[until..]])
    }

    /// The leaf in as many parts as the bound asks for: one as a rule, two or three after an insert.
    pub(super) fn split(self, cut: Cut, bounds: &Bounds) -> Vec<Self> {
        let rows = self.len();
        if rows < 2 || self.bytes() <= bounds.leaf_bytes {
            return vec![self];
        }
        let at = match cut {
            Cut::AfterFirst => 1,
            Cut::BeforeLast => rows - 1,
            Cut::Middle => self.middle(),
        };
        let parts = [self.part(0..at), self.part(at..rows)];
        parts.into_iter().flat_map(|part| part.split(Cut::Middle, bounds)).collect()
    }

    /// The first slot that has half of the bytes before it, or else the last.
    fn middle(&self) -> usize {
        let cells = self.cells();
        let bytes_before = |slot| cells.bytes_before(slot) + self.outside_before(slot) * OUTSIDE_BYTES;
        let half = bytes_before(cells.len()) / 2;
        let last = cells.len() - 1;
        (1..last).find(|slot| bytes_before(*slot) >= half).unwrap_or(last)
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let outside = &self.outside()[self.outside_before(rows.start)..self.outside_before(rows.end)];
        Self { page: self.page.part(rows), outside: list(&[outside]) }
    }

    /// These rows and those of `right`, which follow them. Neither is empty.
    pub(super) fn join(&self, right: &Self) -> Self {
        Self { page: self.page.join(&right.page), outside: list(&[self.outside(), right.outside()]) }
    }
}

fn list(values: &[&[Bytes]]) -> Option<Arc<Vec<Bytes>>> {
    let values = values.concat();
    (!values.is_empty()).then(|| Arc::new(values))
}

/// What stands for `change` among the values.
fn encode<'a>(change: Option<&'a [u8]>, bounds: &Bounds) -> Pieces<'a> {
    match change {
        None => [REMOVED, &[]],
        Some(value) if value.len() > bounds.inline_bytes => [OUTSIDE, &[]],
        Some(value) => [INLINE, value],
    }
}
