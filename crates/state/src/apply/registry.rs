//! The cache group's registry: [`crate::registry`] has the rules, this keeps it as a row of the `values` group, which does
//! not forget.

use storage::Transaction;

use crate::{
    command::Registry,
    ids::Keyspace,
    layout,
    outcome::{Done, Rejection},
    registry::RegistryState,
    rows::{Rows, Stop},
};

pub(super) fn apply<T: Transaction>(rows: &mut Rows<T>, keyspace: Keyspace, change: &Registry) -> Result<Done, Stop> {
    if keyspace != Keyspace::Values {
        return Err(Rejection::WrongGroup.into());
    }
    let mut state: RegistryState = rows.load(&layout::REGISTRY_KEY)?.unwrap_or_default();
    let done = state.apply(change)?;
    rows.store(&layout::REGISTRY_KEY, &state)?;
    Ok(done)
}
