//! A file system that forgets what was not synced: the faulty disk of the lower crates' tests ([`FaultyDisk`]), mounted
//! through FUSE, so that the real binary runs on it.
//!
//! 1. What is written is seen at once. After [`Lossy::crash`] the files hold what was synced, the directories the names that
//!    were synced, and, with a seed, a part of all that was not: any of its 512-byte sectors, any change of length, the first
//!    few of the renames. A directory itself is there from when it is made.
//! 2. Files are opened for direct input and output, and attributes and names are never cached: every write reaches the
//!    disk before it returns, and nothing that a crash has taken is read from the kernel's memory. Locks are the kernel's.
//! 3. [`Lossy::ignore_syncs`] acknowledges a sync and does nothing: a test that finds no loss then would find none ever.

#![allow(clippy::unwrap_used)]

mod tree;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use storage::fs::{Disk, File, faulty::FaultyDisk};

use self::tree::Tree;

/// Nothing is cached.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);

/// A mounted file system. It is unmounted when it is dropped.
pub(crate) struct Lossy {
    disk: FaultyDisk,
    switches: Arc<Switches>,
    _session: BackgroundSession,
}

#[derive(Debug, Default)]
struct Switches {
    ignores_syncs: AtomicBool,
    syncs: AtomicU64,
}

impl Lossy {
    /// Mounts an empty file system; none where that is not permitted: without `/dev/fuse`, or without the right to mount.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        let disk = FaultyDisk::new();
        let switches = Arc::<Switches>::default();
        let filesystem = Bridge::new(disk.clone(), switches.clone());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("insidb-lossy".to_owned()), MountOption::NoAtime];
        match fuser::spawn_mount(filesystem, at, &config) {
            Ok(session) => Some(Self { disk, switches, _session: session }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => None,
            Err(error) => panic!("mounting on {}: {error}", at.display()),
        }
    }

    /// Loses what was not synced: all of it, or what the seed says. Every file that is open is dead from then on.
    pub(crate) fn crash(&self, seed: Option<u64>) {
        match seed {
            None => self.disk.crash(),
            Some(seed) => self.disk.crash_torn(seed),
        }
    }

    /// From now on syncs are acknowledged and not done.
    pub(crate) fn ignore_syncs(&self) {
        self.switches.ignores_syncs.store(true, Ordering::SeqCst);
    }

    /// How many syncs of files and directories were asked for.
    pub(crate) fn syncs(&self) -> u64 {
        self.switches.syncs.load(Ordering::SeqCst)
    }
}

/// What the kernel asks, as calls of the disk.
struct Bridge {
    disk: FaultyDisk,
    switches: Arc<Switches>,
    state: Mutex<State>,
}

struct State {
    tree: Tree,
    open: BTreeMap<u64, Arc<dyn File>>,
    next_handle: u64,
}

