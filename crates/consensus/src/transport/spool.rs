//! A snapshot on its way in, kept until it is whole: in a file for the durable group, in memory for the other.
//!
//! A transfer that breaks goes on where it broke. A state at one place in the log exports the same bytes everywhere, so
//! the place names the transfer, and another leader can go on with it. As a rule another leader has its own checkpoint, at
//! another place, and then all comes anew: two exports of different places have no common beginning, and a change of
//! leaders in the middle of a transfer is rare. Should the bytes differ all the same, the check of the whole finds it
//! before anything is installed. A spool does not outlive the process.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::types::LogId;

/// What the names of the spools' files begin and end with. Between the two stands a number: a file that is being removed
/// late, or read by an installation, is never the next one's.
const FILE_PREFIX: &str = "snapshot";
const FILE_SUFFIX: &str = ".part";
/// How much is read from the spool at a time, in bytes.
const PIECE_BYTES: usize = 262_144;

/// What has arrived of one snapshot.
pub(crate) struct Spool {
    log_id: Option<LogId>,
    bytes: u64,
    content: Content,
}

enum Content {
    Memory(Vec<Bytes>),
    File { file: File, path: PathBuf },
}

impl Spool {
    /// An empty spool for the snapshot at `log_id`, in a file below `dir`, or in memory. No other spool of this process
    /// has the `number`.
    pub(crate) fn new(log_id: Option<LogId>, dir: Option<&Path>, number: u64) -> io::Result<Self> {
        let content = match dir {
            None => Content::Memory(Vec::new()),
            Some(dir) => {
                let path = dir.join(format!("{FILE_PREFIX}-{number}{FILE_SUFFIX}"));
                let file = File::options().create_new(true).write(true).open(&path)?;
                Content::File { file, path }
            }
        };
        Ok(Self { log_id, bytes: 0, content })
    }

    /// Removes what an earlier process has left in `dir`.
    pub(crate) fn remove_stale(dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_spool =
                name.to_str().is_some_and(|name| name.starts_with(FILE_PREFIX) && name.ends_with(FILE_SUFFIX));
            if is_spool {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The snapshot that this is of.
    pub(crate) fn log_id(&self) -> Option<LogId> {
        self.log_id
    }

    /// How many bytes have arrived.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what came next.
    pub(crate) fn push(&mut self, piece: Bytes) -> io::Result<()> {
        let bytes = piece.len() as u64;
        match &mut self.content {
            Content::Memory(pieces) => pieces.push(piece),
            Content::File { file, .. } => file.write_all(&piece)?,
        }
        self.bytes += bytes;
        Ok(())
    }

    /// All of it from the beginning, in pieces. Blocks while the disk reads.
    pub(crate) fn pieces(self: &Arc<Self>) -> io::Result<Pieces> {
        let file = match &self.content {
            Content::Memory(_) => None,
            Content::File { path, .. } => Some(File::open(path)?),
        };
        Ok(Pieces { spool: self.clone(), file, next: 0 })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Content::File { path, .. } = &self.content {
            // What stays is removed at the next start.
            drop(std::fs::remove_file(path));
        }
    }
}

/// A spool's content, from its beginning.
pub(crate) struct Pieces {
    spool: Arc<Spool>,
    file: Option<File>,
    next: usize,
}

impl Iterator for Pieces {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        match (&self.spool.content, &mut self.file) {
            (Content::Memory(pieces), _) => {
                let piece = pieces.get(self.next)?.to_vec();
                self.next += 1;
                Some(Ok(piece))
            }
            (Content::File { .. }, Some(file)) => {
                let mut piece = vec![0; PIECE_BYTES];
                match file.read(&mut piece) {
                    Ok(0) => None,
                    Ok(bytes) => {
                        piece.truncate(bytes);
                        Some(Ok(piece))
                    }
                    Err(error) => Some(Err(error)),
                }
            }
            (Content::File { .. }, None) => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn content(spool: Spool) -> Vec<u8> {
        Arc::new(spool).pieces().unwrap().collect::<io::Result<Vec<_>>>().unwrap().concat()
    }

    #[test]
    fn spools_of_one_snapshot_have_nothing_in_common_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Spool::new(None, Some(dir.path()), 1).unwrap();
        first.push(Bytes::from_static(b"one")).unwrap();
        let mut second = Spool::new(None, Some(dir.path()), 2).unwrap();
        second.push(Bytes::from_static(b"the other")).unwrap();
        assert_eq!(content(first), b"one");
        assert_eq!(content(second), b"the other");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_an_earlier_process_spooled_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["snapshot.part", "snapshot-7.part", "values.redb", "snapshot"] {
            std::fs::write(dir.path().join(name), "content").unwrap();
        }
        Spool::remove_stale(dir.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["snapshot", "values.redb"]);
    }
}
