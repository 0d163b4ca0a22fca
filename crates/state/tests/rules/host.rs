//! What an engine runs on: something that can crash, and come back with what the engine had made durable.

use std::sync::Arc;

use state::{apply::StateMachine, ids::Keyspace};
use storage::Engine;

use crate::engine::PlainEngine;

/// A machine with an engine in it.
pub(crate) trait Host {
    type Engine: Engine;

    /// One with an empty engine.
    fn new() -> Self;

    fn engine(&self) -> Arc<Self::Engine>;

    /// Loses all that was not durable. Nobody may hold the engine any more.
    fn crash(&mut self);

    fn open(&self, keyspace: Keyspace) -> StateMachine<Self::Engine> {
        StateMachine::open(self.engine(), keyspace).unwrap()
    }
}

/// A host with the reference engine.
pub(crate) struct PlainHost(Arc<PlainEngine>);

impl Host for PlainHost {
    type Engine = PlainEngine;

    fn new() -> Self {
        Self(Arc::default())
    }

    fn engine(&self) -> Arc<PlainEngine> {
        Arc::clone(&self.0)
    }

    fn crash(&mut self) {
        self.0 = Arc::new(self.0.after_crash());
    }
}
