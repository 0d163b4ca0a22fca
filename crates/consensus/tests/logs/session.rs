//! One life of a process on a disk: its files, until it is killed. The disk beneath stays.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use storage::fs::{Disk, File, faulty::FaultyDisk};

/// A disk that can be taken away, and whose syncs can fail or be held up.
#[derive(Clone, Debug)]
pub struct Session {
    disk: FaultyDisk,
    alive: Arc<RwLock<bool>>,
    fuse: Arc<Mutex<Option<Fuse>>>,
    operations: Arc<AtomicU64>,
    syncs: Arc<Syncs>,
}

/// A crash to come.
#[derive(Debug)]
struct Fuse {
    operations_left: u64,
    torn: Option<u64>,
}

#[derive(Debug, Default)]
struct Syncs {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    held: bool,
    fail: bool,
    begun: usize,
}

impl Session {
    pub fn new(disk: &FaultyDisk) -> Self {
        Self {
            disk: disk.clone(),
            alive: Arc::new(RwLock::new(true)),
            fuse: Arc::default(),
            operations: Arc::default(),
            syncs: Arc::default(),
        }
    }

    /// The same life of the same process, with syncs of its own to hold up: for what lies on another disk of the machine.
    pub fn beside(&self) -> Self {
        Self { syncs: Arc::default(), ..self.clone() }
    }

    /// Ends the process and the machine in the same moment, whatever its threads are at.
    pub fn crash(&self, torn: Option<u64>) {
        let mut alive = self.alive.write().unwrap();
        *alive = false;
        match torn {
            Some(seed) => self.disk.crash_torn(seed),
            None => self.disk.crash(),
        }
        self.release_syncs();
    }

    /// Crashes instead of the operation that comes after `operations` more.
    pub fn crash_after(&self, operations: u64, torn: Option<u64>) {
        *self.fuse.lock().unwrap() = Some(Fuse { operations_left: operations, torn });
    }

    /// How many operations were begun.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    pub fn has_crashed(&self) -> bool {
        !*self.alive.read().unwrap()
    }

    /// From now on syncs begin but do not end.
    pub fn hold_syncs(&self) {
        self.syncs.state.lock().unwrap().held = true;
    }

    pub fn release_syncs(&self) {
        self.syncs.state.lock().unwrap().held = false;
        self.syncs.changed.notify_all();
    }

    pub fn fail_syncs(&self, fail: bool) {
        self.syncs.state.lock().unwrap().fail = fail;
    }

    /// How many syncs have begun.
    pub fn syncs(&self) -> usize {
        self.syncs.state.lock().unwrap().begun
    }

    /// Blocks until a sync is held up.
    pub fn wait_for_held_sync(&self, syncs_before: usize) {
        let state = self.syncs.state.lock().unwrap();
        drop(self.syncs.changed.wait_while(state, |state| state.begun == syncs_before).unwrap());
    }

    fn burn(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let mut fuse = self.fuse.lock().unwrap();
        match &mut *fuse {
            Some(Fuse { operations_left: 0, torn }) => {
                let torn = *torn;
                *fuse = None;
                self.crash(torn);
            }
            Some(Fuse { operations_left, .. }) => *operations_left -= 1,
            None => {}
        }
    }

    fn living(&self) -> io::Result<RwLockReadGuard<'_, bool>> {
        self.burn();
        let alive = self.alive.read().unwrap();
        if *alive { Ok(alive) } else { Err(io::Error::other("the process was killed")) }
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SessionFile { session: self.clone(), file })
    }
}

impl Disk for Session {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let _alive = self.living()?;
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let _alive = self.living()?;
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _alive = self.living()?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let _alive = self.living()?;
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let _alive = self.living()?;
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let _alive = self.living()?;
        self.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _alive = self.living()?;
        self.disk.sync_dir(dir)
    }
}

#[derive(Debug)]
struct SessionFile {
    session: Session,
    file: Arc<dyn File>,
}

impl File for SessionFile {
    fn len(&self) -> io::Result<u64> {
        let _alive = self.session.living()?;
        self.file.len()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let _alive = self.session.living()?;
        self.file.read_exact_at(out, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let _alive = self.session.living()?;
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _alive = self.session.living()?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let _alive = self.session.living()?;
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut state = self.session.syncs.state.lock().unwrap();
            state.begun += 1;
            self.session.syncs.changed.notify_all();
            let state = self.session.syncs.changed.wait_while(state, |state| state.held).unwrap();
            if state.fail {
                return Err(io::Error::other("the sync was made to fail"));
            }
        }
        let _alive = self.session.living()?;
        self.file.sync_data()
    }
}
