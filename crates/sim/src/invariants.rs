//! What must hold in every run, whatever goes wrong. One file each.

use std::fmt;

pub(crate) mod contents;
pub(crate) mod leaders;
pub(crate) mod quotas;
pub(crate) mod states;

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Each key of each store behaves as one register: so an acknowledged write is there until the next one, none is applied
    /// twice, a deleted key is nowhere, and an older generation of the Cache answers nothing that was asked after a newer
    /// one had answered.
    Linearizable,
    /// A term has one leader.
    OneLeader,
    /// Members that have applied the same entries have the same state.
    EqualStates,
    /// No accepted write raises usage above the quota that it was admitted under.
    Quota,
    /// All nodes show the same, usage is what a recount finds, and a page has exactly the keys that are there.
    Contents,
    /// No answer shows what it must not: another tenant's keys, a deleted tenant's, more than a quota.
    Answers,
    /// Behind the faults, the cluster serves again within a bound.
    ServesAgain,
    /// No thread panics, and a node ends by itself only when its disk has failed.
    NoPanic,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.detail)
    }
}

impl std::error::Error for Violation {}

/// A violation of `invariant`, unless it holds.
pub(crate) fn holds(is: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if is { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}
