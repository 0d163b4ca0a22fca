//! The disk of the operating system.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, retry_on_intr},
};

use super::{Disk, File};

/// Zeros are written in pieces of this size where the file system cannot reserve space.
const ZEROS_BYTES: usize = 256 * 1024;

/// The operating system's own files and directories.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct OsFile(fs::File);

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
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
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| fallocate(&self.0, FallocateFlags::empty(), 0, len)) {
            // Not every file system can reserve: there, space is had by writing to it.
            Err(Errno::OPNOTSUPP) => write_zeros(&self.0, self.len()?, len),
            result => Ok(result?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn write_zeros(file: &fs::File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = from;
    while at < to {
        let piece = (to - at).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_and_directories_are_private_and_listed_in_order() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        OsDisk.create_dir(&dir).unwrap();
        OsDisk.create(&dir.join("two")).unwrap();
        OsDisk.create(&dir.join("one")).unwrap();
        OsDisk.create_dir(&dir.join("nested")).unwrap();
        OsDisk.rename(&dir.join("two"), &dir.join("zwei")).unwrap();
        OsDisk.sync_dir(&dir).unwrap();
        assert_eq!(OsDisk.list(&dir).unwrap(), ["one", "zwei"]);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(dir.join("one")).unwrap().permissions().mode() & 0o777, 0o600);
        OsDisk.remove(&dir.join("one")).unwrap();
        assert_eq!(OsDisk.open(&dir.join("one")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn allocating_keeps_the_content_and_extends_with_zeros() {
        let root = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&root.path().join("file")).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        file.allocate(5000).unwrap();
        file.allocate(3).unwrap();
        assert_eq!(file.len().unwrap(), 5000);
        let mut out = [1; 9];
        file.read_exact_at(&mut out, 0).unwrap();
        assert_eq!(&out, b"content\0\0");
        assert_eq!(file.read_exact_at(&mut out, 4999).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn zeros_are_written_where_space_cannot_be_reserved() {
        let root = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&root.path().join("file")).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        let raw = OpenOptions::new().write(true).open(root.path().join("file")).unwrap();
        write_zeros(&raw, 7, 300_000).unwrap();
        let content = fs::read(root.path().join("file")).unwrap();
        assert_eq!(content.len(), 300_000);
        assert!(content.starts_with(b"content\0") && content[7..].iter().all(|byte| *byte == 0));
    }
}
