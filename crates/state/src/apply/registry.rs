//! The cache group's registry: what a process may declare, and when a new generation may begin (`design.md` section 4,
//! rules 1 and 4). Kept in the `values` group, which does not forget.

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
