//! Snapshots as openraft carries them. What is in one, and how it is checked, is [`state::snapshot`].

use state::query::Reader;
use storage::Engine;

use crate::types::TypeConfig;

/// A group's snapshot.
pub type Snapshot<E> = openraft::alias::SnapshotOf<TypeConfig, SnapshotData<E>>;

/// What a snapshot is made of: a pinned view of the state, streamed in pieces when it is taken.
pub struct SnapshotData<E: Engine>(pub(crate) Reader<E::View>);
