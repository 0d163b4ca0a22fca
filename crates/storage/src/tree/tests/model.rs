//! Random histories of a tree beside a plain map, with nodes so small that nearly each step splits or joins some.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{super::Bounds, Bytes, Change, KeyRange, Tree, check};

type Model = BTreeMap<Bytes, Change>;

/// Two rows to a leaf, and branches that are full by their children; or by the bytes of their separators.
const TINY: [Bounds; 2] = [
    Bounds { leaf_bytes: 64, inline_bytes: 8, branch_children: 4, branch_bytes: 4096 },
    Bounds { leaf_bytes: 100, inline_bytes: 8, branch_children: 20, branch_bytes: 90 },
];

#[derive(Clone, Debug)]
enum Step {
    Insert(Bytes, Change),
    Remove(Bytes),
    RemoveRange(KeyRange),
    /// Remembers a clone, which must stay as it is.
    Keep,
    /// Goes on from the oldest clone, if there is one, and forgets it.
    Return,
    Range(KeyRange),
}

fn keys() -> impl Strategy<Value = Bytes> {
    let byte = || prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(255)];
    prop_oneof![
        8 => vec(byte(), 0..5).prop_map(|key| Bytes::from(key.as_slice())),
        3 => (0usize..20, vec(byte(), 0..3)).prop_map(|(bytes, key)| [vec![b'k'; bytes], key].concat().into()),
        1 => (0usize..200, any::<u8>()).prop_map(|(bytes, last)| [vec![b'a'; bytes], vec![last]].concat().into()),
    ]
}

fn changes() -> impl Strategy<Value = Change> {
    proptest::option::weighted(0.9, (0usize..20, any::<u8>()).prop_map(|(bytes, byte)| vec![byte; bytes].into()))
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    (keys(), proptest::option::of(keys())).prop_map(|(start, end)| KeyRange { start, end })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => (keys(), changes()).prop_map(|(key, change)| Step::Insert(key, change)),
        20 => keys().prop_map(Step::Remove),
        1 => ranges().prop_map(Step::RemoveRange),
        3 => Just(Step::Keep),
        1 => Just(Step::Return),
        4 => ranges().prop_map(Step::Range),
    ];
    vec(step, 0..300)
}

struct History {
    tree: Tree,
    model: Model,
    kept: Vec<(Tree, Model)>,
}

impl History {
    fn run(&mut self, step: &Step) {
        match step {
            Step::Insert(key, change) => self.insert(key, change),
            Step::Remove(key) => self.remove(key),
            Step::RemoveRange(range) => {
                let keys: Vec<Bytes> = self.tree.range(range).map(|(key, _)| key).collect();
                keys.iter().for_each(|key| self.remove(key));
            }
            Step::Keep => self.kept.push((self.tree.clone(), self.model.clone())),
            Step::Return if self.kept.is_empty() => {}
            Step::Return => (self.tree, self.model) = self.kept.remove(0),
            Step::Range(range) => {
                let end = range.end.as_ref();
                let rows =
                    self.model.iter().filter(|(key, _)| **key >= range.start && end.is_none_or(|end| *key < end));
                assert!(self.tree.range(range).eq(rows.map(|(key, change)| (key.clone(), change.clone()))));
            }
        }
    }

    fn insert(&mut self, key: &Bytes, change: &Change) {
        let former = self.model.insert(key.clone(), change.clone());
        let former_bytes = former.map(|change| change.map_or(0, |value| value.len()));
        assert_eq!(self.tree.insert(key, change.as_deref()), former_bytes);
        assert_eq!(self.tree.get(key), Some(change.clone()));
    }

    fn remove(&mut self, key: &Bytes) {
        self.model.remove(key);
        self.tree.remove(key);
        assert_eq!(self.tree.get(key), None);
    }

    fn check(&self) {
        assert_eq!(check(&self.tree).rows, self.model.len());
        assert_eq!(self.tree.is_empty(), self.model.is_empty());
        agree(&self.tree, &self.model);
        self.kept.iter().for_each(|(tree, model)| agree(tree, model));
    }
}

fn agree(tree: &Tree, model: &Model) {
    assert!(tree.iter().eq(model.iter().map(|(key, change)| (key.clone(), change.clone()))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_is_a_map(bounds in prop::sample::select(&[&TINY[0], &TINY[1]][..]), steps in steps()) {
        let mut history = History { tree: Tree::with_bounds(bounds), model: Model::new(), kept: Vec::new() };
        for step in &steps {
            history.run(step);
            history.check();
        }
    }
}
