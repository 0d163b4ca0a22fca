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
    sync::Arc,
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
    ahead::Ahead,
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
    /// Whose turn it is to write the floor.
    checkpointer: Arc<Turn>,
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
            checkpointer: Arc::default(),
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

    /// A `rest` for as long as nobody waits for the checkpoint's end: what comes next may be a snapshot, or a stop.
    fn unless_awaited(&self, mut rest: Rest) -> Rest {
        let checkpointer = self.checkpointer.clone();
        Box::new(move || {
            if !checkpointer.is_awaited() {
                rest();
            }
        })
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
}

impl Engine for DiskEngine {
    type View = DiskView;
    type Transaction<'a> = DiskTransaction<'a>;

    fn view(&self) -> DiskView {
        DiskView(self.published.load_full())
    }

    fn begin(&self) -> DiskTransaction<'_> {
        DiskTransaction::new(self, self.writer.take(), None)
    }

    fn begin_with(&self, ahead: Ahead<DiskView>) -> DiskTransaction<'_> {
        DiskTransaction::new(self, self.writer.take(), Some(ahead))
    }

    fn replace<E: From<Error>>(
        &self,
        rows: impl Iterator<Item = std::result::Result<Row, E>>,
    ) -> std::result::Result<(), E> {
        let _one_at_a_time = self.checkpointer.take();
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
        let _one_at_a_time = self.checkpointer.take();
        let Some((frozen, floor)) = self.freeze() else {
            return Ok(self.checkpointed());
        };
        let upcoming = Layers { active: Layer::default(), frozen: Some(frozen.clone()), floor: floor.clone() };
        let is_ready = ready(&DiskView(Arc::new(upcoming)));
        let resting = floor.store().resting(self.unless_awaited(rest));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        engine::{Read, Transaction},
        fs::faulty::FaultyDisk,
        memory::MemoryEngine,
    };

    #[test]
    fn a_checkpoint_that_is_waited_for_rests_no_more() {
        let engine = DiskEngine::open(Arc::new(FaultyDisk::new()), Path::new("/store"), Options::default()).unwrap();
        let mut transaction = engine.begin();
        (0..1_000_u32).for_each(|number| transaction.put(&number.to_be_bytes(), b"old"));
        transaction.commit().unwrap();
        let (rests, checkpointer) = (Arc::new(AtomicU32::new(0)), engine.checkpointer.clone());
        let (has_begun, begins) = mpsc::channel();
        let rest = {
            let rests = rests.clone();
            move || {
                rests.fetch_add(1, Ordering::Relaxed);
                has_begun.send(()).unwrap();
                let until = Instant::now() + Duration::from_secs(30);
                while !checkpointer.is_awaited() {
                    assert!(Instant::now() < until, "nobody waits");
                    thread::yield_now();
                }
            }
        };
        thread::scope(|scope| {
            let checkpoint = scope.spawn(|| engine.checkpoint_when(|_| Ok(()), Box::new(rest)));
            begins.recv().unwrap();
            engine.replace(std::iter::once(Ok::<_, Error>((b"key"[..].into(), b"new"[..].into())))).unwrap();
            checkpoint.join().unwrap().unwrap();
        });
        assert_eq!(rests.load(Ordering::Relaxed), 1, "of more than a thousand");
        assert_eq!(engine.view().get(b"key").unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(engine.view().get(&7_u32.to_be_bytes()).unwrap(), None);
    }

    /// With other rows than those that are there, it shows which of the two a transaction asks.
    #[test]
    fn rows_looked_up_ahead_count_until_they_are_changed_or_another_checkpoint_has_been_made() {
        let engine = DiskEngine::open(Arc::new(FaultyDisk::new()), Path::new("/store"), Options::default()).unwrap();
        let put = |key: &[u8], value: &[u8]| {
            let mut transaction = engine.begin();
            transaction.put(key, value);
            transaction.commit().unwrap();
        };
        let lying = MemoryEngine::new();
        let mut lies = lying.begin();
        ["kept", "changed", "removed"].iter().for_each(|key| lies.put(key.as_bytes(), b"ahead"));
        lies.commit().unwrap();
        let ahead = || {
            let keys = ["kept", "changed", "removed", "none"].map(|key| key.as_bytes().to_vec());
            Ahead::look_up(lying.view(), keys.into_iter(), 1_000).unwrap().seen_in(engine.checkpointed())
        };
        let found = |ahead: Ahead<DiskView>| {
            let transaction = engine.begin_with(ahead);
            ["kept", "changed", "removed", "none"].map(|key| {
                let value = transaction.get(key.as_bytes()).unwrap();
                value.map(|value| String::from_utf8(value.to_vec()).unwrap())
            })
        };
        let some = |value: &str| Some(value.to_owned());
        put(b"kept", b"there");
        put(b"removed", b"there");
        engine.checkpoint().unwrap();
        put(b"changed", b"later");
        let mut transaction = engine.begin();
        transaction.delete(b"removed");
        transaction.commit().unwrap();
        let before = ahead();
        assert_eq!(found(ahead()), [some("ahead"), some("later"), None, None]);
        engine.checkpoint().unwrap();
        assert_eq!(found(before), [some("there"), some("later"), None, None]);
        put(b"beside", b"1");
        let not_durable =
            Ahead::look_up(lying.view(), [b"kept".to_vec()].into_iter(), 1_000).unwrap().seen_in(engine.view());
        assert_eq!(found(not_durable), [some("there"), some("later"), None, None]);
    }
}
