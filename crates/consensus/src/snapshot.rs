//! Snapshots as openraft carries them. What is in one, and how it is checked, is [`state::snapshot`].

use std::{io, sync::Arc};

use state::query::Reader;
use storage::Engine;

use crate::{purge::Pin, transport::spool::Spool, types::TypeConfig};

/// A group's snapshot.
pub type Snapshot<E> = openraft::alias::SnapshotOf<TypeConfig, SnapshotData<E>>;

/// What a snapshot is made of.
pub struct SnapshotData<E: Engine>(Content<E>);

enum Content<E: Engine> {
    /// A pinned view of this member's state, exported when it is taken. For as long as it is on its way somewhere, the
    /// log keeps what follows it.
    Pinned(Reader<E::View>, Option<Arc<Pin>>),
    /// What came from another member, whole and checked.
    Received(Arc<Spool>),
}

impl<E: Engine> SnapshotData<E> {
    pub(crate) fn pinned(reader: Reader<E::View>, pin: Option<Pin>) -> Self {
        Self(Content::Pinned(reader, pin.map(Arc::new)))
    }

    pub(crate) fn received(spool: Arc<Spool>) -> Self {
        Self(Content::Received(spool))
    }

    /// The snapshot's bytes, in pieces. Blocks while the disk reads.
    pub(crate) fn pieces(self) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>> {
        Ok(match self.0 {
            Content::Pinned(reader, _) => Box::new(reader.export().map(|piece| piece.map_err(io::Error::other))),
            Content::Received(spool) => Box::new(spool.pieces()?),
        })
    }
}

// Derived, they would ask for an engine that can be cloned.
impl<E: Engine> Clone for SnapshotData<E> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Content::Pinned(reader, pin) => Content::Pinned(reader.clone(), pin.clone()),
            Content::Received(spool) => Content::Received(spool.clone()),
        })
    }
}
