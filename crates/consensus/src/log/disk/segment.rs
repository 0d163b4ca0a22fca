//! A segment: one file of the log, of a fixed size, and its header.
//!
//! A segment is made whole before it is named: zeros under a temporary name, synced, renamed. So no write to it
//! ever changes the file system's own records, and a sync costs one write of the disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use storage::fs::{Disk, File, UNSYNCED_BYTES_MAX};

use super::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, record::Life};

/// What the header takes at the start of a segment.
pub(super) const HEADER_BYTES: usize = 128;
/// Segments are multiples of this, and batches are padded to it: pages of the operating system's cache.
pub(super) const PAGE_BYTES: u64 = 4096;

const MAGIC: [u8; 8] = *b"INSIDLOG";
const VERSION: u32 = 1;
const IDENTITY_BYTES_MAX: usize = 64;
const ZEROS: &[u8] = &[0; UNSYNCED_BYTES_MAX as usize];

/// Whose log it is: written into every segment, so that the files of two logs, nodes or clusters cannot be mixed.
/// It should hold something that tenants do not know (the data directory's random id), since it is also what
/// keeps a tenant from forging a record inside a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Vec<u8>);

impl Identity {
    /// An identity of `1..=64` bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        (1..=IDENTITY_BYTES_MAX).contains(&bytes.len()).then_some(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a segment may have so many bytes.
pub(super) fn is_size(bytes: u64) -> bool {
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(PAGE_BYTES)
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its sequence number: never used twice by one log.
    pub(super) seq: u64,
    /// What its CRCs start from.
    pub(super) life: Life,
    /// Its size.
    pub(super) bytes: u64,
    /// Its name, for errors and for the end of its life.
    pub(super) path: PathBuf,
    /// Its content.
    pub(super) file: Arc<dyn File>,
}

/// What a file's name in the log's directory says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// The segment of this number, in use or next to be used.
    Segment(u64),
    /// A segment that has been, kept to be used again.
    Spare(u64),
    /// A segment that was not whole yet.
    Unfinished(u64),
}

impl Name {
    /// What `name` says; none for a name that is not the log's.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, kind) = name.split_once('.')?;
        let seq = u64::from_str_radix(number, 16).ok().filter(|seq| format!("{seq:016x}") == number)?;
        match kind {
            "log" => Some(Self::Segment(seq)),
            "spare" => Some(Self::Spare(seq)),
            "tmp" => Some(Self::Unfinished(seq)),
            _ => None,
        }
    }

    /// The file's path in `dir`.
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Self::Segment(seq) => format!("{seq:016x}.log"),
            Self::Spare(seq) => format!("{seq:016x}.spare"),
            Self::Unfinished(seq) => format!("{seq:016x}.tmp"),
        })
    }
}

/// Makes the segment `seq` of `bytes` zeros. When it fails, nothing is left of it.
pub(super) fn create(disk: &dyn Disk, dir: &Path, identity: &Identity, seq: u64, bytes: u64) -> io::Result<Segment> {
    let unfinished = Name::Unfinished(seq).path(dir);
    let filled = fill(disk, &unfinished, bytes);
    let file = filled.inspect_err(|_| {
        // The space may be what others wait for. When even this fails, the next start removes the file.
        let _ = disk.remove(&unfinished);
    })?;
    let path = Name::Segment(seq).path(dir);
    disk.rename(&unfinished, &path)?;
    disk.sync_dir(dir)?;
    Ok(Segment { seq, life: Life::new(identity, seq), bytes, path, file })
}

fn fill(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.create(path)?;
    let mut offset = 0;
    while offset < bytes {
        let piece = usize::try_from(bytes - offset).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..piece], offset)?;
        file.sync_data()?;
        offset += piece as u64;
    }
    Ok(file)
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The format version.
    pub(super) version: u32,
    /// The sequence number of the segment's present life.
    pub(super) seq: u64,
    /// The segment's size.
    pub(super) bytes: u64,
    /// Whose log it is.
    pub(super) identity: Identity,
}

impl Header {
    /// The header of a segment that begins now.
    pub(super) fn new(segment: &Segment, identity: &Identity) -> Self {
        Self { version: VERSION, seq: segment.seq, bytes: segment.bytes, identity: identity.clone() }
    }

    /// Whether this version can read the segment.
    pub(super) fn is_readable(&self) -> bool {
        self.version == VERSION
    }

    /// Its bytes: magic, version, identity's length, sequence number, size, identity, zeros, CRC-32C of the rest.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let identity = self.identity.as_bytes();
        let length = u32::try_from(identity.len()).expect("an identity is short");
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&length.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        out[32..32 + identity.len()].copy_from_slice(identity);
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of `content`; none when there is no whole, undamaged one.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        let header = content.first_chunk::<HEADER_BYTES>()?;
        let (fields, crc) = header.split_last_chunk::<4>()?;
        if fields[..8] != MAGIC || u32::from_le_bytes(*crc) != crc32c::crc32c(fields) {
            return None;
        }
        let length = usize::try_from(u32::from_le_bytes(fields[12..16].try_into().ok()?)).ok()?;
        Some(Self {
            version: u32::from_le_bytes(fields[8..12].try_into().ok()?),
            seq: u64::from_le_bytes(fields[16..24].try_into().ok()?),
            bytes: u64::from_le_bytes(fields[24..32].try_into().ok()?),
            identity: Identity::new(fields[32..].get(..length)?)?,
        })
    }
}
