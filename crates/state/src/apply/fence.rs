//! What the Cache, whose state knows no keys and limits, is told of their changes (`docs/api.md` section 3).
//!
//! A node lets a caller in, and its write is applied a moment later; between the two its alias may be deleted, or its limit
//! lowered, and that be acknowledged. The Value Store's state looks at keys and limits itself. The Cache has a fence
//! instead: a write says up to where the node had applied the `values` group's log when it let the caller in, and one
//! that is older than the scope's fence is refused. A fence is a small row, which stays until the generation ends.

use storage::{Read, Transaction};

use crate::{
    command::Fence,
    ids::{Keyspace, ScopeId},
    layout::{self, FenceRow},
    outcome::{Done, Fault, Rejection},
    rows::{Rows, Stop},
};

/// Raises the scope's fence. A late one changes nothing; nor is one needed where the scope is closed.
pub(super) fn apply<T: Transaction>(rows: &mut Rows<T>, keyspace: Keyspace, fence: Fence) -> Result<Done, Stop> {
    if keyspace != Keyspace::Cache {
        return Err(Rejection::WrongGroup.into());
    }
    let Fence { scope, control_index } = fence;
    let is_closed = rows.contains(&layout::deletion_key(scope))?;
    if !is_closed && admits(rows.read(), scope, control_index)? {
        rows.store(&layout::fence_key(scope), &FenceRow { control_index })?;
    }
    Ok(Done::Accepted)
}

/// Whether a caller that was let in at `control_index` may still write.
pub(super) fn admits(read: &impl Read, scope: ScopeId, control_index: u64) -> Result<bool, Fault> {
    let fence: Option<FenceRow> = layout::load(read, &layout::fence_key(scope))?;
    Ok(fence.is_none_or(|fence| fence.control_index <= control_index))
}
