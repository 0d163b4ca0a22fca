//! A term has one leader: as Raft has it, a node that has won an election is the only one that ever does in its term.

use std::collections::BTreeMap;

use server::embed::Standing;

use super::{Invariant, Violation, holds};
use crate::network::Place;

/// The leaders that were seen.
#[derive(Debug, Default)]
pub(crate) struct Leaders(BTreeMap<(u64, u64), Place>);

impl Leaders {
    /// Whether a node leads the newest term of its group.
    pub(crate) fn is_newest(&self, standing: Standing) -> bool {
        let of_group = (standing.generation, 0)..=(standing.generation, u64::MAX);
        let newest = self.0.range(of_group).next_back().map(|((_, term), _)| *term);
        standing.is_leader && newest == Some(standing.term)
    }

    /// Takes up where a node stands.
    pub(crate) fn see(&mut self, place: Place, standing: Standing) -> Result<(), Violation> {
        if !standing.is_leader {
            return Ok(());
        }
        let Standing { term, generation, .. } = standing;
        let leader = *self.0.entry((generation, term)).or_insert(place);
        holds(leader == place, Invariant::OneLeader, || {
            format!("nodes {leader} and {place} both lead term {term} of generation {generation}")
        })
    }
}