impl State {
    fn keep(&mut self, file: Arc<dyn File>) -> FileHandle {
        self.next_handle += 1;
        self.open.insert(self.next_handle, file);
        FileHandle(self.next_handle)
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<dyn File>> {
        self.open.get(&handle.0).cloned().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Bridge {
    fn new(disk: FaultyDisk, switches: Arc<Switches>) -> Self {
        disk.create_dir(Path::new("/")).unwrap();
        let state = State { tree: Tree::new(), open: BTreeMap::new(), next_handle: 0 };
        Self { disk, switches, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_sync_ignored(&self) -> bool {
        self.switches.syncs.fetch_add(1, Ordering::SeqCst);
        self.switches.ignores_syncs.load(Ordering::SeqCst)
    }

    fn attributes(&self, number: u64, path: &Path) -> io::Result<FileAttr> {
        if self.state().tree.is_dir(path) {
            return Ok(attributes(number, FileType::Directory, 0));
        }
        Ok(attributes(number, FileType::RegularFile, self.disk.open(path)?.len()?))
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (number, path) = self.state().tree.child(parent.0, name)?;
        self.attributes(number, &path)
    }

    fn path(&self, number: INodeNo) -> io::Result<std::path::PathBuf> {
        self.state().tree.path(number.0)
    }

    fn set_len(&self, number: INodeNo, handle: Option<FileHandle>, len: u64) -> io::Result<()> {
        match handle {
            Some(handle) => self.state().file(handle)?.set_len(len),
            None => self.disk.open(&self.path(number)?)?.set_len(len),
        }
    }

    fn create(&self, parent: INodeNo, name: &OsStr) -> io::Result<(FileAttr, FileHandle)> {
        let (number, path) = self.state().tree.child(parent.0, name)?;
        let file = self.disk.create(&path)?;
        Ok((attributes(number, FileType::RegularFile, 0), self.state().keep(file)))
    }

    fn make_dir(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (number, path) = self.state().tree.child(parent.0, name)?;
        self.disk.create_dir(&path)?;
        self.state().tree.add_dir(path);
        Ok(attributes(number, FileType::Directory, 0))
    }

    fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> io::Result<()> {
        let (from, to) = {
            let mut state = self.state();
            (state.tree.child(from.0.0, from.1)?.1, state.tree.child(to.0.0, to.1)?.1)
        };
        self.disk.rename(&from, &to)?;
        self.state().tree.rename(&from, &to);
        Ok(())
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> io::Result<()> {
        let (_, path) = self.state().tree.child(parent.0, name)?;
        self.disk.remove(&path)
    }

    fn read(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let file = self.state().file(handle)?;
        let bytes = file.len()?.saturating_sub(offset).min(u64::from(size));
        let mut out = vec![0; usize::try_from(bytes).unwrap()];
        file.read_exact_at(&mut out, offset)?;
        Ok(out)
    }

    fn names(&self, number: INodeNo) -> io::Result<Vec<(u64, FileType, String)>> {
        let path = self.path(number)?;
        let files = self.disk.list(&path)?;
        let mut state = self.state();
        let mut names: Vec<_> = [".", ".."].map(|name| (number.0, FileType::Directory, name.to_owned())).into();
        for name in state.tree.dirs_in(&path) {
            names.push((state.tree.child(number.0, OsStr::new(&name))?.0, FileType::Directory, name));
        }
        for name in files {
            names.push((state.tree.child(number.0, OsStr::new(&name))?.0, FileType::RegularFile, name));
        }
        Ok(names)
    }
}

fn attributes(number: u64, kind: FileType, bytes: u64) -> FileAttr {
    let is_dir = kind == FileType::Directory;
    FileAttr {
        ino: INodeNo(number),
        size: bytes,
        blocks: bytes.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if is_dir { 0o700 } else { 0o600 },
        nlink: if is_dir { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn done(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// The disk's errors carry kinds only.
fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::NotFound => Errno::ENOENT,
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        io::ErrorKind::InvalidInput => Errno::EBADF,
        _ => Errno::EIO,
    }
}

impl Filesystem for Bridge {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = match handle {
            Some(handle) => {
                let file = self.state().file(handle);
                file.and_then(|file| Ok(attributes(ino.0, FileType::RegularFile, file.len()?)))
            }
            None => self.path(ino).and_then(|path| self.attributes(ino.0, &path)),
        };
        match found {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size.map_or(Ok(()), |size| self.set_len(ino, handle, size)) {
            Ok(()) => self.getattr(request, ino, handle, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        match self.make_dir(parent, name) {
            Ok(made) => reply.entry(&TTL, &made, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.is_empty() {
            done(reply, self.rename((parent, name), (newparent, newname)));
        } else {
            reply.error(Errno::EINVAL);
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.path(ino).and_then(|path| self.disk.open(&path)) {
            Ok(file) => reply.opened(self.state().keep(file), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create(parent, name) {
            Ok((made, handle)) => reply.created(&TTL, &made, GENERATION, handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self.state().file(handle);
        match file.and_then(|file| file.write_all_at(data, offset)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _ino: INodeNo, _handle: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Nothing is held back; a close is no sync.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let closed = self.state().open.remove(&handle.0);
        drop(closed);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if self.is_sync_ignored() {
            return reply.ok();
        }
        let file = self.state().file(handle);
        done(reply, file.and_then(|file| file.sync_data()));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if self.is_sync_ignored() {
            return reply.ok();
        }
        done(reply, self.path(ino).and_then(|path| self.disk.sync_dir(&path)));
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let file = self.state().file(handle);
        done(reply, file.and_then(|file| file.allocate(offset + length)));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.names(ino) {
            Ok(names) => {
                let from = usize::try_from(offset).unwrap();
                for (place, (number, kind, name)) in names.into_iter().enumerate().skip(from) {
                    if reply.add(INodeNo(number), place as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(&error)),
        }
    }
}
