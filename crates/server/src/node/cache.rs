//! The cache group on this node: which generation this process belongs to, and as what.
//!
//! A Raft member that forgot its vote and its log must never come back as itself, and a group that lost its majority must
//! be declared lost by somebody who can know it: the `values` group is that somebody (`ARCHITECTURE.md`, the volatile
//! group; the rules themselves are `state::registry`).
//!
//! - [`driver`] looks at the registry and at this node's member, and does what [`decide`] says.
//! - [`member`] starts and ends members.
//! - [`suspicion`] is rule 6: when a generation is given up.

pub(super) mod decide;
pub(super) mod driver;
mod member;
#[cfg(test)]
mod model;
pub(super) mod suspicion;

use consensus::Group;
use storage::memory::MemoryEngine;

/// This node's member of the running generation.
pub(crate) struct Cache {
    /// The generation's number: what `X-InsiDB-Cache-Generation` says.
    pub(crate) generation: u64,
    /// Its group.
    pub(crate) group: Group<MemoryEngine>,
}
