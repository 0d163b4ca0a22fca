//! The witness: a small file beside the segments that says up to where the log surely was durable.
//!
//! The marks in the log's own stream prove damage to all that lies before them, but the last mark lies right behind the
//! last batch, as a rule in the same sector: one sector that goes bad, or an older copy of the newest segment in its
//! place, takes both. So what the last mark says is told here as well, when the log falls idle and when it is closed,
//! and a log that ends before that is refused.
//!
//! It is written in place, in one sector. One that is torn, damaged, lost, older, or another log's proves nothing, and does
//! no harm: it is never needed to read the log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use storage::fs::{self, Disk, File};

use super::{Error, record::Place, segment::Identity};

const NAME: &str = "witness";
const MAGIC: [u8; 8] = *b"INSIDWIT";
const VERSION: u32 = 1;
/// Magic, version, segment, offset, CRC-32C.
const BYTES: usize = 8 + 4 + 8 + 8 + 4;

/// The witness as the sync thread tells it.
pub(super) struct Witness {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    file: Option<Arc<dyn File>>,
    told: Place,
}

impl Witness {
    /// Writes nothing yet.
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, identity: Identity) -> Self {
        Self { disk, dir: dir.to_owned(), identity, file: None, told: Place::default() }
    }

    /// Makes the file while there is room, for the day when there is none; it says nothing yet. On a full disk it is left
    /// out.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        if self.disk.list(&self.dir)?.iter().any(|name| name == NAME) {
            return Ok(());
        }
        match self.make(&[0; BYTES]) {
            Err(error) if fs::is_full(&error) => Ok(()),
            made => made,
        }
    }

    fn make(&mut self, content: &[u8; BYTES]) -> io::Result<()> {
        let path = self.dir.join(NAME);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(&path)?,
            opened => opened?,
        };
        file.write_all_at(content, 0)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        self.file = Some(file);
        Ok(())
    }

    /// Whether it has not been told of `place` yet.
    pub(super) fn has_news(&self, place: Place) -> bool {
        self.told < place
    }

    /// Makes durable that the log is durable up to `place`. On a full disk, where the file cannot be made, it is left out.
    pub(super) fn tell(&mut self, place: Place) -> io::Result<()> {
        match self.write(place) {
            Err(error) if fs::is_full(&error) => Ok(()),
            Err(error) => {
                let path = self.dir.join(NAME);
                Err(io::Error::new(error.kind(), format!("write to {}: {error}", path.display())))
            }
            Ok(()) => {
                self.told = place;
                Ok(())
            }
        }
    }

    fn write(&mut self, place: Place) -> io::Result<()> {
        let content = encode(place, &self.identity);
        if let Some(file) = &self.file {
            file.write_all_at(&content, 0)?;
            return file.sync_data();
        }
        self.make(&content)
    }
}

/// What the witness in `dir`, which holds files of these `names`, says; none when it says nothing that can be relied on.
pub(super) fn read(disk: &dyn Disk, dir: &Path, names: &[String], identity: &Identity) -> Result<Option<Place>, Error> {
    if !names.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let path = dir.join(NAME);
    let mut content = [0; BYTES];
    match disk.open(&path).and_then(|file| file.read_exact_at(&mut content, 0)) {
        Ok(()) => Ok(decode(&content, identity)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::Io { what: "read", path, source }),
    }
}

fn encode(place: Place, identity: &Identity) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&place.segment.to_le_bytes());
    out[20..28].copy_from_slice(&place.offset.to_le_bytes());
    let crc = checksum(&out[..28], identity);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(content: &[u8; BYTES], identity: &Identity) -> Option<Place> {
    let (fields, crc) = content.split_last_chunk::<4>()?;
    let version = u32::from_le_bytes(fields[8..12].try_into().ok()?);
    let is_ours = fields[..8] == MAGIC && version == VERSION && u32::from_le_bytes(*crc) == checksum(fields, identity);
    let number = |at: usize| Some(u64::from_le_bytes(fields[at..at + 8].try_into().ok()?));
    if is_ours { Some(Place { segment: number(12)?, offset: number(20)? }) } else { None }
}

/// Over the identity too, so that another log's witness proves nothing about this one.
fn checksum(fields: &[u8], identity: &Identity) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(identity.as_bytes()), fields)
}
