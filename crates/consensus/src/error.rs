//! Why a group did not serve: each variant says whether a proposal can have taken effect.

use serde::{Deserialize, Serialize};

use crate::types::MemberId;

/// A group's failure to take a proposal or to answer a read.
///
/// The order of variants is the format of the peers' messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// This member is not the leader. Nothing was proposed.
    #[error("no leader is known; try again shortly")]
    NoLeader,
    /// This member is not the leader, and was asked to say so. Nothing was proposed.
    #[error("another node leads")]
    NotLeader(Option<MemberId>),
    /// The leader has not heard from a majority. Nothing was proposed.
    #[error("the leader cannot reach a majority; try again shortly")]
    NoQuorum,
    /// More is waiting than may wait. Nothing was proposed.
    #[error("too much is waiting; try again shortly")]
    Overloaded,
    /// The log or the store cannot grow. Nothing was proposed.
    #[error("the disk is full; make room, writes then go on by themselves")]
    DiskFull,
    /// The group is stopping or has stopped on a fault. Nothing was proposed.
    #[error("the node is stopping")]
    Stopped,
    /// The proposal was made, and its outcome did not arrive: it may or may not have taken effect.
    #[error("the outcome is unknown; read before writing again")]
    OutcomeUnknown,
    /// The state holds as much as it may in memory. Nothing was proposed.
    #[error("the memory is full; reads and deletes go on")]
    MemoryFull,
}
