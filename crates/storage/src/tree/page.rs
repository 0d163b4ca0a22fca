//! How pages come to be: ascending keys in one buffer, and in a leaf's page a value for each.
//!
//! 1. A change makes a new page of exactly the bytes it needs, since slack would cost more memory than it saves time.
//! 2. What stays is copied in runs, not key by key, unless the prefix changes that all keys share ([`Page::pack`]).
//! 3. One change is made in place: a value that is as long as the former, when nobody else holds the page.

use std::{iter, mem, ops::Range, sync::Arc};

use super::cells::{Cells, HEAD_BYTES, NUMBER_BYTES, Pieces, len, shared_bytes};

/// Ascending keys, perhaps with values. A clone shares the buffer.
#[derive(Clone, Debug)]
pub(super) struct Page(Arc<[u8]>);

/// Strings to leave out, and one to write in their place.
struct Edit<'a> {
    strings: Range<usize>,
    new: Option<Pieces<'a>>,
}

impl Page {
    /// A page of `keys`, to each of which `prefix` belongs, and their `values`.
    fn pack<'a>(
        prefix: Pieces<'a>,
        keys: impl Iterator<Item = Pieces<'a>> + Clone,
        values: impl Iterator<Item = Pieces<'a>> + Clone,
    ) -> Self {
        let key_count = keys.clone().count();
        let strings = keys.chain(values);
        let (count, bytes) = strings.clone().fold((0, 0), |(count, bytes), string| (count + 1, bytes + len(string)));
        Self::make(HEAD_BYTES + count * NUMBER_BYTES + len(prefix) + bytes, |draft| {
            draft.head(key_count, count, len(prefix));
            let mut end = 0;
            for string in strings.clone() {
                end += len(string);
                draft.number(end);
            }
            prefix.into_iter().chain(strings.flatten()).for_each(|piece| draft.bytes(piece));
        })
    }

    /// A page of `bytes`, all of which `fill` writes.
    fn make(bytes: usize, fill: impl FnOnce(&mut Draft<'_>)) -> Self {
        let mut page: Arc<[u8]> = iter::repeat_n(0, bytes).collect();
        let mut draft = Draft(Arc::get_mut(&mut page).expect("nobody else has seen it yet"));
        fill(&mut draft);
        debug_assert!(draft.0.is_empty(), "a page has no slack");
        Self(page)
    }

    /// Takes the page apart.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells::new(&self.0)
    }

    /// The size of the page.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The page with `key` at `slot`, where [`Cells::search`] says that it belongs. All pages of a kind have values, or
    /// none has.
    pub(super) fn insert(&self, slot: usize, key: &[u8], value: Option<Pieces<'_>>) -> Self {
        let cells = self.cells();
        if cells.len() > 0
            && let Some(suffix) = key.strip_prefix(cells.prefix())
        {
            let at = cells.value_at(slot);
            let edits = [Edit { strings: slot..slot, new: Some([suffix, &[]]) }, Edit { strings: at..at, new: value }];
            return self.edit(cells.len() + 1, edits);
        }
        let shared = if cells.len() > 0 { shared_bytes(key, cells.prefix()) } else { key.len() };
        let (prefix, suffix) = key.split_at(shared);
        let keys = cells.behind(0..slot, shared).chain([[suffix, &[]]]).chain(cells.behind(slot..cells.len(), shared));
        let values = cells.values(0..slot).chain(value).chain(cells.values(slot..cells.len()));
        Self::pack([prefix, &[]], keys, values)
    }

    /// The page without the key at `slot` and its value.
    pub(super) fn remove(&self, slot: usize) -> Self {
        let cells = self.cells();
        let value = cells.value_at(slot)..cells.value_at(slot + 1);
        self.edit(cells.len() - 1, [Edit { strings: slot..slot + 1, new: None }, Edit { strings: value, new: None }])
    }

    /// The page with another value for the key at `slot`.
    pub(super) fn replace(&self, slot: usize, value: Pieces<'_>) -> Self {
        let cells = self.cells();
        let at = cells.value_at(slot);
        let nothing = Edit { strings: 0..0, new: None };
        self.edit(cells.len(), [nothing, Edit { strings: at..at + 1, new: Some(value) }])
    }

    /// Writes `value` over that of the key at `slot`, when it is as long and nobody shares the page.
    pub(super) fn overwrite(&mut self, slot: usize, value: Pieces<'_>) -> bool {
        let cells = self.cells();
        let at = cells.value_at(slot);
        let begin = self.bytes() - cells.strings_bytes() + cells.offset(at);
        if cells.value(slot).len() != len(value) {
            return false;
        }
        let Some(page) = Arc::get_mut(&mut self.0) else { return false };
        let (first, second) = page[begin..begin + len(value)].split_at_mut(value[0].len());
        first.copy_from_slice(value[0]);
        second.copy_from_slice(value[1]);
        true
    }

    /// The page after `edits`, which ascend, with what is then the number of its keys.
    fn edit(&self, keys: usize, edits: [Edit<'_>; 2]) -> Self {
        let cells = self.cells();
        let removed: usize = edits.iter().map(|edit| edit.strings.len()).sum();
        let removed_bytes: usize = edits.iter().map(|edit| cells.run(edit.strings.clone()).len()).sum();
        let added = edits.iter().filter_map(|edit| edit.new);
        let added_bytes: usize = added.clone().map(len).sum();
        let count = cells.strings() + added.count() - removed;
        let bytes = HEAD_BYTES + count * NUMBER_BYTES + cells.prefix().len() + cells.strings_bytes();
        Self::make(bytes + added_bytes - removed_bytes, |draft| {
            draft.head(keys, count, cells.prefix().len());
            let (mut next, mut removed, mut added) = (0, 0, 0);
            for edit in &edits {
                draft.ends(cells, next..edit.strings.start, added, removed);
                if let Some(new) = edit.new {
                    added += len(new);
                    draft.number(cells.offset(edit.strings.start) + added - removed);
                }
                removed += cells.run(edit.strings.clone()).len();
                next = edit.strings.end;
            }
            draft.ends(cells, next..cells.strings(), added, removed);

            draft.bytes(cells.prefix());
            next = 0;
            for edit in &edits {
                draft.bytes(cells.run(next..edit.strings.start));
                edit.new.into_iter().flatten().for_each(|piece| draft.bytes(piece));
                next = edit.strings.end;
            }
            draft.bytes(cells.run(next..cells.strings()));
        })
    }

    /// A page of the keys at `slots`, at least one, and their values.
    pub(super) fn part(&self, slots: Range<usize>) -> Self {
        let cells = self.cells();
        let shared = shared_bytes(&cells.key(slots.start), &cells.key(slots.end - 1));
        let keys = cells.behind(slots.clone(), shared);
        Self::pack(cells.begin(slots.start, shared), keys, cells.values(slots))
    }

    /// A page of these keys, at least one, and those of `right`, which follow them, and their values.
    pub(super) fn join(&self, right: &Self) -> Self {
        let (left, right) = (self.cells(), right.cells());
        let Some(last) = right.len().checked_sub(1) else { return self.clone() };
        let shared = shared_bytes(&left.key(0), &right.key(last));
        let keys = left.behind(0..left.len(), shared).chain(right.behind(0..right.len(), shared));
        let values = left.values(0..left.len()).chain(right.values(0..right.len()));
        Self::pack(left.begin(0, shared), keys, values)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::pack([&[]; 2], iter::empty(), iter::empty())
    }
}

/// What is still to be written of a page.
struct Draft<'a>(&'a mut [u8]);

impl Draft<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let (next, rest) = mem::take(&mut self.0).split_at_mut(bytes.len());
        next.copy_from_slice(bytes);
        self.0 = rest;
    }

    fn number(&mut self, number: usize) {
        // A key has some MiB at most. A page of many keys is small, or else its node is split; until then it is larger
        // by one key, or by its prefix, which is as small, written out for each key.
        let number = u32::try_from(number).expect("a page is far smaller than 4 GiB");
        self.bytes(&number.to_le_bytes());
    }

    fn head(&mut self, keys: usize, strings: usize, prefix_bytes: usize) {
        [keys, strings, prefix_bytes].into_iter().for_each(|number| self.number(number));
    }

    /// Where `strings` end, after so many bytes have been added and removed before them.
    fn ends(&mut self, cells: Cells<'_>, strings: Range<usize>, added: usize, removed: usize) {
        if added == removed {
            self.bytes(cells.ends(strings));
        } else {
            strings.for_each(|string| self.number(cells.offset(string + 1) + added - removed));
        }
    }
}
