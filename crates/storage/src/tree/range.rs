//! The rows of a range, one after the other.

use std::slice;

use super::{Change, Node, cells::Cells, leaf::Leaf};
use crate::engine::{Bytes, KeyRange};

/// Rows in ascending order of their keys. Finding the first costs a look-up, each of the others a step.
pub(crate) struct Range<'a> {
    /// Of each branch on the way to the leaf, the children that are still to come.
    way: Vec<slice::Iter<'a, Node>>,
    leaf: &'a Leaf,
    cells: Cells<'a>,
    /// The rows of `leaf` that are still to come: from `slot` up to `stop`.
    slot: usize,
    stop: usize,
    end: Option<Bytes>,
    /// The last row's key. What the keys of a leaf share is written to it once.
    key: Vec<u8>,
}

impl<'a> Range<'a> {
    pub(super) fn new(root: &'a Node, range: &KeyRange) -> Self {
        let mut way = Vec::new();
        let mut node = root;
        loop {
            match node {
                Node::Branch(branch) => {
                    let (before, behind) = branch.children().split_at(branch.slot(&range.start) + 1);
                    node = before.last().expect("a key belongs to one of the children");
                    way.push(behind.iter());
                }
                Node::Leaf(leaf) => {
                    let (cells, end) = (leaf.cells(), range.end.clone());
                    let (Ok(slot) | Err(slot)) = cells.search(&range.start);
                    let mut rows = Self { way, leaf, cells, slot, stop: 0, end, key: Vec::new() };
                    rows.enter(leaf, slot);
                    return rows;
                }
            }
        }
    }

    /// Leaves out the next rows, so many or as many as there are. Costs a step for each leaf, not for each row.
    pub(crate) fn pass(&mut self, mut rows: u64) {
        loop {
            let here = rows.min(self.stop.saturating_sub(self.slot) as u64);
            self.slot += here as usize;
            rows -= here;
            if rows == 0 || self.stop < self.cells.len() || self.advance().is_none() {
                return;
            }
        }
    }

    fn enter(&mut self, leaf: &'a Leaf, slot: usize) {
        let cells = leaf.cells();
        let end = self.end.as_deref().map_or(Err(cells.len()), |end| cells.search(end));
        let (Ok(stop) | Err(stop)) = end;
        (self.leaf, self.cells, self.slot, self.stop) = (leaf, cells, slot, stop);
        self.key.clear();
        self.key.extend_from_slice(cells.prefix());
    }

    /// Goes on to the next leaf. None when there is no other.
    fn advance(&mut self) -> Option<()> {
        let mut node = loop {
            match self.way.last_mut()?.next() {
                Some(node) => break node,
                None => drop(self.way.pop()),
            }
        };
        loop {
            match node {
                Node::Branch(branch) => {
                    let mut children = branch.children().iter();
                    node = children.next()?;
                    self.way.push(children);
                }
                Node::Leaf(leaf) => {
                    self.enter(leaf, 0);
                    return Some(());
                }
            }
        }
    }
}

impl Range<'_> {
    /// The next row's key, without its value.
    pub(crate) fn next_key(&mut self) -> Option<Bytes> {
        let slot = self.step()?;
        Some(self.key_at(slot))
    }

    /// Goes on to the next row, and answers its slot in `leaf`.
    fn step(&mut self) -> Option<usize> {
        while self.slot >= self.stop {
            if self.stop < self.cells.len() {
                return None; // the range ends in this leaf
            }
            self.advance()?;
        }
        let slot = self.slot;
        self.slot += 1;
        Some(slot)
    }

    fn key_at(&mut self, slot: usize) -> Bytes {
        self.key.truncate(self.cells.prefix().len());
        self.key.extend_from_slice(self.cells.suffix(slot));
        self.key.as_slice().into()
    }
}

impl Iterator for Range<'_> {
    type Item = (Bytes, Change);

    fn next(&mut self) -> Option<(Bytes, Change)> {
        let slot = self.step()?;
        Some((self.key_at(slot), self.leaf.change(self.cells, slot)))
    }
}
