//! A disk in memory for tests: it crashes, tears, fails and fills up when told to, and only then.
//!
//! 1. What is written is seen at once. It survives a [`crash`](FaultyDisk::crash) only after `sync_data`; a creation,
//!    a rename or a removal only after `sync_dir`.
//! 2. [`FaultyDisk::crash_torn`] keeps some of what was not synced too, as a real disk may: any of the 512-byte
//!    sectors written, any change of length, the first few of the renames.
//! 3. Handles that were open at a crash are dead: a process that has crashed writes nothing more.

mod inode;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::inode::Inode;
use super::{Disk, File};

/// Space is given out in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory. A clone is the same disk.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    crashes: u64,
    operations: u64,
    failure: Option<(u64, ErrorKind)>,
    capacity_bytes: Option<u64>,
    syncs: u64,
    unsynced_bytes_most: u64,
}

/// A change of a directory that is not durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, u64),
    Remove(PathBuf),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(path, inode) => names.insert(path, inode),
            Self::Remove(path) => names.remove(&path),
        };
    }
}

impl FaultyDisk {
    /// An empty disk without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses everything that was not synced, and every open handle.
    pub fn crash(&self) {
        self.lock().crash(None);
    }

    /// As [`FaultyDisk::crash`], but keeps a part of what was not synced, chosen by `seed`.
    pub fn crash_torn(&self, seed: u64) {
        self.lock().crash(Some(Dice(seed)));
    }

    /// Lets the operation number `operation` of the disk fail, counted as [`FaultyDisk::operations`] does.
    pub fn fail_at(&self, operation: u64, error: ErrorKind) {
        self.lock().failure = Some((operation, error));
    }

    /// How many operations the disk has begun: the next one has this number.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Limits the disk to `bytes`, in blocks of 4096; none for no limit. What is used already stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity_bytes = bytes;
    }

    /// The bytes in use, in whole blocks.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// How often a file was synced.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The most that was written to a file before it was synced, in bytes.
    pub fn unsynced_bytes_most(&self) -> u64 {
        self.lock().unsynced_bytes_most
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation, which may be the one that fails.
    fn begin(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.operations += 1;
        match state.failure {
            Some((at, error)) if at + 1 == state.operations => Err(error.into()),
            Some(_) | None => Ok(state),
        }
    }

    fn handle(&self, state: &mut State, number: u64) -> Arc<dyn File> {
        state.inodes.get_mut(&number).expect("a name leads to a file").handles += 1;
        Arc::new(FaultyFile { disk: self.clone(), number, born: state.crashes })
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.begin()?;
        let number = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(self.handle(&mut state, number))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.begin()?;
        state.expect_dir(path.parent())?;
        if let Some(&number) = state.names.get(path) {
            state.inode(number).set_len(0);
            return Ok(self.handle(&mut state, number));
        }
        let number = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(number, Inode::default());
        state.change(NameChange::Set(path.to_owned(), number));
        Ok(self.handle(&mut state, number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin()?;
        state.expect_dir(to.parent())?;
        let number = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        state.change(NameChange::Set(to.to_owned(), number));
        state.change(NameChange::Remove(from.to_owned()));
        state.forget_unused();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin()?;
        if !state.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        state.change(NameChange::Remove(path.to_owned()));
        state.forget_unused();
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.begin()?;
        state.expect_dir(Some(dir))?;
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin()?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin()?;
        state.expect_dir(Some(dir))?;
        let changes = std::mem::take(&mut state.name_changes);
        for change in changes {
            if change.dir() == Some(dir) {
                change.apply(&mut state.durable_names);
            } else {
                state.name_changes.push(change);
            }
        }
        state.forget_unused();
        Ok(())
    }
}

impl State {
    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("an open file is kept")
    }

    fn expect_dir(&self, dir: Option<&Path>) -> io::Result<()> {
        if dir.is_some_and(|dir| self.dirs.contains(dir)) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(change);
    }

    /// Drops the files that have no handle and no name, now or after a crash.
    fn forget_unused(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        named.extend(self.name_changes.iter().filter_map(|change| match change {
            NameChange::Set(_, number) => Some(*number),
            NameChange::Remove(_) => None,
        }));
        self.inodes.retain(|number, inode| inode.handles > 0 || named.contains(number));
    }

    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let used = self.inodes.iter().filter(|(number, inode)| inode.handles > 0 || named.contains(number));
        used.map(|(_, inode)| inode.blocks() * BLOCK_BYTES).sum()
    }

    /// Gives the blocks of `start..end` to a file, all or none.
    fn claim(&mut self, number: u64, start: u64, end: u64) -> io::Result<()> {
        let missing = self.inode(number).missing_blocks(start, end);
        if let Some(capacity_bytes) = self.capacity_bytes
            && !missing.is_empty()
            && self.used_bytes() + missing.len() as u64 * BLOCK_BYTES > capacity_bytes
        {
            return Err(ErrorKind::StorageFull.into());
        }
        self.inode(number).give_blocks(missing);
        Ok(())
    }

    fn crash(&mut self, mut dice: Option<Dice>) {
        self.crashes += 1;
        self.failure = None;
        let changes = std::mem::take(&mut self.name_changes);
        let kept = dice.as_mut().map_or(0, |dice| dice.below(changes.len() as u64 + 1) as usize);
        for change in changes.into_iter().take(kept) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.crash(dice.as_mut());
        }
        self.forget_unused();
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    number: u64,
    born: u64,
}

impl FaultyFile {
    fn begin(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.begin()?;
        if state.crashes == self.born { Ok(state) } else { Err(io::Error::other("the machine has crashed")) }
    }
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.begin()?.inode(self.number).content().len() as u64)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.begin()?;
        let content = state.inode(self.number).content();
        let start = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content.get(start..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.begin()?;
        state.claim(self.number, offset, offset + data.len() as u64)?;
        let unsynced_bytes = state.inode(self.number).write(data, offset);
        state.unsynced_bytes_most = state.unsynced_bytes_most.max(unsynced_bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.begin()?.inode(self.number).set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.begin()?;
        state.claim(self.number, 0, len)?;
        let inode = state.inode(self.number);
        if (inode.content().len() as u64) < len {
            inode.set_len(len);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.begin()?;
        state.syncs += 1;
        state.inode(self.number).sync();
        Ok(())
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.crashes == self.born {
            state.inode(self.number).handles -= 1;
            state.forget_unused();
        }
    }
}

/// A small random generator (splitmix64): the same seed, the same crash.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }
}
