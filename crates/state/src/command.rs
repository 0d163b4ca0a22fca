//! What the log holds: every change of state there is, as one closed enum.
//!
//! The order of variants and fields in this file **is the format** of the log and of the peers' messages
//! (postcard numbers variants in order). New variants go to the end, behind a feature level; nothing is removed.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ApiKeyHash, ApiKeyId, NodeId, RequestId, ScopeId},
    keys::{Limits, LimitsPatch},
    kv::{Key, Value},
};

/// One log entry's payload: the commands that were proposed together, applied one after another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The leader's clock when it proposed the batch, in milliseconds since the Unix epoch. The only time there
    /// is in the state machine; it never runs backwards there (an earlier stamp counts as the latest one seen).
    pub time_unix_ms: u64,
    /// The commands, in the order in which they take effect.
    pub commands: Vec<Command>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A tenant's write.
    Data(Data),
    /// A change of keys, aliases or limits (`values` group only).
    Admin(Admin),
    /// One bounded step of a deleted scope's removal.
    Cleanup(Cleanup),
    /// A change of the cache group's registry (`values` group only); see `registry.rs`.
    Registry(Registry),
    /// A tenant's write to the Cache, with what its caller was let in by (`cache` group only).
    Admitted(Admitted),
    /// An end to the writes of callers that were let in before a change of keys or limits (`cache` group only).
    Fence(Fence),
}

/// A tenant's write: all of `writes` or, when one is refused, none. Each write sees what those before it did, its quota
/// check included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Whose data.
    pub scope: ScopeId,
    /// The key that asked: the owner's or one of its aliases'.
    pub api_key: ApiKeyId,
    /// Room for idempotent retries; always absent so far.
    pub request: Option<RequestId>,
    /// The quota in force, in bytes, for the `cache` keyspace, whose limits live in another group; `None` is no
    /// quota. The `values` keyspace looks up its own and ignores this.
    pub quota_bytes: Option<u64>,
    /// The writes, in order.
    pub writes: Vec<Write>,
}

/// A tenant's write to the Cache. Keys and limits live in the `values` group: its log's index says under which of them
/// the caller was let in, and so which [`Fence`]s it stands behind. A plain [`Command::Data`] stands before them all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The write.
    pub data: Data,
    /// The node that let the caller in had applied the `values` group's log up to this index.
    pub control_index: u64,
}

/// Ends the writes to a scope whose callers were let in under keys and limits older than `control_index`: each that is
/// applied later is refused. Made before a change of the scope's keys or limits is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The scope.
    pub scope: ScopeId,
    /// The index of the `values` group's log up to which a node must have applied.
    pub control_index: u64,
}

/// One write to one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Sets the key when the condition holds.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// When to.
        condition: Condition,
    },
    /// Removes the key when the condition holds. An absent key is no refusal by itself, and then nothing is written;
    /// but a condition that asks for a value or a revision does not hold of it.
    Delete {
        /// The key.
        key: Key,
        /// When to.
        condition: Condition,
    },
    /// Adds to the integer at the key. A result below 0 is stored as 0 (`docs/api.md` section 1).
    Bump {
        /// The key.
        key: Key,
        /// What to add.
        delta: i64,
    },
}

impl Write {
    /// The key that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Bump { key, .. } => key,
        }
    }
}

/// What must hold for a write to happen: set, set-if-absent and compare-and-swap are one write with a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key does not exist.
    Absent,
    /// The key exists and holds this value.
    ValueIs(Value),
    /// The key exists and was last written at this revision.
    RevisionIs(u64),
}

/// Which API key an admin command means. Where an entity key is meant, an alias is not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRef {
    /// The one whose secret hashes to this.
    Hash(ApiKeyHash),
    /// The one with this public id.
    Id(ApiKeyId),
}

/// A change of keys, aliases or limits. All randomness in it (ids, secrets' hashes) is the proposer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admin {
    /// Makes an API key with a scope of its own.
    CreateKey {
        /// Its public id, never used before.
        id: ApiKeyId,
        /// Its scope, never used before.
        scope: ScopeId,
        /// What its secret hashes to.
        hash: ApiKeyHash,
        /// Its name; need not be unique.
        name: String,
        /// Its limits.
        limits: Limits,
        /// When it stops being valid, in milliseconds since the Unix epoch.
        expires_at_unix_ms: Option<u64>,
    },
    /// Ends an API key with all its aliases at once, and marks its scope for removal.
    DeleteKey(KeyRef),
    /// Changes the limits that the patch names.
    SetLimits(KeyRef, LimitsPatch),
    /// Makes an alias of an entity key.
    CreateAlias {
        /// The entity key.
        owner: ApiKeyId,
        /// The alias's public id, never used before.
        id: ApiKeyId,
        /// What its secret hashes to.
        hash: ApiKeyHash,
    },
    /// Ends an alias, when it is one of the owner's.
    DeleteAlias {
        /// The entity key that asks.
        owner: ApiKeyId,
        /// The alias.
        alias: KeyRef,
    },
}

