//! Response bodies.

use serde::{Deserialize, Serialize};

use crate::code::Code;

macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

body! {
    /// get: the value. bump: the new value.
    Data {
        /// The payload.
        data: String,
    }
}
body! {
    /// iterate on `GET /iterate/prefix`.
    Keys {
        /// The keys, in byte order.
        data: Vec<String>,
    }
}
body! {
    /// Bytes in use.
    Usage {
        /// In the Value Store.
        bytes_on_disk: u64,
        /// In the Cache.
        bytes_in_memory: u64,
    }
}

/// Limits; all absent for the root key, which has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxLimits {
    /// Quota in the Value Store, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_on_disk: Option<u64>,
    /// Quota in the Cache, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in_memory: Option<u64>,
    /// Data operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second_data_limit: Option<u64>,
}

body! {
    /// Usage and limits.
    Limits {
        /// Bytes in use.
        usage: Usage,
        /// What the key may use.
        max_limits: MaxLimits,
    }
}
body! {
    /// ping.
    Ping {
        /// `ok`.
        status: String,
        /// The caller's name.
        entity: String,
        /// The answering node's id.
        node: String,
        /// The leader's id, empty when none is known.
        leader: String,
        /// How long the node has been up, for people: `3h 12m 5s`.
        uptime: String,
    }
}
body! {
    /// A new alias: shown once.
    Alias {
        /// The alias's text.
        alias: String,
    }
}
body! {
    /// The caller's aliases.
    Aliases {
        /// Their public ids.
        aliases: Vec<String>,
    }
}
body! {
    /// An alias is gone.
    Status {
        /// `ok`.
        status: String,
    }
}
body! {
    /// A new API key: its text is shown once.
    CreatedKey {
        /// Its name.
        key_name: String,
        /// Its text.
        key: String,
        /// Its public id.
        key_uuid: String,
    }
}
body! {
    /// An API key is gone.
    Deleted {
        /// `true`, as text.
        success: String,
    }
}
body! {
    /// One API key, as operators see it.
    Entity {
        /// Its name.
        key_name: String,
        /// Its public id.
        key_uuid: String,
        /// Its data scope.
        data_scope_uuid: String,
        /// The public ids of its aliases.
        aliases: Vec<String>,
        /// When it stops being valid, as RFC 3339; `null` for never.
        expires_at: Option<String>,
        /// Its usage and limits.
        usage: Limits,
    }
}
body! {
    /// One API key.
    OneEntity {
        /// The key.
        entity: Entity,
    }
}
body! {
    /// A page of API keys.
    Entities {
        /// The keys.
        entities: Vec<Entity>,
    }
}

/// Operations per second, over the last seconds, by route class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ops {
    /// On the Value Store.
    pub op_vs: f64,
    /// On the Cache.
    pub op_cache: f64,
    /// On everything else.
    pub op_system: f64,
}

/// An error as RFC 9457 problem details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`: the code says what kind it is.
    pub r#type: String,
    /// The status's phrase.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do, in a sentence.
    pub detail: String,
    /// The stable code.
    pub code: Code,
}

/// What a member does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes the writes.
    Leader,
    /// Votes, and follows the leader.
    Voter,
    /// Follows the leader, and does not vote.
    Learner,
}

body! {
    /// One member of one group.
    ClusterMember {
        /// What it does.
        role: Role,
        /// Its process's incarnation; 0 in the `values` group.
        incarnation: u64,
        /// The generation, for the cache group; else 0.
        generation: u64,
        /// Its term; absent when the node does not answer.
        term: Option<u64>,
        /// The last index of its log; absent when the node does not answer.
        last_index: Option<u64>,
        /// The last index that it has applied; absent when the node does not answer.
        applied_index: Option<u64>,
        /// The hash of its state at that index, equal on all members that have applied as much; absent when the node does
        /// not answer.
        state_hash: Option<String>,
        /// How many entries its log is behind the leader's; absent where the leader does not say.
        lag: Option<u64>,
        /// How long ago it last answered the leader, in milliseconds; absent for the leader itself.
        last_contact_ms: Option<u64>,
    }
}
body! {
    /// One node of the cluster.
    ClusterNode {
        /// Its id.
        node: String,
        /// Where its peers reach it.
        address: String,
        /// Whether it answers.
        reachable: bool,
        /// Its program's version; absent when it does not answer.
        version: Option<String>,
        /// Its member of the group of the Value Store.
        values: ClusterMember,
        /// Its member of the cache group, when it has one.
        cache: Option<ClusterMember>,
    }
}
body! {
    /// The cluster as one node sees it.
    Cluster {
        /// The node that answers.
        node: String,
        /// The leader of the Value Store's group, when one is known.
        leader: Option<String>,
        /// The leader of the cache group, when one is known.
        cache_leader: Option<String>,
        /// The running generation of the cache.
        cache_generation: u64,
        /// Every node.
        nodes: Vec<ClusterNode>,
    }
}
