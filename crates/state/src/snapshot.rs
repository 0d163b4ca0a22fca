//! A whole state on its way to another node: versioned, checksummed, as a stream of bytes.
//!
//! 1. [`Reader::export`](crate::query::Reader::export) walks over one view and yields frames of about [`FRAME_BYTES`]: a header (format version,
//!    applied row), then rows in ascending order of their keys, then a trailer (the number of rows).
//! 2. They travel as bytes: who carries them may cut and join them anywhere.
//! 3. [`StateMachine::install`](crate::apply::StateMachine::install) feeds them to the engine, which replaces its whole
//!    content atomically, checking each frame before any of its rows is used, and in the end that all rows are there and
//!    hash to what the header says. After any error the engine is as before.
//!
//! A frame is its body's length (u32, little-endian), its kind (1 byte), its body, and the XXH3 of all of that, seeded
//! with the frame's number, so that a frame missing or in a wrong place is noticed where it happens.

mod export;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod import;

use storage::{Engine, Row};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::export::Export;
use self::import::Import;
use crate::{
    applied::Applied,
    ids::Keyspace,
    layout::{self, APPLIED_KEY},
    outcome::Fault,
};

/// A frame takes no further row once its body holds this many bytes.
pub const FRAME_BYTES: usize = 262_144;
/// The longest body that an import believes: [`FRAME_BYTES`] and one row of the greatest key and value there can be.
const FRAME_BYTES_MAX: usize = FRAME_BYTES + 2 * crate::bounds::VALUE_BYTES_MAX_LIMIT + 1_024;

const MAGIC: [u8; 8] = *b"INSISNAP";
const VERSION: u8 = 1;
const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 1;
const CHECKSUM_BYTES: usize = 8;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Magic, format version, applied row.
    Header = 1,
    /// Rows, each as the lengths of key and value (u32, little-endian), key, value.
    Rows = 2,
    /// The number of rows (u64, little-endian).
    Trailer = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Header, Self::Rows, Self::Trailer].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a snapshot was not installed. The state is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes could not be had. Trying again may help.
    #[error("cannot read the snapshot: {0}")]
    Source(#[from] std::io::Error),
    /// The bytes are no snapshot that this program can use. Another transfer of it may be better.
    #[error("the snapshot cannot be used: {detail}")]
    Invalid {
        /// What was found.
        detail: String,
    },
    /// The engine could not take it.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

fn invalid(detail: impl ToString) -> Error {
    Error::Invalid { detail: detail.to_string() }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Storage(error) => Self::Storage(error),
            other @ (Fault::Decode { .. } | Fault::OutOfOrder { .. } | Fault::Unbalanced { .. }) => invalid(other),
        }
    }
}

fn checksum(frame_number: u64, frame: &[u8]) -> [u8; CHECKSUM_BYTES] {
    xxh3_64_with_seed(frame, frame_number).to_le_bytes()
}

/// Replaces the engine's content by the snapshot's, and answers how far that had come.
pub(crate) fn install<E: Engine>(
    engine: &E,
    keyspace: Keyspace,
    pieces: impl Iterator<Item = std::io::Result<Vec<u8>>>,
) -> Result<Applied, Error> {
    let (applied, import) = Import::open(pieces)?;
    if applied.keyspace != keyspace {
        return Err(invalid("it is the other store's"));
    }
    let first: Row = (APPLIED_KEY.as_slice().into(), layout::encode(&applied).into());
    engine.replace(std::iter::once(Ok(first)).chain(import))?;
    Ok(applied)
}

/// Reads a whole snapshot of the keyspace, and checks all of it, without a thing being done.
///
/// # Errors
/// As an installation's, but for the engine's.
pub fn check(keyspace: Keyspace, pieces: impl Iterator<Item = std::io::Result<Vec<u8>>>) -> Result<(), Error> {
    let (applied, mut import) = Import::open(pieces)?;
    if applied.keyspace != keyspace {
        return Err(invalid("it is the other store's"));
    }
    import.try_for_each(|row| row.map(drop))
}
