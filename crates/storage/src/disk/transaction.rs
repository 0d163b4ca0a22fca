//! The writer's transaction: a clone of the active layer, over what was published when it began.

use std::sync::Arc;

use super::{
    DiskEngine,
    layers::{DiskView, Layer, Layers},
};
use crate::{
    ahead::Ahead,
    engine::{Bytes, KeyRange, Read, Result, Row, Transaction},
    turn::TurnGuard,
};

/// The open transaction of a [`DiskEngine`].
#[derive(Debug)]
pub struct DiskTransaction<'a> {
    engine: &'a DiskEngine,
    layers: Layers,
    /// Rows of the floor that need not be looked up.
    ahead: Option<Ahead<DiskView>>,
    _turn: TurnGuard<'a>,
}

/// A point of a [`DiskTransaction`] to come back to.
#[derive(Debug)]
pub struct DiskSavepoint(Layer);

impl<'a> DiskTransaction<'a> {
    pub(super) fn new(engine: &'a DiskEngine, turn: TurnGuard<'a>, ahead: Option<Ahead<DiskView>>) -> Self {
        // Whoever changes the published layers takes the turn first: they stand still until the commit.
        let layers = Layers::clone(&engine.published.load());
        let ahead = ahead.filter(|ahead| ahead.durable().is_of_floor(&layers.floor));
        Self { engine, layers, ahead, _turn: turn }
    }
}

impl Read for DiskTransaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        if let Some(change) = self.layers.change(key) {
            return Ok(change);
        }
        match self.ahead.as_ref().and_then(|ahead| ahead.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.layers.floor.get(key),
        }
    }

    fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row>> + Send + '_ {
        self.layers.scan(&range)
    }
}

impl Transaction for DiskTransaction<'_> {
    type Savepoint = DiskSavepoint;

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.layers.active.set(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.layers.active.set(key, None);
    }

    fn savepoint(&self) -> DiskSavepoint {
        DiskSavepoint(self.layers.active.clone())
    }

    fn rollback(&mut self, savepoint: DiskSavepoint) {
        self.layers.active = savepoint.0;
    }

    fn commit(self) -> Result<()> {
        self.engine.published.store(Arc::new(self.layers));
        Ok(())
    }
}
