//! The registry of the cache group, kept in the `values` group: which generation runs, on which nodes, and which
//! process of each node belongs to it (`ARCHITECTURE.md`, the volatile group).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    command::Registry,
    ids::NodeId,
    outcome::{Done, Rejection},
};

/// One node's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeChange {
    /// The node came into the set.
    Added(NodeId),
    /// The node left the set.
    Removed(NodeId),
}

/// The whole registry: one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

impl RegistryState {
    /// Applies one change: the whole of the rules. Pure, so that a model checks the very code that runs.
    ///
    /// # Errors
    /// When the change does not fit the registry as it stands; nothing is changed then.
    pub fn apply(&mut self, change: &Registry) -> Result<Done, Rejection> {
        match *change {
            Registry::Register { node, previous, nonce } => self.register(node, previous, nonce),
            Registry::Reset { generation } => self.reset(generation),
            Registry::Join { node, incarnation, generation } => self.join(node, incarnation, generation),
            Registry::AddNode(node) => self.add_node(node),
            Registry::RemoveNode(node) => self.remove_node(node),
            Registry::Settle { generation, change } => self.settle(generation, change),
        }
    }

    /// Whether a majority of the node set has ended its members: the running generation can acknowledge nothing more.
    pub fn is_lost(&self) -> bool {
        2 * self.count_out() > self.nodes.len()
    }

    /// Rule 1. The first node founds the node set; another one must be in it, since a set that grew by itself could
    /// outvote a living quorum (rule 5).
    fn register(&mut self, node: NodeId, previous: Option<u64>, nonce: u64) -> Result<Done, Rejection> {
        let held = match self.nodes.get(&node) {
            Some(standing) => standing.incarnation(),
            None if self.nodes.is_empty() && self.generation == 0 => None,
            None => return Err(Rejection::RegistryConflict),
        };
        if held != previous {
            return Err(Rejection::RegistryConflict);
        }
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        self.nodes.insert(node, Standing::Out { incarnation });
        Ok(Done::Registered { node, incarnation, nonce })
    }

    /// Rule 3. From here on the node's member may become a voter, so that it does not count as out any more.
    fn join(&mut self, node: NodeId, incarnation: u64, generation: u64) -> Result<Done, Rejection> {
        if generation != self.generation || self.nodes.get(&node) != Some(&Standing::Out { incarnation }) {
            return Err(Rejection::RegistryConflict);
        }
        self.nodes.insert(node, Standing::In { generation, incarnation });
        Ok(Done::RegistryChanged)
    }

    /// Rule 4. Only when a majority of the node set has ended its members is it known that the generation can
    /// acknowledge nothing any more. Its leader may still answer from its lease, unless no member is left at all: every
    /// node of the set is out, no node outside of it is a voter, and that was so before, since a node that was outside of
    /// the set when a generation ended was told of no end.
    ///
    /// The new generation's nodes are the registered ones, in the set and as first voters. So the set is settled; a node
    /// that had not registered yet is added anew.
    fn reset(&mut self, generation: u64) -> Result<Done, Rejection> {
        if generation != self.generation + 1 || !self.is_lost() {
            return Err(Rejection::RegistryConflict);
        }
        let registered = self.nodes.iter().filter_map(|(node, standing)| Some((*node, standing.incarnation()?)));
        let voters: Vec<(NodeId, u64)> = registered.collect();
        self.former_may_serve |= self.unsettled.is_some() || self.count_out() < self.nodes.len();
        self.generation = generation;
        self.nodes = voters
            .iter()
            .map(|(node, incarnation)| (*node, Standing::In { generation, incarnation: *incarnation }))
            .collect();
        self.unsettled = None;
        self.first_voters.clone_from(&voters);
        Ok(Done::GenerationBegun { generation, voters })
    }

    /// Rule 5: one node at a time.
    fn add_node(&mut self, node: NodeId) -> Result<Done, Rejection> {
        if self.removed.contains(&node) || self.nodes.contains_key(&node) {
            return Err(Rejection::RegistryConflict);
        }
        self.change_nodes(NodeChange::Added(node))?;
        self.nodes.insert(node, Standing::Unregistered);
        Ok(Done::RegistryChanged)
    }

    /// Rule 5. A node that was just added and never becomes a voter, since it is dead, may be taken out again before the
    /// addition is settled: the set is then the voters' again, or differs from them by that node alone.
    fn remove_node(&mut self, node: NodeId) -> Result<Done, Rejection> {
        if self.nodes.len() < 2 || !self.nodes.contains_key(&node) {
            return Err(Rejection::RegistryConflict);
        }
        if self.unsettled == Some(NodeChange::Added(node)) {
            self.unsettled = None;
        }
        self.change_nodes(NodeChange::Removed(node))?;
        self.nodes.remove(&node);
        self.removed.insert(node);
        Ok(Done::RegistryChanged)
    }

    fn change_nodes(&mut self, change: NodeChange) -> Result<(), Rejection> {
        // Before the first generation there are no voters that could lag behind.
        if self.unsettled.is_some() {
            return Err(Rejection::NotReady);
        }
        self.change += 1;
        self.unsettled = (self.generation > 0).then_some(change);
        Ok(())
    }

    fn settle(&mut self, generation: u64, change: u64) -> Result<Done, Rejection> {
        if generation != self.generation || change != self.change || self.unsettled.is_none() {
            return Err(Rejection::RegistryConflict);
        }
        self.unsettled = None;
        Ok(Done::RegistryChanged)
    }

