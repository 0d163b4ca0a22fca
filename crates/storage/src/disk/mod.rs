//! The engine of the values group: a map in memory with a durable floor under it.
//!
//! 1. A transaction changes the *active* layer, in memory, where a removal is a row too. Nothing waits for a disk: the
//!    Raft log is the write-ahead log, and replays what a crash takes.
//! 2. A checkpoint *freezes* the active layer (one clone, between two transactions) and puts an empty one on top.
//! 3. It writes the frozen rows into the *floor*, a redb file, as one durable transaction, beside readers and writer;
//!    not before whoever asked for it has seen what is going to be durable.
//! 4. It publishes the new floor and drops the frozen layer.
//! 5. A view is the three of one moment, published as one: a read asks the highest first, a scan merges them.
//!
//! When the disk is full, the checkpoint is refused before it commits, and the frozen rows go back under the active
//! ones. After any other error the node must stop: what a failed sync left on the disk is known to nobody.

mod backend;
mod floor;
mod layers;
mod pieces;
mod progress;
mod row;
mod transaction;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;

use self::{
    floor::{Floor, Store},
    layers::{Layer, Layers},
    progress::Progress,
};
pub use self::{
    layers::DiskView,
    transaction::{DiskSavepoint, DiskTransaction},
};
use crate::{
    engine::{Backlog, Bytes, Engine, Error, Rest, Result, Row},
    fs::Disk,
    tree::Change,
    turn::Turn,
};

const FLOOR_FILE: &str = "floor.redb";

/// A floor that is being written. It counts for nothing until it is renamed.
const UNFINISHED_FILE: &str = "floor-unfinished.redb";

/// How a [`DiskEngine`] uses the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the floor, read and written, in bytes. The layers above it come on top.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// An ordered map with a durable floor. One directory, one engine: two on the same directory damage the file, also
/// when the first is dropped but a view of it still lives.
#[derive(Debug)]
pub struct DiskEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    published: ArcSwap<Layers>,
    writer: Turn,
    /// Held while the floor is written.
    checkpointing: Mutex<()>,
    progress: Progress,
}