/// The removal of a deleted scope. The `values` group does `Purge` until it answers done; the `cache` group does
/// `CloseScope`, then `Purge` until done; then the `values` group does `Finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanup {
    /// Refuses all later writes of the scope (`cache` group: it does not see keys being deleted).
    CloseScope(ScopeId),
    /// Removes up to `rows_max` of the scope's rows. Refused for a scope that is not closed or being deleted.
    Purge {
        /// The scope.
        scope: ScopeId,
        /// The most rows to remove in this step.
        rows_max: u32,
    },
    /// Forgets the scope: nothing of it is left in either store (`values` group).
    Finish(ScopeId),
}

/// The cache group's registry: the rules of `ARCHITECTURE.md`, the volatile group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Registry {
    /// A process declares its former cache member ended and takes a new incarnation (rule 1). A compare-and-set
    /// on `previous`, so that a late duplicate is refused.
    Register {
        /// The node.
        node: NodeId,
        /// The incarnation that the node last held; `None` for one that never registered.
        previous: Option<u64>,
        /// Random, so that the process knows the answer to its own proposal.
        nonce: u64,
    },
    /// Begins the next, empty generation (rule 4). Accepted only when `generation` is the running one's successor
    /// and a majority of the node set are out.
    Reset {
        /// The generation to begin.
        generation: u64,
    },
    /// Takes a node's process into the running generation, before it becomes a learner of the group (rule 3). Refused
    /// unless generation and incarnation are current.
    Join {
        /// The node.
        node: NodeId,
        /// Its process's incarnation.
        incarnation: u64,
        /// The generation.
        generation: u64,
    },
    /// Adds a node to the node set, as unregistered (rule 5).
    AddNode(NodeId),
    /// Removes a node from the node set, for good (rule 5).
    RemoveNode(NodeId),
    /// The leader of the running generation reports that its voters are committed, uniform, and the nodes of the set
    /// (rule 5): the next change of the set may come.
    Settle {
        /// The generation.
        generation: u64,
        /// The change, by its number.
        change: u64,
    },
}

impl Command {
    /// Whether it is one write under a condition, so that [`Reader::refusal`](crate::query::Reader::refusal) may tell its outcome.
    pub fn is_conditional(&self) -> bool {
        match self {
            Self::Data(data) | Self::Admitted(Admitted { data, .. }) => data.conditional().is_some(),
            Self::Admin(_) | Self::Cleanup(_) | Self::Registry(_) | Self::Fence(_) => false,
        }
    }

    /// Whose data it writes; none for what operators and the groups themselves change.
    pub fn scope(&self) -> Option<ScopeId> {
        match self {
            Self::Data(data) | Self::Admitted(Admitted { data, .. }) => Some(data.scope),
            Self::Admin(_) | Self::Cleanup(_) | Self::Registry(_) | Self::Fence(_) => None,
        }
    }

    /// About how many bytes the command takes in memory and in the log: what queues and batches count.
    pub fn weight_bytes(&self) -> usize {
        /// Ids, lengths and the like, rounded up.
        const OVERHEAD_BYTES: usize = 128;
        match self {
            Self::Data(data) | Self::Admitted(Admitted { data, .. }) => {
                OVERHEAD_BYTES + data.writes.iter().map(Write::weight_bytes).sum::<usize>()
            }
            Self::Admin(Admin::CreateKey { name, .. }) => OVERHEAD_BYTES + name.len(),
            Self::Admin(_) | Self::Cleanup(_) | Self::Registry(_) | Self::Fence(_) => OVERHEAD_BYTES,
        }
    }
}

impl Data {
    /// The key and the condition of a single write under one.
    pub(crate) fn conditional(&self) -> Option<(&Key, &Condition)> {
        match &*self.writes {
            [Write::Put { condition: Condition::Always, .. } | Write::Delete { condition: Condition::Always, .. }] => {
                None
            }
            [Write::Put { key, condition, .. } | Write::Delete { key, condition }] => Some((key, condition)),
            [Write::Bump { .. }] | [] | [_, _, ..] => None,
        }
    }
}

impl Write {
    fn weight_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, condition } => {
                key.as_bytes().len() + value.as_bytes().len() + condition.weight_bytes()
            }
            Self::Delete { key, condition } => key.as_bytes().len() + condition.weight_bytes(),
            Self::Bump { key, .. } => key.as_bytes().len(),
        }
    }
}

impl Condition {
    fn weight_bytes(&self) -> usize {
        match self {
            Self::ValueIs(value) => value.as_bytes().len(),
            Self::Always | Self::Absent | Self::RevisionIs(_) => 0,
        }
    }
}
