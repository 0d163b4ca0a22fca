//! API keys, aliases and limits: the control plane's records.

use serde::{Deserialize, Serialize};

use crate::{
    bounds::defaults,
    ids::{ApiKeyId, ScopeId},
};

/// An entity key's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Quota in the Value Store, in bytes of keys and values.
    pub bytes_on_disk: u64,
    /// Quota in the Cache, in bytes of keys and values.
    pub bytes_in_memory: u64,
    /// Data operations per second, over the whole cluster; 0 refuses all.
    pub rate_per_second_data_limit: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_on_disk: defaults::BYTES_ON_DISK,
            bytes_in_memory: defaults::BYTES_IN_MEMORY,
            rate_per_second_data_limit: defaults::RATE_PER_SECOND,
        }
    }
}

/// New limits; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsPatch {
    /// See [`Limits::bytes_on_disk`].
    pub bytes_on_disk: Option<u64>,
    /// See [`Limits::bytes_in_memory`].
    pub bytes_in_memory: Option<u64>,
    /// See [`Limits::rate_per_second_data_limit`].
    pub rate_per_second_data_limit: Option<u64>,
}

impl LimitsPatch {
    /// `limits` with what the patch names replaced.
    pub fn apply(self, limits: Limits) -> Limits {
        Limits {
            bytes_on_disk: self.bytes_on_disk.unwrap_or(limits.bytes_on_disk),
            bytes_in_memory: self.bytes_in_memory.unwrap_or(limits.bytes_in_memory),
            rate_per_second_data_limit: self.rate_per_second_data_limit.unwrap_or(limits.rate_per_second_data_limit),
        }
    }
}

/// An entity key, as stored and as shown to operators: nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Its public id.
    pub id: ApiKeyId,
    /// Its data scope.
    pub scope: ScopeId,
    /// Its name.
    pub name: String,
    /// Its limits.
    pub limits: Limits,
    /// When it stops being valid, in milliseconds since the Unix epoch.
    pub expires_at_unix_ms: Option<u64>,
    /// When it was made, by the leader's clock, in milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// The public ids of its aliases, oldest first; at most [`crate::bounds::ALIASES_MAX`].
    pub aliases: Vec<ApiKeyId>,
}

/// Who a presented API key is: the answer of [`crate::query::Reader::caller`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The presented key's own id: the entity's or the alias's.
    pub id: ApiKeyId,
    /// Whether it is an alias.
    pub is_alias: bool,
    /// The entity that owns the scope, the limits and the rate budget.
    pub entity: Entity,
}
