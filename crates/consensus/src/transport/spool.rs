//! A snapshot on its way in, kept until it is whole: in a file for the durable group, in memory for the other.
//!
//! A transfer that breaks goes on where it broke, also under another leader: a state at one place in the log exports the
//! same bytes everywhere, so the place names the transfer. A spool does not outlive the process.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::types::LogId;

/// The spool's file in the directory that a group is given for it.
const FILE: &str = "snapshot.part";
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
    /// An empty spool for the snapshot at `log_id`, in a file below `dir`, or in memory.
    pub(crate) fn new(log_id: Option<LogId>, dir: Option<&Path>) -> io::Result<Self> {
        let content = match dir {
            None => Content::Memory(Vec::new()),
            Some(dir) => {
                let path = dir.join(FILE);
                let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
                Content::File { file, path }
            }
        };
        Ok(Self { log_id, bytes: 0, content })
    }

    /// Removes what an earlier process has left in `dir`.
    pub(crate) fn remove_stale(dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
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
