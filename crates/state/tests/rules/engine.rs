//! The plainest engine there can be: a `BTreeMap`, cloned for every transaction. What it does is evidently right, and a
//! crash loses exactly what came after its last checkpoint.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex},
};

use storage::{Backlog, Bytes, Engine, Error, KeyRange, Read, Rest, Result, Row, Transaction, View};

type Map = BTreeMap<Bytes, Bytes>;

/// The reference engine.
#[derive(Default)]
pub(crate) struct PlainEngine {
    committed: Mutex<PlainView>,
    durable: Mutex<PlainView>,
}

impl PlainEngine {
    /// What is left of it after a crash.
    pub(crate) fn after_crash(&self) -> Self {
        let durable = self.checkpointed();
        Self { committed: Mutex::new(durable.clone()), durable: Mutex::new(durable) }
    }
}

#[derive(Clone, Default)]
pub(crate) struct PlainView(Arc<Map>);

pub(crate) struct PlainTransaction<'a> {
    engine: &'a PlainEngine,
    map: Map,
}

fn scan(map: &Map, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
    let bounds = if range.is_empty() {
        (Bound::Included(range.start.clone()), Bound::Excluded(range.start))
    } else {
        (Bound::Included(range.start), range.end.map_or(Bound::Unbounded, Bound::Excluded))
    };
    map.range(bounds).map(|(key, value)| Ok((key.clone(), value.clone())))
}

impl Read for PlainView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        scan(&self.0, range)
    }
}

impl View for PlainView {
    fn keys(&self, range: KeyRange, offset: u64) -> impl Iterator<Item = Result<Bytes>> + Send + '_ {
        self.scan(range).skip(offset as usize).map(|row| row.map(|(key, _)| key))
    }
}

impl Read for PlainTransaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        scan(&self.map, range)
    }
}

impl Transaction for PlainTransaction<'_> {
    type Savepoint = Map;

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.map.insert(key.into(), value.into());
    }

    fn delete(&mut self, key: &[u8]) {
        self.map.remove(key);
    }

    fn savepoint(&self) -> Map {
        self.map.clone()
    }

    fn rollback(&mut self, savepoint: Map) {
        self.map = savepoint;
    }

    fn commit(self) -> Result<()> {
        *self.engine.committed.lock().unwrap() = PlainView(Arc::new(self.map));
        Ok(())
    }
}

impl Engine for PlainEngine {
    type View = PlainView;
    type Transaction<'a> = PlainTransaction<'a>;

    fn view(&self) -> PlainView {
        self.committed.lock().unwrap().clone()
    }

    fn begin(&self) -> PlainTransaction<'_> {
        PlainTransaction { engine: self, map: Map::clone(&self.view().0) }
    }

    fn replace<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<(), E> {
        let map: Map = rows.collect::<std::result::Result<_, E>>()?;
        *self.committed.lock().unwrap() = PlainView(Arc::new(map));
        self.checkpoint()?;
        Ok(())
    }

    fn checkpoint_when(&self, ready: impl FnOnce(&PlainView) -> Result<()>, _: Rest) -> Result<PlainView> {
        let view = self.view();
        ready(&view)?;
        *self.durable.lock().unwrap() = view.clone();
        Ok(view)
    }

    fn checkpointed(&self) -> PlainView {
        self.durable.lock().unwrap().clone()
    }

    fn backlog(&self) -> Backlog {
        Backlog::default()
    }
}
