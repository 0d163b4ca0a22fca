//! The engine of the cache group: the map lives in memory and nowhere else.
//!
//! 1. The published map is a persistent tree (`tree.rs`): a clone shares all its nodes.
//! 2. A transaction changes its own clone, copying only the nodes on its way, and publishes it whole at commit.
//! 3. A view is a reference to the map that was published when it was taken.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    engine::{Backlog, Bytes, Engine, Error, KeyRange, Read, Rest, Result, Row, Transaction, View},
    tree::{Change, Tree},
    turn::{Turn, TurnGuard},
};

/// An ordered map in memory.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    published: ArcSwap<Tree>,
    writer: Turn,
}

impl MemoryEngine {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;
    type Transaction<'a> = MemoryTransaction<'a>;

    fn view(&self) -> MemoryView {
        MemoryView { rows: self.published.load_full() }
    }

    fn begin(&self) -> MemoryTransaction<'_> {
        let turn = self.writer.take();
        MemoryTransaction { rows: Tree::clone(&self.published.load()), published: &self.published, _turn: turn }
    }

    fn replace<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<(), E> {
        let mut tree = Tree::default();
        for row in rows {
            let (key, value) = row?;
            tree.insert(&key, Some(&value));
        }
        let _turn = self.writer.take();
        self.published.store(Arc::new(tree));
        Ok(())
    }

    fn checkpoint_when(&self, ready: impl FnOnce(&MemoryView) -> Result<()>, _: Rest) -> Result<MemoryView> {
        let view = self.view();
        ready(&view)?;
        Ok(view)
    }

    fn checkpointed(&self) -> MemoryView {
        self.view()
    }

    fn backlog(&self) -> Backlog {
        Backlog::default()
    }
}

/// A view of a [`MemoryEngine`].
#[derive(Clone, Debug)]
pub struct MemoryView {
    rows: Arc<Tree>,
}

impl Read for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).flatten())
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        scan(&self.rows, &range)
    }
}

impl View for MemoryView {
    fn keys(&self, range: KeyRange, offset: u64) -> impl Iterator<Item = Result<Bytes>> + Send + '_ {
        let mut rows = self.rows.range(&range);
        rows.pass(offset);
        std::iter::from_fn(move || rows.next_key().map(Ok))
    }
}

/// The open transaction of a [`MemoryEngine`].
#[derive(Debug)]
pub struct MemoryTransaction<'a> {
    rows: Tree,
    published: &'a ArcSwap<Tree>,
    _turn: TurnGuard<'a>,
}

/// A point of a [`MemoryTransaction`] to come back to.
#[derive(Debug)]
pub struct MemorySavepoint(Tree);

impl Read for MemoryTransaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).flatten())
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        scan(&self.rows, &range)
    }
}

impl Transaction for MemoryTransaction<'_> {
    type Savepoint = MemorySavepoint;

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.rows.insert(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.rows.remove(key);
    }

    fn savepoint(&self) -> MemorySavepoint {
        MemorySavepoint(self.rows.clone())
    }

    fn rollback(&mut self, savepoint: MemorySavepoint) {
        self.rows = savepoint.0;
    }

    fn commit(self) -> Result<()> {
        self.published.store(Arc::new(self.rows));
        Ok(())
    }
}

fn scan<'a>(rows: &'a Tree, range: &KeyRange) -> impl Iterator<Item = Result<Row>> + Send + use<'a> {
    rows.range(range).map(to_row)
}

fn to_row((key, value): (Bytes, Change)) -> Result<Row> {
    Ok((key, value.expect("a map of its own has nothing below to hide")))
}
