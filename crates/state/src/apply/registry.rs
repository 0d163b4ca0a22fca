//! The cache group's registry: what a process may declare, and when a new generation may begin (`ARCHITECTURE.md`,
//! the volatile group). Kept in the `values` group, which does not forget.

use storage::Transaction;

use crate::{
    command::Registry,
    ids::{Keyspace, NodeId},
    layout,
    outcome::{Done, Rejection},
    registry::{RegistryState, Standing},
    rows::{Rows, Stop},
};

pub(super) fn apply<T: Transaction>(rows: &mut Rows<T>, keyspace: Keyspace, change: &Registry) -> Result<Done, Stop> {
    if keyspace != Keyspace::Values {
        return Err(Rejection::WrongGroup.into());
    }
    let mut state: RegistryState = rows.load(&layout::REGISTRY_KEY)?.unwrap_or_default();
    let done = match change {
        Registry::Register { node, previous, nonce } => register(&mut state, *node, *previous, *nonce),
        Registry::Reset { generation } => reset(&mut state, *generation),
        Registry::Join { .. } | Registry::AddNode(_) | Registry::RemoveNode(_) | Registry::Settle { .. } => {
            Err(Rejection::NotReady)
        }
    }?;
    rows.store(&layout::REGISTRY_KEY, &state)?;
    Ok(done)
}

/// Rule 1. The first node founds the node set; another one must be in it, since a set that grew by itself could outvote
/// a living quorum (rule 5).
fn register(state: &mut RegistryState, node: NodeId, previous: Option<u64>, nonce: u64) -> Result<Done, Rejection> {
    let held = match state.nodes.get(&node) {
        Some(standing) => standing.incarnation(),
        None if state.nodes.is_empty() => None,
        None => return Err(Rejection::RegistryConflict),
    };
    if held != previous {
        return Err(Rejection::RegistryConflict);
    }
    state.last_incarnation += 1;
    let incarnation = state.last_incarnation;
    state.nodes.insert(node, Standing::Out { incarnation });
    Ok(Done::Registered { node, incarnation, nonce })
}

/// Rule 4. Only when a majority of the node set has ended its members is it known that the generation can acknowledge
/// nothing any more.
fn reset(state: &mut RegistryState, generation: u64) -> Result<Done, Rejection> {
    let out = state.nodes.values().filter(|standing| matches!(standing, Standing::Out { .. })).count();
    if generation != state.generation + 1 || 2 * out <= state.nodes.len() {
        return Err(Rejection::RegistryConflict);
    }
    let registered = state.nodes.iter().filter_map(|(node, standing)| Some((*node, standing.incarnation()?)));
    let voters: Vec<(NodeId, u64)> = registered.collect();
    state.generation = generation;
    state.nodes = voters
        .iter()
        .map(|(node, incarnation)| (*node, Standing::In { generation, incarnation: *incarnation }))
        .collect();
    Ok(Done::GenerationBegun { generation, voters })
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
            assert_eq!(reset(&mut state(&standings), 5).is_ok(), ends, "{standings:?}");
        }
    }

    #[test]
    fn the_registered_nodes_are_the_next_generations_voters() {
        let mut state = state(&[OUT, IN, OUT, Standing::Unregistered, OUT]);
        let voters = vec![(NodeId(0), 8), (NodeId(1), 7), (NodeId(2), 8), (NodeId(4), 8)];
        let nodes =
            voters.iter().map(|(node, incarnation)| (*node, Standing::In { generation: 5, incarnation: *incarnation }));
        let nodes = nodes.collect();
        assert_eq!(reset(&mut state, 5), Ok(Done::GenerationBegun { generation: 5, voters }));
        assert_eq!(state, RegistryState { generation: 5, last_incarnation: 9, nodes, ..RegistryState::default() });
    }

    #[test]
    fn a_node_of_the_set_registers_by_its_own_incarnation() {
        let mut state = state(&[OUT, IN, Standing::Unregistered]);
        assert_eq!(register(&mut state, NodeId(2), Some(9), 1), Err(Rejection::RegistryConflict));
        let registered = |node, incarnation| Ok(Done::Registered { node: NodeId(node), incarnation, nonce: 1 });
        assert_eq!(register(&mut state, NodeId(2), None, 1), registered(2, 10));
        assert_eq!(register(&mut state, NodeId(1), Some(7), 1), registered(1, 11));
        assert_eq!(state.nodes[&NodeId(1)], Standing::Out { incarnation: 11 });
        assert_eq!(register(&mut state, NodeId(3), None, 1), Err(Rejection::RegistryConflict));
    }
}
