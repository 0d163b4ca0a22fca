//! The registry of the cache group, kept in the `values` group: which generation runs, on which nodes, and which
//! process of each node belongs to it (`ARCHITECTURE.md`, the volatile group).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// One node's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// In the node set, but never registered: it counts in the set, and not as out.
    Unregistered,
    /// Registered, and no member of the running generation: its former member has ended.
    Out {
        /// The process's incarnation.
        incarnation: u64,
    },
    /// A member of the generation.
    In {
        /// The generation.
        generation: u64,
        /// The process's incarnation.
        incarnation: u64,
    },
}

impl Standing {
    /// The incarnation that the node's process last took; none for one that never registered.
    pub fn incarnation(self) -> Option<u64> {
        match self {
            Self::Unregistered => None,
            Self::Out { incarnation } | Self::In { incarnation, .. } => Some(incarnation),
        }
    }
}

/// A change of the node set that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeChange {
    /// The node came into the set.
    Added(NodeId),
    /// The node left the set.
    Removed(NodeId),
}

/// The whole registry: one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryState {
    /// The running generation; 0 before the first.
    pub generation: u64,
    /// The last incarnation given out. Incarnations never repeat, over all nodes.
    pub last_incarnation: u64,
    /// The node set S with each node's standing.
    pub nodes: BTreeMap<NodeId, Standing>,
    /// The running generation's first voters, with their incarnations: each founds its group with all of them.
    pub first_voters: Vec<(NodeId, u64)>,
    /// Whether a member of an older generation may have been alive when the running one began: its leader then serves
    /// nothing until one Raft lease and a margin have passed.
    pub former_may_serve: bool,
    /// Counts the changes of the node set; names the one under way in a report that it is settled.
    pub change: u64,
    /// The change of the node set that the running generation's voters have not caught up with; the next waits for it.
    pub unsettled: Option<NodeChange>,
    /// Nodes that were removed for good: they are never taken in again.
    pub removed: BTreeSet<NodeId>,
}