impl DiskEngine {
    /// Opens the store in `dir`, as its last checkpoint left it, or creates an empty one. The caller makes `dir`
    /// itself durable in its parent.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self> {
        disk.create_dir(dir).map_err(failed("create", dir))?;
        let files = disk.list(dir).map_err(failed("list", dir))?;
        let holds = |name: &str| files.iter().any(|file| file == name);
        if holds(UNFINISHED_FILE) {
            let path = dir.join(UNFINISHED_FILE);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
        let path = dir.join(FLOOR_FILE);
        let store = if holds(FLOOR_FILE) {
            Store::open(&*disk, &path, options.cache_bytes)?
        } else {
            let store = Store::create(&*disk, &dir.join(UNFINISHED_FILE), &path, options.cache_bytes)?;
            install(&*disk, dir)?;
            store
        };
        let floor = Arc::new(Arc::new(store).floor()?);
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            options,
            published: ArcSwap::from_pointee(durable(floor)),
            writer: Turn::default(),
            checkpointing: Mutex::new(()),
            progress: Progress::default(),
        })
    }

    /// Moves the active layer to where a checkpoint takes it from. None when nothing has changed.
    fn freeze(&self) -> Option<(Layer, Arc<Floor>)> {
        let _turn = self.writer.take();
        let now = self.published.load();
        if now.active.is_empty() {
            return None;
        }
        let frozen = now.active.clone();
        self.progress.begin(frozen.bytes(), now.floor.store().written_bytes());
        let layers = Layers { active: Layer::default(), frozen: Some(frozen.clone()), floor: now.floor.clone() };
        self.published.store(Arc::new(layers));
        Some((frozen, now.floor.clone()))
    }

    /// Puts the frozen rows back under the active ones.
    fn thaw(&self) {
        let _turn = self.writer.take();
        let now = self.published.load();
        let mut active = now.frozen.clone().unwrap_or_default();
        for (key, change) in now.active.changes() {
            active.set(&key, change.as_deref());
        }
        self.published.store(Arc::new(Layers { active, frozen: None, floor: now.floor.clone() }));
    }

    /// Shows `floor`, which contains the frozen rows, in place of both.
    fn sink(&self, floor: Arc<Floor>) {
        let _turn = self.writer.take();
        let active = self.published.load().active.clone();
        self.published.store(Arc::new(Layers { active, frozen: None, floor }));
    }

    /// Writes the frozen rows into the floor's file.
    fn write(&self, store: &Arc<Store>, frozen: &Layer) -> Result<Floor> {
        let note = |(key, change): &(Bytes, Change)| {
            self.progress.stage((key.len() + change.as_ref().map_or(0, |value| value.len())) as u64);
        };
        let staged = store.stage(frozen.changes().inspect(note).map(Ok::<_, Error>))?;
        store.seal(staged)?;
        store.floor()
    }

    fn write_new<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<Arc<Store>, E> {
        let unfinished = self.dir.join(UNFINISHED_FILE);
        let store = Store::create(&*self.disk, &unfinished, &self.dir.join(FLOOR_FILE), self.options.cache_bytes)?;
        let staged = store.stage(rows.map(|row| row.map(|(key, value)| (key, Some(value)))))?;
        store.seal(staged)?;
        Ok(Arc::new(store))
    }

    fn checkpointing(&self) -> MutexGuard<'_, ()> {
        self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for DiskEngine {
    type View = DiskView;
    type Transaction<'a> = DiskTransaction<'a>;

    fn view(&self) -> DiskView {
        DiskView(self.published.load_full())
    }

    fn begin(&self) -> DiskTransaction<'_> {
        DiskTransaction::new(self, self.writer.take())
    }

    fn replace<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<(), E> {
        let _one_at_a_time = self.checkpointing();
        let store = match self.write_new(rows) {
            Ok(store) => store,
            Err(error) => {
                // It gives its space back now. Should that fail, the next start or the next try removes it.
                let _ = self.disk.remove(&self.dir.join(UNFINISHED_FILE));
                return Err(error);
            }
        };
        let floor = Arc::new(store.floor()?);
        let _turn = self.writer.take();
        install(&*self.disk, &self.dir)?;
        self.published.store(Arc::new(durable(floor)));
        Ok(())
    }

    fn checkpoint_when(&self, ready: impl FnOnce(&DiskView) -> Result<()>, rest: Rest) -> Result<DiskView> {
        let _one_at_a_time = self.checkpointing();
        let Some((frozen, floor)) = self.freeze() else {
            return Ok(self.checkpointed());
        };
        let upcoming = Layers { active: Layer::default(), frozen: Some(frozen.clone()), floor: floor.clone() };
        let is_ready = ready(&DiskView(Arc::new(upcoming)));
        let resting = floor.store().resting(rest);
        match is_ready.and_then(|()| self.write(floor.store(), &frozen)) {
            Ok(floor) => {
                let floor = Arc::new(floor);
                self.progress.end(frozen.bytes(), floor.store().written_bytes());
                self.sink(floor.clone());
                frozen.free(&mut || resting.rest());
                Ok(DiskView(Arc::new(durable(floor))))
            }
            Err(error) => {
                self.thaw();
                Err(error)
            }
        }
    }

    fn checkpointed(&self) -> DiskView {
        DiskView(Arc::new(durable(self.published.load().floor.clone())))
    }

    fn backlog(&self) -> Backlog {
        let now = self.published.load();
        let frozen_bytes = now.frozen.as_ref().map_or(0, Layer::bytes);
        let staged_bytes = self.progress.staged(frozen_bytes);
        let written_bytes = self.progress.written(frozen_bytes, now.floor.store().written_bytes());
        Backlog { active_bytes: now.active.bytes(), frozen_bytes, staged_bytes, written_bytes }
    }
}

/// The layers of a map that has not changed since its last checkpoint.
fn durable(floor: Arc<Floor>) -> Layers {
    Layers { active: Layer::default(), frozen: None, floor }
}

/// Makes the unfinished file, whole and synced, the floor's file.
fn install(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let path = dir.join(FLOOR_FILE);
    disk.rename(&dir.join(UNFINISHED_FILE), &path).map_err(failed("rename to", &path))?;
    disk.sync_dir(dir).map_err(failed("sync", dir))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.display().to_string(), source }
}