    fn count_out(&self) -> usize {
        self.nodes.values().filter(|standing| matches!(standing, Standing::Out { .. })).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(standings: &[Standing]) -> RegistryState {
        let nodes = standings.iter().enumerate().map(|(node, standing)| (NodeId(node as u64), *standing)).collect();
        RegistryState { generation: 4, last_incarnation: 9, nodes, ..RegistryState::default() }
    }

    const OUT: Standing = Standing::Out { incarnation: 8 };
    const IN: Standing = Standing::In { generation: 4, incarnation: 7 };

    #[test]
    fn a_generation_ends_only_when_a_majority_is_out() {
        for (standings, ends) in [
            (vec![OUT, IN, IN], false),
            (vec![OUT, OUT, IN], true),
            (vec![OUT, IN], false),
            (vec![OUT, OUT, IN, IN], false),
            (vec![OUT, Standing::Unregistered, Standing::Unregistered], false),
            (vec![OUT, OUT, Standing::Unregistered], true),
        ] {
            assert_eq!(state(&standings).reset(5).is_ok(), ends, "{standings:?}");
        }
    }

    #[test]
    fn the_registered_nodes_are_the_next_generations_voters() {
        let mut state = state(&[OUT, IN, OUT, Standing::Unregistered, OUT]);
        let voters = vec![(NodeId(0), 8), (NodeId(1), 7), (NodeId(2), 8), (NodeId(4), 8)];
        let nodes =
            voters.iter().map(|(node, incarnation)| (*node, Standing::In { generation: 5, incarnation: *incarnation }));
        let nodes = nodes.collect();
        assert_eq!(state.reset(5), Ok(Done::GenerationBegun { generation: 5, voters: voters.clone() }));
        let expected = RegistryState {
            generation: 5,
            last_incarnation: 9,
            nodes,
            first_voters: voters,
            former_may_serve: true,
            ..RegistryState::default()
        };
        assert_eq!(state, expected);
    }

    #[test]
    fn the_former_generation_is_known_to_be_gone_only_when_every_node_is_out_and_the_set_is_settled() {
        let mut gone = state(&[OUT, OUT, OUT]);
        assert!(gone.reset(5).is_ok() && !gone.former_may_serve);
        let mut one_left = state(&[OUT, OUT, IN]);
        assert!(one_left.reset(5).is_ok() && one_left.former_may_serve);
        let mut unsettled = state(&[OUT, OUT, OUT]);
        unsettled.unsettled = Some(NodeChange::Removed(NodeId(9)));
        assert!(unsettled.reset(5).is_ok() && unsettled.former_may_serve && unsettled.unsettled.is_none());
        // The node that was removed may lead generation 4 still, however many begin meanwhile.
        for node in [0, 1, 2] {
            assert!(unsettled.register(NodeId(node), Some(8), 1).is_ok());
        }
        assert!(unsettled.reset(6).is_ok() && unsettled.former_may_serve);
    }

    #[test]
    fn a_node_of_the_set_registers_by_its_own_incarnation() {
        let mut state = state(&[OUT, IN, Standing::Unregistered]);
        assert_eq!(state.register(NodeId(2), Some(9), 1), Err(Rejection::RegistryConflict));
        let registered = |node, incarnation| Ok(Done::Registered { node: NodeId(node), incarnation, nonce: 1 });
        assert_eq!(state.register(NodeId(2), None, 1), registered(2, 10));
        assert_eq!(state.register(NodeId(1), Some(7), 1), registered(1, 11));
        assert_eq!(state.nodes[&NodeId(1)], Standing::Out { incarnation: 11 });
        assert_eq!(state.register(NodeId(3), None, 1), Err(Rejection::RegistryConflict));
    }

    #[test]
    fn a_process_joins_as_what_it_registered() {
        let mut state = state(&[OUT, IN, IN]);
        for (incarnation, generation) in [(7, 4), (8, 3), (8, 5)] {
            assert_eq!(state.join(NodeId(0), incarnation, generation), Err(Rejection::RegistryConflict));
        }
        assert_eq!(state.join(NodeId(1), 7, 4), Err(Rejection::RegistryConflict), "it is in already");
        assert_eq!(state.join(NodeId(0), 8, 4), Ok(Done::RegistryChanged));
        assert_eq!(state.nodes[&NodeId(0)], Standing::In { generation: 4, incarnation: 8 });
    }

    #[test]
    fn the_set_changes_by_one_node_at_a_time() {
        let mut state = state(&[IN, IN, IN]);
        let (new, other) = (NodeId(3), NodeId(4));
        assert_eq!(state.add_node(new), Ok(Done::RegistryChanged));
        assert_eq!(state.add_node(other), Err(Rejection::NotReady));
        assert_eq!(state.remove_node(NodeId(0)), Err(Rejection::NotReady));
        assert_eq!(state.settle(4, 2), Err(Rejection::RegistryConflict));
        assert_eq!(state.settle(3, 1), Err(Rejection::RegistryConflict));
        assert_eq!(state.settle(4, 1), Ok(Done::RegistryChanged));
        assert_eq!(state.add_node(other), Ok(Done::RegistryChanged));
        // It turns out to be dead.
        assert_eq!(state.remove_node(other), Ok(Done::RegistryChanged));
        assert_eq!(state.unsettled, Some(NodeChange::Removed(other)));
        assert_eq!(state.settle(4, 3), Ok(Done::RegistryChanged));
        assert_eq!(state.add_node(other), Err(Rejection::RegistryConflict), "removed for good");
        let mut last = RegistryState { nodes: [(new, IN)].into(), ..RegistryState::default() };
        assert_eq!(last.remove_node(new), Err(Rejection::RegistryConflict));
    }
}
