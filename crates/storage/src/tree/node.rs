//! A node: a leaf or a branch, perhaps shared with other trees. What changes it copies it first, unless it is alone.

use std::sync::Arc;

use super::{Bounds, Cut, branch::Branch, cells::shared_bytes, leaf::Leaf};

/// A clone shares the node.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Arc<Branch>),
}

/// A node that has split off from the one left of it.
pub(super) struct Sibling {
    /// Greater than all keys of the node left of it, no greater than any of its own.
    pub(super) separator: Vec<u8>,
    pub(super) node: Node,
}

/// What an insert has done.
pub(super) struct Inserted {
    /// The length of the value that was there, 0 for a removal.
    pub(super) former_bytes: Option<usize>,
    /// What has split off, for the parent to take up. Empty as a rule.
    pub(super) siblings: Vec<Sibling>,
}

/// Whether a node is the first or the last of its level.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Edges {
    /// Of the entry at `slot`, out of `count`.
    fn under(self, slot: usize, count: usize) -> Self {
        Self { first: self.first && slot == 0, last: self.last && slot + 1 == count }
    }

    /// Where to cut a node that has grown at such an entry. Who fills a tree in ascending order comes back to the last
    /// node only: what he leaves behind should be full.
    fn cut(self) -> Cut {
        match self {
            Self { last: true, .. } => Cut::BeforeLast,
            Self { first: true, .. } => Cut::AfterFirst,
            _ => Cut::Middle,
        }
    }
}

impl Node {
    pub(super) fn insert(&mut self, key: &[u8], change: Option<&[u8]>, edges: Edges, bounds: &Bounds) -> Inserted {
        match self {
            Self::Leaf(leaf) => insert_into_leaf(leaf, key, change, edges, bounds),
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let slot = branch.slot(key);
                let edges = edges.under(slot, branch.children().len());
                let inserted = branch.child_mut(slot).insert(key, change, edges, bounds);
                if inserted.siblings.is_empty() {
                    return inserted;
                }
                branch.adopt(slot, inserted.siblings);
                Inserted { siblings: split_branch(branch, edges.cut(), bounds), ..inserted }
            }
        }
    }

    /// Removes `key`, which is there.
    pub(super) fn remove(&mut self, key: &[u8], bounds: &Bounds) {
        match self {
            Self::Leaf(leaf) => {
                let slot = leaf.cells().search(key).expect("the caller has found it");
                *leaf = leaf.without(slot);
            }
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let slot = branch.slot(key);
                branch.child_mut(slot).remove(key, bounds);
                branch.mend(slot, bounds);
                branch.shorten(slot);
            }
        }
    }

    /// Gives its memory back leaf by leaf, with a `rest` behind each.
    pub(super) fn free(self, rest: &mut impl FnMut()) {
        match self {
            Self::Leaf(leaf) => {
                drop(leaf);
                rest();
            }
            Self::Branch(branch) => {
                let children = Arc::into_inner(branch).map(Branch::into_children).unwrap_or_default();
                children.into_iter().for_each(|child| child.free(rest));
            }
        }
    }

    /// The leaf with the least keys.
    fn first_leaf(&self) -> &Leaf {
        match self {
            Self::Leaf(leaf) => leaf,
            Self::Branch(branch) => branch.children().first().expect("an empty branch is dropped").first_leaf(),
        }
    }

    /// The leaf with the greatest keys.
    fn last_leaf(&self) -> &Leaf {
        match self {
            Self::Leaf(leaf) => leaf,
            Self::Branch(branch) => branch.children().last().expect("an empty branch is dropped").last_leaf(),
        }
    }

    /// The shortest separator between this node and `right`, the next one.
    pub(super) fn separator(&self, right: &Self) -> Vec<u8> {
        separator(self.last_leaf(), right.first_leaf())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.len() == 0,
            Self::Branch(branch) => branch.children().is_empty(),
        }
    }

    /// Whether it is worth a look if a neighbour could take it in.
    pub(super) fn is_small(&self, bounds: &Bounds) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.bytes() < bounds.leaf_bytes / 2,
            Self::Branch(branch) => branch.children().len() < bounds.branch_children / 2,
        }
    }

    /// One node in place of this one and `right`, between which is `separator`. None when that would be more than three
    /// quarters full, and might have to be split again soon.
    pub(super) fn join(&self, separator: impl FnOnce() -> Vec<u8>, right: &Self, bounds: &Bounds) -> Option<Self> {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => {
                let bytes_max = bounds.leaf_bytes * 3 / 4;
                let fits = left.bytes() + right.bytes() <= bytes_max;
                // Joined keys share less of their begin than before, so that the sum alone does not tell.
                let joined = fits.then(|| left.join(right)).filter(|joined| joined.bytes() <= bytes_max)?;
                Some(Self::Leaf(joined))
            }
            (Self::Branch(left), Self::Branch(right)) => {
                let fits = left.children().len() + right.children().len() <= bounds.branch_children * 3 / 4
                    && !left.is_surely_over_with(right, bounds);
                let joined = fits.then(|| left.join(&separator(), right))?;
                (!joined.is_over(bounds)).then(|| Self::Branch(Arc::new(joined)))
            }
            (Self::Leaf(_), Self::Branch(_)) | (Self::Branch(_), Self::Leaf(_)) => {
                unreachable!("all children of a branch have the same depth")
            }
        }
    }
}

fn insert_into_leaf(leaf: &mut Leaf, key: &[u8], change: Option<&[u8]>, edges: Edges, bounds: &Bounds) -> Inserted {
    let at = leaf.cells().search(key);
    let former_bytes = at.ok().map(|slot| leaf.value_bytes(slot));
    let mut inserted = Inserted { former_bytes, siblings: Vec::new() };
    if at.is_ok_and(|slot| leaf.overwrite(slot, change, bounds)) {
        return inserted;
    }
    *leaf = leaf.set(at, key, change, bounds);
    if leaf.bytes() > bounds.leaf_bytes {
        let (Ok(slot) | Err(slot)) = at;
        let parts = leaf.clone().split(edges.under(slot, leaf.len()).cut(), bounds);
        let siblings = parts
            .array_windows()
            .map(|[left, right]| Sibling { separator: separator(left, right), node: Node::Leaf(right.clone()) });
        inserted.siblings = siblings.collect();
        *leaf = parts[0].clone();
    }
    inserted
}

/// The shortest key that tells the keys of `right` from those of `left`.
fn separator(left: &Leaf, right: &Leaf) -> Vec<u8> {
    let last = left.cells().key(left.len() - 1);
    let mut first = right.cells().key(0);
    first.truncate(shared_bytes(&last, &first) + 1);
    first
}

fn split_branch(branch: &mut Branch, cut: Cut, bounds: &Bounds) -> Vec<Sibling> {
    if !branch.is_over(bounds) {
        return Vec::new();
    }
    let (first, behind) = std::mem::take(branch).split(cut, bounds);
    *branch = first;
    let sibling = |(separator, branch)| Sibling { separator, node: Node::Branch(Arc::new(branch)) };
    behind.into_iter().map(sibling).collect()
}

/// The new root, in as many parts as the bounds ask for.
pub(super) fn split_root(mut root: Branch, bounds: &Bounds) -> (Node, Vec<Sibling>) {
    let siblings = split_branch(&mut root, Cut::Middle, bounds);
    (Node::Branch(Arc::new(root)), siblings)
}
