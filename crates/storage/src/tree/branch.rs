//! A branch: nodes, and between each two of them a separator that says which keys lie right of it.

use std::{iter, mem, ops::Range};

use super::{
    Bounds, Cut,
    node::{Node, Sibling},
    page::Page,
};

/// A branch of no more children may have longer separators than [`Bounds::branch_bytes`], since the tree would grow
/// deep if it had to be split.
const CHILDREN_MIN: usize = 8;

/// What a separator may have without anybody looking whether it could be shorter, in bytes.
const SEPARATOR_BYTES: usize = 256;

/// One node or more, all of the same depth.
#[derive(Clone, Debug, Default)]
pub(super) struct Branch {
    /// The one at `slot` is greater than all keys under the child at `slot`, and no greater than any under the next.
    pub(super) separators: Page,
    children: Box<[Node]>,
}

impl Branch {
    /// A branch over `first` and what has split off from it.
    pub(super) fn new(first: Node, siblings: Vec<Sibling>) -> Self {
        let mut branch = Self { separators: Page::default(), children: [first].into() };
        branch.adopt(0, siblings);
        branch
    }

    pub(super) fn children(&self) -> &[Node] {
        &self.children
    }

    pub(super) fn into_children(self) -> Box<[Node]> {
        self.children
    }

    pub(super) fn child_mut(&mut self, slot: usize) -> &mut Node {
        &mut self.children[slot]
    }

    /// Which child `key` belongs to.
    pub(super) fn slot(&self, key: &[u8]) -> usize {
        self.separators.cells().search(key).map_or_else(|slot| slot, |slot| slot + 1)
    }

    /// Takes up what has split off from the child at `slot`.
    pub(super) fn adopt(&mut self, slot: usize, siblings: Vec<Sibling>) {
        for (at, sibling) in (slot..).zip(&siblings) {
            self.separators = self.separators.insert(at, &sibling.separator, None);
        }
        self.splice(slot + 1..slot + 1, siblings.into_iter().map(|sibling| sibling.node));
    }

    /// Puts `nodes` in place of the children at `slots`.
    fn splice(&mut self, slots: Range<usize>, nodes: impl ExactSizeIterator<Item = Node>) {
        let mut children = Vec::from(mem::take(&mut self.children));
        children.reserve_exact(nodes.len());
        children.splice(slots, nodes);
        self.children = children.into();
    }

    /// Gives memory back after the child at `slot` has lost a row: drops it when nothing is left of it, or joins it with
    /// the next or the former when the two have room in one with some to spare.
    pub(super) fn mend(&mut self, slot: usize, bounds: &Bounds) {
        if self.children[slot].is_empty() {
            self.splice(slot..slot + 1, iter::empty());
            if !self.children.is_empty() {
                self.separators = self.separators.remove(slot.saturating_sub(1));
            }
        } else if self.children[slot].is_small(bounds) && !self.join_at(slot, bounds) && slot > 0 {
            self.join_at(slot - 1, bounds);
        }
    }

    /// Makes long separators beside the child at `slot` as short as its rows allow, now that one is gone: else that row's
    /// key would be held for as long as the neighbours stay, by nobody's count.
    pub(super) fn shorten(&mut self, slot: usize) {
        for at in [slot.checked_sub(1), Some(slot)].into_iter().flatten() {
            let cells = self.separators.cells();
            if at >= cells.len() || cells.key_bytes(at) <= SEPARATOR_BYTES {
                continue;
            }
            let shortest = self.children[at].separator(&self.children[at + 1]);
            if shortest.len() < cells.key_bytes(at) {
                let separators = self.separators.remove(at).insert(at, &shortest, None);
                // All separators may have shared more of their begin than they do with this one.
                if separators.bytes() < self.separators.bytes() {
                    self.separators = separators;
                }
            }
        }
    }

    /// Makes one of the child at `left` and the next. False when they are too large for that, or there is no next.
    fn join_at(&mut self, left: usize, bounds: &Bounds) -> bool {
        let Some([node, next]) = self.children.get(left..left + 2) else { return false };
        let Some(joined) = node.join(|| self.separators.cells().key(left), next, bounds) else { return false };
        self.separators = self.separators.remove(left);
        self.splice(left..left + 2, iter::once(joined));
        true
    }

    /// These children and those of `right`, which follow them, with `separator` between the two.
    pub(super) fn join(&self, separator: &[u8], right: &Self) -> Self {
        let separators = self.separators.insert(self.children.len() - 1, separator, None);
        Self {
            separators: separators.join(&right.separators),
            children: [&*self.children, &*right.children].concat().into(),
        }
    }

    /// Whether the two have too long separators to be one, which is told before these are copied: they may have MiB.
    pub(super) fn is_surely_over_with(&self, right: &Self, bounds: &Bounds) -> bool {
        let separators_bytes = self.separators.bytes().max(right.separators.bytes());
        self.children.len() + right.children.len() > CHILDREN_MIN && separators_bytes > bounds.branch_bytes
    }

    /// Whether it has to be split.
    pub(super) fn is_over(&self, bounds: &Bounds) -> bool {
        let children = self.children.len();
        children > bounds.branch_children || (children > CHILDREN_MIN && self.separators.bytes() > bounds.branch_bytes)
    }

    /// The branch in as many parts as the bounds ask for, and the separators between them.
    pub(super) fn split(self, cut: Cut, bounds: &Bounds) -> (Self, Vec<(Vec<u8>, Self)>) {
        if !self.is_over(bounds) {
            return (self, Vec::new());
        }
        let children = self.children.len();
        let at = match cut {
            Cut::AfterFirst => 1,
            Cut::BeforeLast => children - 1,
            Cut::Middle => children / 2,
        };
        let separator = self.separators.cells().key(at - 1);
        let (left, mut between) = self.part(0..at).split(Cut::Middle, bounds);
        let (right, behind) = self.part(at..children).split(Cut::Middle, bounds);
        between.extend(iter::once((separator, right)).chain(behind));
        (left, between)
    }

    fn part(&self, children: Range<usize>) -> Self {
        let separators = children.start..children.end - 1;
        Self {
            separators: if separators.is_empty() { Page::default() } else { self.separators.part(separators) },
            children: self.children[children].into(),
        }
    }
}
