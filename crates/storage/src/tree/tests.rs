//! Single cases, with small nodes as a rule so that few rows make a deep tree. Random histories are in [`model`], and
//! what must hold of every tree in [`shape`].

mod model;
mod shape;

use self::shape::{Shape, check};
use super::{Bounds, Bytes, Change, KeyRange, Tree};

const SMALL: Bounds = Bounds { leaf_bytes: 256, inline_bytes: 16, branch_children: 6, branch_bytes: 256 };

fn tree() -> Tree {
    Tree::with_bounds(&SMALL)
}

fn value(bytes: usize) -> Change {
    Some(vec![b'v'; bytes].into())
}

fn key(number: usize) -> Vec<u8> {
    format!("tenant:{number:05}").into_bytes()
}

fn filled(numbers: impl Iterator<Item = usize>) -> Tree {
    let mut tree = tree();
    for number in numbers {
        assert_eq!(tree.insert(&key(number), value(10).as_deref()), None);
    }
    tree
}

fn keys(tree: &Tree) -> Vec<Bytes> {
    tree.iter().map(|(key, _)| key).collect()
}

#[test]
fn an_empty_tree_has_nothing() {
    let mut tree = tree();
    tree.remove(b"a");
    assert!(tree.is_empty());
    assert_eq!(tree.get(b""), None);
    assert_eq!(tree.iter().next(), None);
    assert_eq!(check(&tree), Shape { depth: 1, leaves: 1, rows: 0, bytes: 0 });
}

#[test]
fn an_insert_answers_how_long_the_former_value_was() {
    let mut tree = tree();
    for (change, former) in [
        (value(3), None),
        (value(4), Some(3)),
        (None, Some(4)),
        (value(16), Some(0)),
        (value(17), Some(16)),
        (value(1000), Some(17)),
        (value(0), Some(1000)),
        (None, Some(0)),
    ] {
        assert_eq!(tree.insert(b"key", change.as_deref()), former);
        assert_eq!(tree.get(b"key"), Some(change));
        check(&tree);
    }
}

#[test]
fn empty_keys_and_empty_values_are_rows_too() {
    let mut tree = tree();
    for (key, change) in [(&b"a"[..], value(0)), (b"", value(0)), (b"\0", None), (b"\0\0", value(1))] {
        tree.insert(key, change.as_deref());
        check(&tree);
        assert_eq!(tree.get(key), Some(change));
    }
    assert_eq!(keys(&tree).iter().map(|key| &**key).collect::<Vec<_>>(), [&b""[..], b"\0", b"\0\0", b"a"]);
    tree.remove(b"");
    assert_eq!(tree.get(b""), None);
    assert_eq!(tree.get(b"\0"), Some(None));
    check(&tree);
}

#[test]
fn ascending_fills_leave_full_leaves() {
    let shape = check(&filled(0..2000));
    assert_eq!(shape.rows, 2000);
    assert!(shape.bytes / shape.leaves > SMALL.leaf_bytes * 8 / 10, "{shape:?}");
    assert!(shape.depth <= 5, "{shape:?}"); // 6 children to a branch, and 6 to the fourth are more than the leaves
}

#[test]
fn descending_fills_leave_full_leaves() {
    let shape = check(&filled((0..2000).rev()));
    assert!(shape.bytes / shape.leaves > SMALL.leaf_bytes * 8 / 10, "{shape:?}");
    assert!(shape.depth <= 5, "{shape:?}");
}

#[test]
fn fills_without_order_leave_leaves_half_full_at_least() {
    let shape = check(&filled((0..2000).map(|number| number * 1237 % 2000)));
    assert!(shape.bytes / shape.leaves > SMALL.leaf_bytes / 2, "{shape:?}");
}

#[test]
fn a_fill_between_two_rows_leaves_leaves_half_full_at_least() {
    // Each of these is the least under the one right of it, which must not make a leaf of its own of each.
    let mut tree = filled([0, 90_000].into_iter());
    for number in (1..2000).rev() {
        tree.insert(&key(number), value(10).as_deref());
    }
    let shape = check(&tree);
    assert!(shape.bytes / shape.leaves > SMALL.leaf_bytes / 3, "{shape:?}");
}

#[test]
fn removing_all_gives_an_empty_tree() {
    for order in [1, 1999, 1237] {
        let mut tree = filled(0..2000);
        for number in 0..2000 {
            tree.remove(&key(number * order % 2000));
            if number % 100 == 0 {
                check(&tree);
            }
        }
        assert!(tree.is_empty());
        assert_eq!(check(&tree), Shape { depth: 1, leaves: 1, rows: 0, bytes: 0 });
    }
}

#[test]
fn removals_here_and_there_join_leaves() {
    let mut tree = filled(0..2000);
    let before = check(&tree);
    (0..2000).filter(|number| number % 200 != 0).for_each(|number| tree.remove(&key(number)));
    let after = check(&tree);
    assert!(after.leaves * 20 < before.leaves, "{before:?} {after:?}");
    assert!(after.depth < before.depth, "{before:?} {after:?}");
}

