//! Which number the kernel knows a path by.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

/// The number of the root, as FUSE has it.
const ROOT: u64 = 1;

/// Numbers for paths. A path keeps its number when its file goes and another comes: nothing is cached under it.
pub(super) struct Tree {
    paths: BTreeMap<u64, PathBuf>,
    numbers: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    next: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = PathBuf::from("/");
        Self {
            paths: BTreeMap::from([(ROOT, root.clone())]),
            numbers: BTreeMap::from([(root.clone(), ROOT)]),
            dirs: BTreeSet::from([root]),
            next: ROOT + 1,
        }
    }

    /// The path of a number that was given out.
    pub(super) fn path(&self, number: u64) -> io::Result<PathBuf> {
        self.paths.get(&number).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A name in a directory, whether there is anything by it or not.
    pub(super) fn child(&mut self, parent: u64, name: &OsStr) -> io::Result<(u64, PathBuf)> {
        let path = self.path(parent)?.join(name);
        let number = *self.numbers.entry(path.clone()).or_insert(self.next);
        if number == self.next {
            self.next += 1;
            self.paths.insert(number, path.clone());
        }
        Ok((number, path))
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains(path)
    }

    pub(super) fn add_dir(&mut self, path: PathBuf) {
        self.dirs.insert(path);
    }

    /// The names of the directories in a directory.
    pub(super) fn dirs_in(&self, path: &Path) -> Vec<String> {
        let below = self.dirs.iter().filter(|dir| dir.parent() == Some(path));
        below.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())).collect()
    }

    /// Follows a rename: the file that moved keeps its number, under its new path.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let (Some(moved), Some(replaced)) = (self.numbers.remove(from), self.numbers.remove(to)) else { return };
        self.paths.remove(&replaced);
        self.paths.insert(moved, to.to_owned());
        self.numbers.insert(to.to_owned(), moved);
    }
}
