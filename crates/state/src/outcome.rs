//! What applying a command answers. A refusal is a result, the same on every node; a [`Fault`] stops the node.
//!
//! The order of variants and fields of [`Outcome`] and what it holds is the format of the peers' messages.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, ScopeId};

/// The answer to one [`crate::command::Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// To [`crate::command::Command::Data`], done or refused.
    Data(DataOutcome),
    /// To an admin, cleanup or registry command that was done.
    Done(Done),
    /// To an admin, cleanup or registry command that was refused; nothing changed.
    Refused(Rejection),
}

/// The answer to a tenant's write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataOutcome {
    /// The scope's counter of accepted writes to this keyspace, after this command (`docs/api.md` section 1).
    pub revision: u64,
    /// The new value where a bump was the last write; or why nothing changed.
    pub result: Result<Option<i64>, Rejection>,
}

/// What a command other than a tenant's write did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The key or alias exists, or the limits are set.
    Accepted,
    /// The key, or alias, is gone; for a key, its scope is now being removed.
    KeyDeleted {
        /// The scope.
        scope: ScopeId,
    },
    /// One step of removal.
    Purged {
        /// How many rows it removed.
        rows: u32,
        /// Whether no row of the scope is left in this keyspace.
        done: bool,
    },
    /// The process is registered.
    Registered {
        /// The node.
        node: NodeId,
        /// The incarnation that is now its own.
        incarnation: u64,
        /// The nonce of the proposal that this answers.
        nonce: u64,
    },
    /// The generation has begun.
    GenerationBegun {
        /// Its number.
        generation: u64,
        /// Its first voters, with their incarnations.
        voters: Vec<(NodeId, u64)>,
    },
    /// The registry is changed: a node joined, came into the node set or left it, or a change of the set is settled.
    RegistryChanged,
}

/// A deterministic refusal: the command was applied and changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejection {
    /// setnx on a key that exists.
    #[error("the key exists")]
    KeyExists,
    /// cas on a value that differs, or on an absent key.
    #[error("the value differs")]
    ValueDiffers,
    /// The write would bring the scope above its quota.
    #[error("quota exceeded")]
    QuotaExceeded {
        /// What the scope uses now, in bytes.
        used_bytes: u64,
        /// Its quota, in bytes.
        quota_bytes: u64,
    },
    /// bump on a stored value that is not an integer.
    #[error("the stored value is not an integer")]
    NotAnInteger,
    /// bump past the greatest i64.
    #[error("the sum is out of range")]
    SumOutOfRange,
    /// The scope is deleted, or was never made.
    #[error("the scope does not exist")]
    ScopeGone,
    /// The API key or alias does not exist.
    #[error("no such key")]
    NoSuchKey,
    /// The alias exists but belongs to another key.
    #[error("the alias belongs to another key")]
    NotItsAlias,
    /// The key has as many aliases as it may have.
    #[error("too many aliases")]
    TooManyAliases,
    /// An id or a hash that is in use: the proposer drew it badly.
    #[error("the id is in use")]
    IdInUse,
    /// A cleanup step for a scope that is not being removed, or is not empty yet.
    #[error("the scope is not ready for this step")]
    NotReady,
    /// A registry command that is late: the registry has moved on.
    #[error("the registry has moved on")]
    RegistryConflict,
    /// The command is not one for this keyspace's group.
    #[error("not a command for this group")]
    WrongGroup,
    /// The API key or alias that asked has been deleted since.
    #[error("the key has been deleted")]
    KeyGone,
    /// The caller was let in under keys or limits that have changed since.
    #[error("keys or limits have changed")]
    Fenced,
}

/// A failure to apply. The state is not known to be right any more: the node stops.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A stored row or a command cannot be decoded: damage, or a later version's format.
    #[error("cannot decode {what}: {detail}")]
    Decode {
        /// What was being decoded.
        what: &'static str,
        /// Why it failed.
        detail: String,
    },
    /// An entry was applied out of order.
    #[error("entry {found} applied after entry {applied}")]
    OutOfOrder {
        /// The last applied index.
        applied: u64,
        /// The index of the entry at hand.
        found: u64,
    },
    /// Usage would fall below zero, or a counter above its range: the books do not balance.
    #[error("the usage of scope {scope} does not balance")]
    Unbalanced {
        /// The scope.
        scope: ScopeId,
    },
}
