//! Identities, as types that cannot be mistaken for one another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A data scope: one tenant's part of both stores. Never used again after its key's deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScopeId(pub Uuid);

impl ScopeId {
    /// The root key's scope: the nil UUID, which no random UUID can equal. It always exists and has no quota.
    pub const ROOT: Self = Self(Uuid::nil());
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public id of an API key or an alias. Safe to log and to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApiKeyId(pub Uuid);

impl ApiKeyId {
    /// The root key's id.
    pub const ROOT: Self = Self(Uuid::nil());
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of an API key's text: all that is ever stored of it. Its `Debug` shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApiKeyHash(pub [u8; 32]);

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash(..)")
    }
}

/// A client's own id of a request; reserved for idempotent retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

/// A node of the cluster, minted at random with its data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Keyspace {
    /// The durable Value Store.
    Values,
    /// The in-memory Cache.
    Cache,
}

/// A place in the log. Raft elects one leader a term, so term and index name one entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The entry's term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}
