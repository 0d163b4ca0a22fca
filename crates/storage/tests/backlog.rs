//! What an engine says of a checkpoint while it writes.

#![allow(clippy::unwrap_used)]

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, Weak},
};

use storage::{
    Backlog, DiskEngine, Engine, Error, Read, Transaction,
    disk::Options,
    fs::{Disk, File, faulty::FaultyDisk},
};

const ROWS: u32 = 20_000;
const ROW_BYTES: u64 = 4 + 100;

type Seen = Arc<Mutex<Vec<Backlog>>>;

/// Looks at the engine's backlog with each sync.
#[derive(Debug, Default)]
struct Watch {
    engine: Mutex<Weak<DiskEngine>>,
    seen: Seen,
}

impl Watch {
    fn look(&self) {
        let engine = self.engine.lock().unwrap().upgrade();
        self.seen.lock().unwrap().extend(engine.map(|engine| engine.backlog()));
    }
}

#[derive(Debug)]
struct WatchedDisk(FaultyDisk, Arc<Watch>);

#[derive(Debug)]
struct WatchedFile(Arc<dyn File>, Arc<Watch>);

impl Disk for WatchedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(WatchedFile(self.0.open(path)?, self.1.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(WatchedFile(self.0.create(path)?, self.1.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

impl File for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.look();
        self.0.sync_data()
    }
}

fn put(engine: &DiskEngine) {
    let mut transaction = engine.begin();
    for number in 0..ROWS {
        transaction.put(&number.to_be_bytes(), &[7; 100]);
    }
    transaction.commit().unwrap();
}

#[test]
fn a_checkpoint_tells_how_far_it_has_come() {
    let rows_bytes = u64::from(ROWS) * ROW_BYTES;
    let (disk, watch) = (FaultyDisk::new(), Arc::new(Watch::default()));
    let watched = Arc::new(WatchedDisk(disk.clone(), watch.clone()));
    let engine = DiskEngine::open(watched, Path::new("/store"), Options { cache_bytes: 1 << 20 }).unwrap();
    let engine = Arc::new(engine);
    *watch.engine.lock().unwrap() = Arc::downgrade(&engine);
    for round in 0..3 {
        put(&engine);
        assert_eq!(engine.backlog(), Backlog { active_bytes: rows_bytes, ..Backlog::default() });
        watch.seen.lock().unwrap().clear();
        engine.checkpoint().unwrap();
        assert_eq!(engine.backlog(), Backlog::default());

        let seen = watch.seen.lock().unwrap();
        let frozen = |seen: &Backlog| (seen.active_bytes, seen.frozen_bytes) == (0, rows_bytes);
        assert!(seen.iter().all(frozen), "{seen:?}");
        assert!(seen.iter().map(|seen| seen.staged_bytes).is_sorted(), "{seen:?}");
        assert_eq!(seen.last().unwrap().staged_bytes, rows_bytes);
        let written: Vec<u64> = seen.iter().map(|seen| seen.written_bytes).collect();
        assert!(written.is_sorted(), "{written:?}");
        // The first rests on a guess, the others on what the one before them took.
        let most = if round == 0 { 1 } else { rows_bytes / 10 * 9 };
        assert!(written[0] < rows_bytes / 4 && *written.last().unwrap() >= most, "round {round}: {written:?}");
        let halfway = written.iter().filter(|bytes| (rows_bytes / 4..rows_bytes / 4 * 3).contains(*bytes)).count();
        assert!(halfway > 3, "round {round}: {written:?}");
    }

    // More than the file has room for.
    let mut transaction = engine.begin();
    (0..40_u8).for_each(|number| transaction.put(&[number], &vec![7; 1 << 20]));
    transaction.commit().unwrap();
    let before = engine.backlog();
    disk.set_capacity(Some(0));
    assert!(matches!(engine.checkpoint(), Err(Error::DiskFull { .. })));
    assert_eq!(engine.backlog(), before);
    assert!(before.active_bytes > 40 << 20 && before.frozen_bytes == 0);
}

#[test]
fn a_checkpoint_rests_between_rows_between_writes_and_as_it_gives_memory_back() {
    let options = Options { cache_bytes: 1 << 20 };
    let engine = Arc::new(DiskEngine::open(Arc::new(FaultyDisk::new()), Path::new("/store"), options).unwrap());
    put(&engine);
    let rows_bytes = u64::from(ROWS) * ROW_BYTES;
    let seen = Seen::default();
    let rest = {
        let (engine, seen) = (engine.clone(), seen.clone());
        move || {
            seen.lock().unwrap().push(engine.backlog());
            // Neither the writer nor a reader waits for who rests.
            let mut transaction = engine.begin();
            transaction.put(b"beside", b"1");
            transaction.commit().unwrap();
            assert_eq!(engine.view().get(&7_u32.to_be_bytes()).unwrap().as_deref(), Some(&[7; 100][..]));
        }
    };
    engine.checkpoint_when(|_| Ok(()), Box::new(rest)).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let count = |of: &dyn Fn(&Backlog) -> bool| seen.iter().filter(|seen| of(seen)).count();
    assert!(count(&|seen| seen.frozen_bytes == rows_bytes && seen.staged_bytes < rows_bytes) >= ROWS as usize / 2);
    assert!(count(&|seen| seen.frozen_bytes == rows_bytes && seen.written_bytes > 0) > 10);
    assert!(count(&|seen| seen.frozen_bytes == 0) > 100, "each leaf of some twenty rows");

    // The one checkpoint that was asked to.
    engine.checkpoint().unwrap();
    assert_eq!(Arc::strong_count(&engine), 1, "what it rested by is gone");
    assert_eq!(engine.backlog(), Backlog::default());
    assert_eq!(engine.view().get(b"beside").unwrap().as_deref(), Some(&b"1"[..]));
}
