//! What an engine runs on: something that can crash, and come back with what the engine had made durable.

use std::{path::Path, sync::Arc};

use state::{apply::StateMachine, ids::Keyspace};
use storage::{
    DiskEngine, Engine, MemoryEngine,
    disk::Options,
    fs::{Disk, faulty::FaultyDisk},
};

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

/// A host whose memory is all it has.
pub(crate) struct MemoryHost(Arc<MemoryEngine>);

impl Host for MemoryHost {
    type Engine = MemoryEngine;

    fn new() -> Self {
        Self(Arc::default())
    }

    fn engine(&self) -> Arc<MemoryEngine> {
        Arc::clone(&self.0)
    }

    fn crash(&mut self) {
        self.0 = Arc::default();
    }
}

/// A host with a disk.
pub(crate) struct DiskHost {
    disk: FaultyDisk,
    /// None only while it is crashed.
    engine: Option<Arc<DiskEngine>>,
}

impl DiskHost {
    fn start(disk: &FaultyDisk) -> Arc<DiskEngine> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Arc::new(DiskEngine::open(disk, Path::new("/store"), Options { cache_bytes: 1 << 20 }).unwrap())
    }
}

impl Host for DiskHost {
    type Engine = DiskEngine;

    fn new() -> Self {
        let disk = FaultyDisk::new();
        let engine = Some(Self::start(&disk));
        Self { disk, engine }
    }

    fn engine(&self) -> Arc<DiskEngine> {
        Arc::clone(self.engine.as_ref().unwrap())
    }

    fn crash(&mut self) {
        self.disk.crash();
        self.engine = None;
        self.engine = Some(Self::start(&self.disk));
    }
}
