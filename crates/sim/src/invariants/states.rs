//! Members that have applied the same entries have the same state.

use std::collections::BTreeMap;

use server::embed::Standing;
use state::hash::StateHash;

use super::{Invariant, Violation, holds};
use crate::network::Place;

/// The states that were seen, by generation and index, and whose they were.
#[derive(Debug, Default)]
pub(crate) struct States(BTreeMap<(u64, u64), (StateHash, Place)>);

impl States {
    /// Takes up where a node stands.
    pub(crate) fn see(&mut self, place: Place, standing: Standing) -> Result<(), Violation> {
        let Some((index, hash)) = standing.applied else { return Ok(()) };
        let (known, whose) = *self.0.entry((standing.generation, index)).or_insert((hash, place));
        holds(known == hash, Invariant::EqualStates, || {
            format!(
                "at index {index} of generation {} node {whose} has {known}, node {place} {hash}",
                standing.generation
            )
        })
    }
}
