//! The disk below one process: it dies with it, in the middle of an operation when told to, fails, fills up, and rots.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use storage::fs::{Disk, File, faulty::FaultyDisk};

use crate::dice::Dice;

/// What shall happen to a process's disk.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    /// The operation at which machine and process die, and the seed of what is left.
    crash_at: Option<(u64, u64)>,
    /// The operation that fails.
    fail_at: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    disk: FaultyDisk,
    is_dead: AtomicBool,
    operations: AtomicU64,
    plan: Mutex<Plan>,
}

/// One life of a process on a disk. The disk beneath stays.
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<Shared>);

impl Life {
    pub(crate) fn new(disk: &FaultyDisk) -> Self {
        let (is_dead, operations) = (AtomicBool::new(false), AtomicU64::new(0));
        Self(Arc::new(Shared { disk: disk.clone(), is_dead, operations, plan: Mutex::default() }))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends process and machine now; some of what was not synced survives, by the seed.
    pub(crate) fn crash(&self, torn: u64) {
        if !self.0.is_dead.swap(true, Ordering::Relaxed) {
            self.0.disk.crash_torn(torn);
        }
    }

    /// Ends the process alone: the operating system keeps what was written.
    pub(crate) fn kill(&self) {
        self.0.is_dead.store(true, Ordering::Relaxed);
    }

    /// Ends process and machine so many operations from now.
    pub(crate) fn crash_after(&self, operations: u64, torn: u64) {
        self.plan().crash_at = Some((self.0.operations.load(Ordering::Relaxed) + operations, torn));
    }

    /// Lets an operation so far from now fail.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.plan().fail_at = Some(self.0.operations.load(Ordering::Relaxed) + operations);
    }

    /// What was to come and has not does not come any more.
    pub(crate) fn disarm(&self) {
        let mut plan = self.plan();
        (plan.crash_at, plan.fail_at) = (None, None);
    }

    /// Whether the process has died with its disk.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.is_dead.load(Ordering::Relaxed)
    }

    fn begin(&self) -> io::Result<()> {
        let number = self.0.operations.fetch_add(1, Ordering::Relaxed);
        let plan = *self.plan();
        match plan.crash_at {
            Some((at, torn)) if at <= number => self.crash(torn),
            Some(_) | None => {}
        }
        if self.is_dead() {
            return Err(io::Error::other("the machine has crashed"));
        }
        match plan.fail_at {
            Some(at) if at == number => Err(io::Error::from_raw_os_error(5)),
            Some(_) | None => Ok(()),
        }
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(LifeFile { life: self.clone(), file })
    }
}

impl Disk for Life {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.begin()?;
        Ok(self.file(self.0.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.begin()?;
        Ok(self.file(self.0.disk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin()?;
        self.0.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin()?;
        self.0.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.begin()?;
        self.0.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin()?;
        self.0.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin()?;
        self.0.disk.sync_dir(dir)
    }
}

#[derive(Debug)]
struct LifeFile {
    life: Life,
    file: Arc<dyn File>,
}

impl File for LifeFile {
    fn len(&self) -> io::Result<u64> {
        self.life.begin()?;
        self.file.len()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.life.begin()?;
        self.file.read_exact_at(out, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.life.begin()?;
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.life.begin()?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.life.begin()?;
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.life.begin()?;
        self.file.sync_data()
    }
}

/// Flips a bit of a file of a node that is down; answers which file, when there was one with content.
pub(crate) fn rot(disk: &FaultyDisk, dirs: &[PathBuf], dice: &mut Dice) -> io::Result<Option<PathBuf>> {
    let mut files = Vec::new();
    for dir in dirs {
        files.extend(disk.list(dir).unwrap_or_default().into_iter().map(|name| dir.join(name)));
    }
    if files.is_empty() {
        return Ok(None);
    }
    let path = dice.pick(&files).clone();
    let file = disk.open(&path)?;
    let length = file.len()?;
    if length == 0 {
        return Ok(None);
    }
    let at = dice.below(length);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << dice.below(8);
    file.write_all_at(&byte, at)?;
    file.sync_data()?;
    Ok(Some(path))
}
