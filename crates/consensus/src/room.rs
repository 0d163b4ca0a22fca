//! How much a group's state may hold in memory, and what is on its way into it.
//!
//! The leader checks it before it proposes, and nobody in apply: every replica must do the same with an entry, and one
//! that has less memory than the others would not. What only one node can know, all writes of the group on their way, the
//! leader knows.

use std::sync::atomic::{AtomicU64, Ordering};

use state::{
    command::{Admitted, Command, Data, Write},
    query::Reader,
};
use storage::View;

use crate::Error;

/// The bound on a group's state, and what is coming.
#[derive(Debug)]
pub(crate) struct Room {
    /// The most bytes of keys and values.
    bytes_max: u64,
    /// Upper bound of what the writes now on their way will add, in bytes.
    coming_bytes: AtomicU64,
}

impl Room {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, coming_bytes: AtomicU64::new(0) }
    }

    /// Counts the command's bytes as coming until what this returns is dropped: when the command has its outcome.
    ///
    /// The rule is simple and errs on the safe side: what the state holds, and all that is on its way as if each write
    /// were of a new key, must fit. Only past that are the keys' present sizes looked up, so that a write that does not
    /// grow its keys goes on; a delete always does.
    ///
    /// # Errors
    /// [`Error::MemoryFull`]; [`Error::Stopped`] when the state cannot be read.
    pub(crate) fn reserve<V: View>(
        &self,
        command: &Command,
        state: impl FnOnce() -> Reader<V>,
    ) -> Result<Coming<'_>, Error> {
        let nothing = Coming { room: self, bytes: 0 };
        let data = match command {
            Command::Data(data) | Command::Admitted(Admitted { data, .. }) => data,
            Command::Admin(_) | Command::Cleanup(_) | Command::Registry(_) | Command::Fence(_) => return Ok(nothing),
        };
        let bytes: u64 = data.writes.iter().map(bytes_of).sum();
        if bytes == 0 || self.bytes_max == u64::MAX {
            return Ok(nothing);
        }
        let coming_bytes = self.coming_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let coming = Coming { room: self, bytes };
        let state = state();
        let held_bytes = state.totals().map_err(|_| Error::Stopped)?.bytes;
        if held_bytes.saturating_add(coming_bytes) <= self.bytes_max || bytes <= present_bytes(data, &state)? {
            Ok(coming)
        } else {
            Err(Error::MemoryFull)
        }
    }
}

/// What a write adds to an empty state.
fn bytes_of(write: &Write) -> u64 {
    match write {
        Write::Put { key, value, .. } => (key.as_bytes().len() + value.as_bytes().len()) as u64,
        Write::Delete { .. } | Write::Bump { .. } => 0,
    }
}

/// What the keys that are to be written take now.
fn present_bytes<V: View>(data: &Data, state: &Reader<V>) -> Result<u64, Error> {
    let mut bytes = 0;
    for write in &data.writes {
        if let Write::Put { key, .. } = write
            && let Some(stored) = state.get(data.scope, key).map_err(|_| Error::Stopped)?
        {
            bytes += (key.as_bytes().len() + stored.value().len()) as u64;
        }
    }
    Ok(bytes)
}

/// Bytes that a command on its way may add.
pub(crate) struct Coming<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.room.coming_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
