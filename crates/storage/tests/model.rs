//! Random histories of an engine beside a plain map. The disk engine's are interrupted by crashes: what is found
//! afterwards is exactly what the last checkpoint left, or the one that the crash interrupted.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, io::ErrorKind, path::Path, sync::Arc};

use proptest::{collection::vec, prelude::*};
use storage::{
    Ahead, Bytes, DiskEngine, Engine, Error, KeyRange, MemoryEngine, Read, Transaction, View, disk::Options,
    fs::faulty::FaultyDisk,
};

type Model = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
enum Phase {
    Transaction {
        steps: Vec<Step>,
        commit: bool,
    },
    Checkpoint,
    Replace(Model),
    HoldView,
    /// Looks up rows for the next transaction, which may come behind anything.
    LookAhead(Vec<Bytes>),
    Close,
    /// Dies; the seed chooses what of the unsynced survives, none keeps nothing.
    Crash(Option<u64>),
    /// The disk operation of this number fails during a checkpoint, and the machine dies of it.
    CrashInCheckpoint(u64, Option<u64>),
    CrashInReplace(Model, u64, Option<u64>),
}

#[derive(Clone, Debug)]
enum Step {
    Put(Bytes, Bytes),
    Delete(Bytes),
    Get(Bytes),
    Savepoint,
    Rollback,
    Scan(KeyRange),
}

fn keys() -> impl Strategy<Value = Bytes> {
    // Few and alike, so that histories meet their own keys again; some long ones, to deepen the tree.
    prop_oneof![
        8 => vec(prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(255)], 0..4).prop_map(|key| Bytes::from(key.as_slice())),
        1 => (0u8..4).prop_map(|last| Bytes::from([vec![b'k'; 1500], vec![last]].concat())),
    ]
}

fn values() -> impl Strategy<Value = Bytes> {
    prop_oneof![24 => 0usize..40, 3 => 3000usize..9000, 1 => 60_000usize..140_000]
        .prop_flat_map(|len| any::<u8>().prop_map(move |byte| Bytes::from(vec![byte; len])))
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    (keys(), proptest::option::of(keys())).prop_map(|(start, end)| KeyRange { start, end })
}

fn models() -> impl Strategy<Value = Model> {
    proptest::collection::btree_map(keys(), values(), 0..30)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (keys(), values()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => keys().prop_map(Step::Delete),
        4 => keys().prop_map(Step::Get),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Rollback),
        1 => ranges().prop_map(Step::Scan),
    ];
    vec(step, 0..25)
}

fn phases() -> impl Strategy<Value = Vec<Phase>> {
    let seed = || proptest::option::of(any::<u64>());
    let phase = prop_oneof![
        12 => (steps(), prop::bool::weighted(0.9)).prop_map(|(steps, commit)| Phase::Transaction { steps, commit }),
        5 => Just(Phase::Checkpoint),
        1 => models().prop_map(Phase::Replace),
        2 => Just(Phase::HoldView),
        6 => vec(keys(), 0..30).prop_map(Phase::LookAhead),
        1 => Just(Phase::Close),
        2 => seed().prop_map(Phase::Crash),
        2 => (0u64..60, seed()).prop_map(|(at, seed)| Phase::CrashInCheckpoint(at, seed)),
        1 => (models(), 0u64..90, seed()).prop_map(|(rows, at, seed)| Phase::CrashInReplace(rows, at, seed)),
    ];
    vec(phase, 1..25)
}

fn range_of<'a>(model: &'a Model, range: &KeyRange) -> impl Iterator<Item = (Bytes, Bytes)> + use<'a> {
    let KeyRange { start, end } = range.clone();
    let inside = move |key: &Bytes| *key >= start && end.as_ref().is_none_or(|end| key < end);
    model.iter().filter(move |(key, _)| inside(key)).map(|(key, value)| (key.clone(), value.clone()))
}

fn assert_range(read: &impl Read, model: &Model, range: &KeyRange) {
    let found: Vec<_> = read.scan(range.clone()).collect::<Result<_, _>>().unwrap();
    assert_eq!(found, range_of(model, range).collect::<Vec<_>>());
}

fn assert_same(read: &impl Read, model: &Model) {
    assert_range(read, model, &KeyRange::prefix(b""));
    for (key, value) in model {
        assert_eq!(read.get(key).unwrap().as_ref(), Some(value));
    }
    assert_eq!(read.get(b"never a key").unwrap(), None);
}

/// As [`assert_same`], and from each offset.
fn assert_view(view: &impl View, model: &Model) {
    assert_same(view, model);
    for offset in 0..model.len() + 2 {
        let found: Vec<_> = view.keys(KeyRange::prefix(b""), offset as u64).collect::<Result<_, _>>().unwrap();
        assert!(found.iter().eq(model.keys().skip(offset)), "from {offset}");
    }
}

fn rows(model: &Model) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> + '_ {
    model.iter().map(|(key, value)| Ok((key.clone(), value.clone())))
}

/// An engine, what it should hold, and what it has shown before.
struct History<E: Engine> {
    engine: E,
    committed: Model,
    durable: Model,
    held: Vec<(E::View, Model)>,
    ahead: Option<Ahead<E::View>>,
}

impl<E: Engine> History<E> {
    fn new(engine: E) -> Self {
        Self::after(engine, Model::new())
    }

    /// An engine that has just been opened, and holds `durable`.
    fn after(engine: E, durable: Model) -> Self {
        Self { engine, committed: durable.clone(), durable, held: Vec::new(), ahead: None }
    }

