//! A persistent B+tree: the ordered map in memory under both engines.
//!
//! 1. A look-up goes down from the root: in each *branch* a search among the *separators* says which child is next.
//! 2. In the *leaf*, the keys and values of some twenty rows lie in one buffer, its *page* ([`cells`]). What a look-up
//!    touches lies close together, and a row costs little more memory than its bytes.
//! 3. A clone shares the root. A change copies what it meets on its way that is shared, and changes the rest where it is:
//!    whoever holds a clone never sees it. A copied leaf is a copied buffer, not a count to raise for each row.
//! 4. A leaf that has outgrown its bound is *split*, and its parent takes up a separator and the new leaf; which may
//!    split the parent, up to the root, above which a new root grows.
//! 5. A leaf that has shrunk is *joined* with a neighbour once both have room in one; an empty one is dropped. A root with
//!    one child gives way to it.
//! 6. A range remembers the way to its leaf, and goes from leaf to leaf.
//!
//! All leaves are equally deep. No leaf is empty but the root. What a change may cost is bounded by the sizes of the
//! nodes ([`Bounds`]), whatever the order in which rows come and go.

mod branch;
mod cells;
mod leaf;
mod node;
mod page;
mod range;
#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use self::range::Range;
use self::{
    branch::Branch,
    leaf::Leaf,
    node::{Edges, Node},
};
use crate::engine::{Bytes, KeyRange};

/// What a row holds: a value, or the knowledge that there is none.
pub(crate) type Change = Option<Bytes>;

/// How large the nodes of a tree may become.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes of a leaf's keys and values. A leaf of one row may have more.
    leaf_bytes: usize,
    /// Bytes of a value that a leaf stores inline. Copies of the leaf share longer ones.
    inline_bytes: usize,
    /// Children of a branch.
    branch_children: usize,
    /// Bytes of a branch's separators. A branch of few children may have more.
    branch_bytes: usize,
}

impl Bounds {
    /// Measured by `examples/tree.rs` with a million rows of 147 bytes, which take 143 bytes each, prefixes being stored
    /// once. With smaller leaves it would be 149 (2048) or 159 (1024), and a scan would take a fifth, or twice the time;
    /// larger ones gain little. With 32 or 64 children a look-up gets quicker by a tenth and an overwrite slower by a
    /// tenth or a third: who copies a branch counts one more reference to each child, where that child lies.
    const STANDARD: Self = Self { leaf_bytes: 4096, inline_bytes: 512, branch_children: 16, branch_bytes: 4096 };
}

/// Where a node that is too large is cut in two.
#[derive(Clone, Copy)]
enum Cut {
    Middle,
    AfterFirst,
    BeforeLast,
}

/// An ordered map of byte strings to what is known of them. A clone costs as little as a reference.
#[derive(Clone)]
pub(crate) struct Tree {
    root: Node,
    bounds: &'static Bounds,
}

impl Tree {
    fn with_bounds(bounds: &'static Bounds) -> Self {
        Self { root: Node::Leaf(Leaf::default()), bounds }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// What is known of `key`: None is nothing, not even that it was removed.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Change> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(branch) => node = &branch.children()[branch.slot(key)],
                Node::Leaf(leaf) => return leaf.get(key),
            }
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(branch) => node = &branch.children()[branch.slot(key)],
                Node::Leaf(leaf) => return leaf.cells().search(key).is_ok(),
            }
        }
    }

    /// Sets what is known of `key`. Answers the length of the value that was there: 0 for a removal, None for nothing.
    pub(crate) fn insert(&mut self, key: &[u8], change: Option<&[u8]>) -> Option<usize> {
        let edges = Edges { first: true, last: true };
        let mut inserted = self.root.insert(key, change, edges, self.bounds);
        while !inserted.siblings.is_empty() {
            let root = Branch::new(self.root.clone(), inserted.siblings);
            (self.root, inserted.siblings) = node::split_root(root, self.bounds);
        }
        inserted.former_bytes
    }

    /// Forgets what is known of `key`.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if !self.contains(key) {
            return; // else all nodes on the way would be copied for nothing
        }
        self.root.remove(key, self.bounds);
        if self.root.is_empty() {
            *self = Self::with_bounds(self.bounds);
        }
        while let Node::Branch(branch) = &self.root
            && let [child] = branch.children()
        {
            self.root = child.clone();
        }
    }

    /// Gives its memory back leaf by leaf, with a `rest` behind each: what the allocator does for a million rows at once keeps
    /// every other thread from its memory. What a clone still shares is the clone's to free.
    pub(crate) fn free(self, rest: &mut impl FnMut()) {
        self.root.free(rest);
    }

    /// All rows.
    pub(crate) fn iter(&self) -> Range<'_> {
        self.range(&KeyRange::prefix(&[]))
    }

    /// The rows of `range`.
    pub(crate) fn range(&self, range: &KeyRange) -> Range<'_> {
        Range::new(&self.root, range)
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::with_bounds(&Bounds::STANDARD)
    }
}

impl fmt::Debug for Tree {
    /// Names the type only: rows are nobody's but their owner's.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tree").finish_non_exhaustive()
    }
}
