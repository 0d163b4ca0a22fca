//! Reading the state: pure functions over one consistent view.

use storage::View;

#[allow(unused_imports)]
use crate::{
    command::KeyRef,
    ids::{ApiKeyHash, ApiKeyId, Keyspace, Position, ScopeId},
    keys::{Caller, Entity},
    kv::{Key, Page},
    outcome::Fault,
    registry::RegistryState,
};

/// A stored value as a get answers it. Holds the stored row itself: no copy is made.
#[derive(Clone, Debug)]
pub struct Stored {
    row: storage::Bytes,
    value_start: usize,
    revision: u64,
}

/// A scope's books in one keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sum of the sizes of the live keys and values, in bytes.
    pub bytes: u64,
    /// The number of live keys.
    pub keys: u64,
    /// The counter of accepted writes.
    pub revision: u64,
}

/// A reader of one consistent view of one keyspace's state.
#[derive(Clone)]
pub struct Reader<V: View> {
    view: V,
    keyspace: Keyspace,
}