    fn transaction(&mut self, steps: &[Step], commit: bool) {
        let mut model = self.committed.clone();
        let mut savepoints = Vec::new();
        let mut transaction = match self.ahead.take() {
            Some(ahead) => self.engine.begin_with(ahead),
            None => self.engine.begin(),
        };
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    transaction.put(key, value);
                    model.insert(key.clone(), value.clone());
                }
                Step::Delete(key) => {
                    transaction.delete(key);
                    model.remove(key);
                }
                Step::Get(key) => assert_eq!(transaction.get(key).unwrap().as_ref(), model.get(key)),
                Step::Savepoint => savepoints.push((transaction.savepoint(), model.clone())),
                Step::Rollback => {
                    if let Some((savepoint, then)) = savepoints.pop() {
                        transaction.rollback(savepoint);
                        model = then;
                    }
                }
                Step::Scan(range) => assert_range(&transaction, &model, range),
            }
        }
        assert_same(&transaction, &model);
        if commit {
            transaction.commit().unwrap();
            self.committed = model;
        }
    }

    /// The phases that every engine knows; for the others, `false`.
    fn run(&mut self, phase: &Phase) -> bool {
        match phase {
            Phase::Transaction { steps, commit } => self.transaction(steps, *commit),
            Phase::Checkpoint => {
                assert_view(&self.engine.checkpoint().unwrap(), &self.committed);
                self.durable = self.committed.clone();
                assert_eq!(self.engine.dirty_bytes(), 0);
            }
            Phase::Replace(model) => {
                self.engine.replace(rows(model)).unwrap();
                (self.committed, self.durable) = (model.clone(), model.clone());
            }
            Phase::HoldView => self.held.push((self.engine.view(), self.committed.clone())),
            Phase::LookAhead(keys) => {
                let keys = keys.iter().map(|key| key.to_vec());
                self.ahead = Some(Ahead::look_up(self.engine.checkpointed(), keys, 1 << 16).unwrap());
            }
            Phase::Close | Phase::Crash(_) | Phase::CrashInCheckpoint(..) | Phase::CrashInReplace(..) => return false,
        }
        true
    }

    fn check(&self) {
        assert_view(&self.engine.view(), &self.committed);
        for (view, model) in &self.held {
            assert_view(view, model);
        }
    }
}

fn open(disk: &FaultyDisk) -> DiskEngine {
    DiskEngine::open(Arc::new(disk.clone()), Path::new("/store"), Options { cache_bytes: 256 << 10 }).unwrap()
}

/// A disk engine, which may die and come back.
struct Mortal {
    disk: FaultyDisk,
    history: History<DiskEngine>,
}

impl Mortal {
    fn run(mut self, phase: &Phase) -> Self {
        if self.history.run(phase) {
            assert_view(&self.history.engine.checkpointed(), &self.history.durable);
            return self;
        }
        match phase {
            Phase::Close => self.reopen(None),
            Phase::Crash(seed) => self.reopen(Some(*seed)),
            Phase::CrashInCheckpoint(at, seed) => {
                self.disk.fail_at(self.disk.operations() + at, ErrorKind::Other);
                let after = self.history.committed.clone();
                match self.history.engine.checkpoint() {
                    Ok(_) => self.history.durable = after,
                    Err(error) => return self.die(&error, *seed, &after),
                }
                self.reopen(Some(*seed))
            }
            Phase::CrashInReplace(after, at, seed) => {
                self.disk.fail_at(self.disk.operations() + at, ErrorKind::Other);
                match self.history.engine.replace(rows(after)) {
                    Ok(()) => self.history.durable = after.clone(),
                    Err(error) => return self.die(&error, *seed, after),
                }
                self.reopen(Some(*seed))
            }
            Phase::Transaction { .. }
            | Phase::Checkpoint
            | Phase::Replace(_)
            | Phase::HoldView
            | Phase::LookAhead(_) => unreachable!(),
        }
    }

    /// Comes back after an operation that did not end: with its effect or without, never with a part of it.
    fn die(mut self, error: &Error, seed: Option<u64>, after: &Model) -> Self {
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let before = self.history.durable.clone();
        crash(&self.disk, seed);
        drop(self.history);
        let engine = open(&self.disk);
        let found: Model = engine.view().scan(KeyRange::prefix(b"")).collect::<Result<_, _>>().unwrap();
        assert!(found == before || found == *after, "found neither what was nor what was to be");
        self.history = History::after(engine, found);
        self
    }

    /// Ends, by a crash or in order, and starts again. What was not checkpointed is gone.
    fn reopen(mut self, crash_seed: Option<Option<u64>>) -> Self {
        if let Some(seed) = crash_seed {
            crash(&self.disk, seed);
        }
        let durable = self.history.durable;
        drop((self.history.engine, self.history.held, self.history.ahead));
        let engine = open(&self.disk);
        self.history = History::after(engine, durable);
        self
    }
}

fn crash(disk: &FaultyDisk, seed: Option<u64>) {
    match seed {
        Some(seed) => disk.crash_torn(seed),
        None => disk.crash(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_is_a_map(phases in phases()) {
        let mut history = History::new(MemoryEngine::new());
        for phase in &phases {
            history.run(phase);
            history.check();
        }
    }

    #[test]
    fn the_disk_engine_is_a_map_that_outlives_its_process(phases in phases()) {
        let disk = FaultyDisk::new();
        let mut mortal = Mortal { history: History::new(open(&disk)), disk };
        for phase in &phases {
            mortal = mortal.run(phase);
            mortal.history.check();
        }
    }
}
