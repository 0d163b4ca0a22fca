//! What must hold of every tree.

use std::collections::HashSet;

use super::super::{
    Bounds, Change, Node, Tree,
    branch::Branch,
    cells::Cells,
    leaf::{Leaf, OUTSIDE_BYTES},
};

/// How a tree looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) depth: usize,
    pub(super) leaves: usize,
    pub(super) rows: usize,
    /// Of all leaves, as [`Bounds::leaf_bytes`] counts them.
    pub(super) bytes: usize,
}

/// The keys that may be under a node: from the first one, and before the second.
#[derive(Clone, Copy)]
struct Between<'a>(&'a [u8], Option<&'a [u8]>);

impl Between<'_> {
    fn check(self, key: &[u8]) {
        assert!(self.0 <= key, "too small for where it is: {key:?}");
        assert!(self.1.is_none_or(|end| key < end), "too great for where it is: {key:?}");
    }
}

/// Panics unless `tree` is sorted, equally deep, and within its bounds.
pub(super) fn check(tree: &Tree) -> Shape {
    if let Node::Branch(branch) = &tree.root {
        assert!(branch.children().len() > 1, "a root with one child is of no use");
    }
    let mut shape = Shape { depth: 0, leaves: 0, rows: 0, bytes: 0 };
    if tree.root.is_empty() {
        return Shape { depth: 1, leaves: 1, ..shape };
    }
    check_node(&tree.root, Between(&[], None), 1, tree.bounds, &mut shape);
    shape
}

fn check_node(node: &Node, between: Between<'_>, depth: usize, bounds: &Bounds, shape: &mut Shape) {
    match node {
        Node::Leaf(leaf) => {
            assert!(shape.depth == 0 || shape.depth == depth, "leaves are equally deep");
            check_leaf(leaf, between, bounds);
            shape.depth = depth;
            shape.leaves += 1;
            shape.rows += leaf.len();
            shape.bytes += leaf.bytes();
        }
        Node::Branch(branch) => check_branch(branch, between, depth, bounds, shape),
    }
}

fn check_leaf(leaf: &Leaf, between: Between<'_>, bounds: &Bounds) {
    assert!(leaf.len() > 0, "an empty leaf is dropped");
    assert!(leaf.len() == 1 || leaf.bytes() <= bounds.leaf_bytes, "{} bytes", leaf.bytes());
    check_keys(leaf.cells(), between);
    let cells = leaf.cells();
    let changes: Vec<Change> = (0..leaf.len()).map(|slot| leaf.change(cells, slot)).collect();
    let outside = changes.iter().flatten().filter(|value| value.len() > bounds.inline_bytes).count();
    let inline = changes.iter().flatten().map(|value| value.len()).filter(|bytes| *bytes <= bounds.inline_bytes);
    let values = leaf.len() * (4 + 1) + inline.sum::<usize>();
    assert_eq!(leaf.bytes(), keys_bytes(cells) + values + outside * OUTSIDE_BYTES);
}

fn check_keys(cells: Cells<'_>, between: Between<'_>) {
    let keys: Vec<Vec<u8>> = (0..cells.len()).map(|slot| cells.key(slot)).collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    keys.iter().for_each(|key| between.check(key));
}

/// What the keys of a page need of it: the head, where they end, and what they are.
fn keys_bytes(cells: Cells<'_>) -> usize {
    12 + cells.prefix().len() + (0..cells.len()).map(|slot| 4 + cells.suffix(slot).len()).sum::<usize>()
}

fn check_branch(branch: &Branch, between: Between<'_>, depth: usize, bounds: &Bounds, shape: &mut Shape) {
    let (separators, children) = (branch.separators.cells(), branch.children());
    assert_eq!(separators.len() + 1, children.len());
    assert_eq!(branch.separators.bytes(), keys_bytes(separators));
    assert!(!branch.is_over(bounds));
    check_keys(separators, between);
    let separators: Vec<Vec<u8>> = (0..separators.len()).map(|slot| separators.key(slot)).collect();
    for (slot, child) in children.iter().enumerate() {
        let start = slot.checked_sub(1).map_or(between.0, |slot| &separators[slot]);
        let end = separators.get(slot).map(Vec::as_slice).or(between.1);
        check_node(child, Between(start, end), depth + 1, bounds, shape);
    }
}

/// The length of the longest separator.
pub(super) fn separator_bytes_most(node: &Node) -> usize {
    let Node::Branch(branch) = node else { return 0 };
    let cells = branch.separators.cells();
    let own = (0..cells.len()).map(|slot| cells.key_bytes(slot));
    own.chain(branch.children().iter().map(separator_bytes_most)).max().unwrap_or_default()
}

/// How many leaves `a` and `b` share.
pub(super) fn shared_leaves(a: &Tree, b: &Tree) -> usize {
    let (mut of_a, mut of_b) = (HashSet::new(), HashSet::new());
    leaves(&a.root, &mut of_a);
    leaves(&b.root, &mut of_b);
    of_a.intersection(&of_b).count()
}

fn leaves(node: &Node, found: &mut HashSet<*const u8>) {
    match node {
        Node::Leaf(leaf) => drop(found.insert(leaf.cells().prefix().as_ptr())),
        Node::Branch(branch) => branch.children().iter().for_each(|child| leaves(child, found)),
    }
}