#[test]
fn very_long_keys_are_right_beside_short_ones() {
    let mut tree = tree();
    let long = |number: usize, bytes: usize| [vec![b'k'; bytes], number.to_be_bytes().to_vec()].concat();
    let mut all: Vec<Vec<u8>> = (0..100).map(|number| long(number, 5000)).collect();
    all.extend((0..50).map(|number| long(number, number * 100)));
    all.extend((0..100).map(key));
    all.push(vec![b'k'; 3 << 20]);
    for (number, key) in all.iter().enumerate() {
        tree.insert(key, value(number % 30).as_deref());
        check(&tree);
    }
    for (number, key) in all.iter().enumerate() {
        assert_eq!(tree.get(key), Some(value(number % 30)));
    }
    for key in &all {
        tree.remove(key);
        check(&tree);
    }
    assert!(tree.is_empty());
}

#[test]
fn a_long_row_in_the_middle_of_a_full_leaf_splits_it_in_three() {
    let mut tree = filled(0..6);
    assert_eq!(check(&tree).leaves, 1);
    tree.insert(&[b"tenant:00002".to_vec(), vec![b'x'; 1000]].concat(), None);
    assert_eq!(check(&tree).leaves, 3);
}

#[test]
fn the_standard_bounds_hold_too() {
    let mut tree = Tree::default();
    for number in 0..10_000 {
        tree.insert(&key(number * 1237 % 10_000), value(number % 700).as_deref());
    }
    let (kept, full) = (tree.clone(), check(&tree));
    assert_eq!(full.rows, 10_000);
    (0..10_000).filter(|number| number % 100 != 0).for_each(|number| tree.remove(&key(number)));
    let left = check(&tree);
    assert_eq!((left.rows, check(&kept)), (100, full));
    assert!(left.leaves < 100, "{left:?}");
}

#[test]
fn long_values_are_shared_not_copied() {
    let long: Bytes = vec![1; 65536].into();
    let mut tree = filled(0..50);
    tree.insert(&key(20), Some(&long));
    let (kept, stored) = (tree.clone(), tree.get(&key(20)).flatten().expect("it is there"));
    for number in 0..50 {
        tree.insert(&key(number + 100), value(17).as_deref());
        if number != 20 {
            tree.remove(&key(number));
        }
    }
    for tree in [tree, kept] {
        assert!(tree.get(&key(20)).flatten().is_some_and(|found| Bytes::ptr_eq(&found, &stored) && found == long));
        check(&tree);
    }
}

#[test]
fn a_change_copies_nothing_that_is_not_on_its_way() {
    let mut tree = filled(0..2000);
    let kept = tree.clone();
    let (leaves, shared) = (check(&tree).leaves, |tree: &Tree| shape::shared_leaves(tree, &kept));
    tree.insert(&key(7), value(10).as_deref());
    tree.insert(&key(7), value(9).as_deref());
    assert_eq!(shared(&tree), leaves - 1);
    tree.remove(b"absent");
    assert_eq!(shared(&tree), leaves - 1);
    assert_eq!(kept.get(&key(7)), Some(value(10)));
}

#[test]
fn ranges_end_where_they_say() {
    let tree = filled(0..200);
    let count = |start: usize, end: usize| {
        let range = KeyRange { start: key(start).into(), end: Some(key(end).into()) };
        tree.range(&range).count()
    };
    for start in 0..200 {
        assert_eq!(count(start, start), 0);
        assert_eq!(count(start, start + 1), 1);
        assert_eq!(count(start, 200), 200 - start);
        assert_eq!(count(start, start / 2), 0);
    }
}

/// Two that differ only at their end have a separator as long as they are, wherever the branches are split.
#[test]
fn long_keys_that_are_gone_leave_no_separators() {
    const LONG: usize = 2000;
    let long = |number: usize, last: &str| [key(number), vec![b'x'; LONG], last.into()].concat();
    let mut tree = filled(0..400);
    for number in 0..400 {
        for last in ["a", "b"] {
            assert_eq!(tree.insert(&long(number, last), value(1).as_deref()), None);
        }
    }
    check(&tree);
    assert!(shape::separator_bytes_most(&tree.root) > LONG);
    for number in 0..400 {
        for last in ["a", "b"] {
            tree.remove(&long(number, last));
            check(&tree);
        }
    }
    assert!(shape::separator_bytes_most(&tree.root) < LONG);
}

#[test]
fn what_is_freed_rests_behind_each_leaf_and_leaves_clones_alone() {
    let mut tree = filled(0..2_000);
    let clone = tree.clone();
    let leaves = check(&tree).leaves;
    // Of the two trees one leaf differs now, and the branches above it.
    assert_eq!(tree.insert(&key(1_000), value(11).as_deref()), Some(10));
    let rests = |tree: Tree| {
        let mut rests = 0;
        tree.free(&mut || rests += 1);
        rests
    };
    let of_own = rests(tree);
    assert!(of_own > 0 && of_own < leaves, "what the clone has is not gone through: {of_own}");
    assert_eq!(keys(&clone).len(), 2_000);
    assert_eq!(clone.get(&key(1_000)), Some(value(10)));
    assert_eq!(rests(clone), leaves);
}
