//! The removal of a deleted scope's data, in bounded steps, so that it holds nobody up.
//!
//! In the Value Store the scope was closed when its key was deleted; in the Cache, which knows no keys, `CloseScope`
//! closes it. From then on no write can refill it. Each `Purge` removes some rows and gives their bytes back; the one
//! that finds none left removes the account. At last `Finish` forgets the scope in the Value Store; in the Cache one
//! small row a closed scope stays until the generation ends, against a write that was on its way when it was closed.

use storage::{Bytes, KeyRange, Transaction};

use crate::{
    bounds::PURGE_BYTES_MAX,
    command::Cleanup,
    ids::{Keyspace, ScopeId},
    layout::{self, Deletion},
    outcome::{Done, Fault, Rejection},
    rows::{Rows, Stop},
    usage::{Opened, size_bytes},
};

pub(super) fn apply<T: Transaction>(rows: &mut Rows<T>, keyspace: Keyspace, cleanup: &Cleanup) -> Result<Done, Stop> {
    match (cleanup, keyspace) {
        (Cleanup::CloseScope(scope), Keyspace::Cache) => close(rows, *scope),
        (Cleanup::Purge { scope, rows_max }, Keyspace::Values | Keyspace::Cache) => {
            purge(rows, keyspace, *scope, *rows_max)
        }
        (Cleanup::Finish(scope), Keyspace::Values) => finish(rows, *scope),
        (Cleanup::CloseScope(_), Keyspace::Values) | (Cleanup::Finish(_), Keyspace::Cache) => {
            Err(Rejection::WrongGroup.into())
        }
    }
}

/// Closes a scope. One that is closed already stays as it is. The root scope cannot be closed.
fn close<T: Transaction>(rows: &mut Rows<T>, scope: ScopeId) -> Result<Done, Stop> {
    if scope == ScopeId::ROOT {
        return Err(Rejection::NotReady.into());
    }
    if !rows.contains(&layout::deletion_key(scope))? {
        rows.store(&layout::deletion_key(scope), &Deletion::default())?;
        rows.discard(&layout::fence_key(scope))?;
        if let Some(mut opened) = Opened::find(rows, scope)? {
            opened.account.closed = true;
            opened.store(rows)?;
        }
    }
    Ok(Done::Accepted)
}

fn purge<T: Transaction>(rows: &mut Rows<T>, keyspace: Keyspace, scope: ScopeId, rows_max: u32) -> Result<Done, Stop> {
    let mut deletion: Deletion = rows.load(&layout::deletion_key(scope))?.ok_or(Rejection::NotReady)?;
    if deletion.purged {
        return Ok(Done::Purged { rows: 0, done: true });
    }
    let Step { taken, done } = next_step(rows, keyspace, scope, &deletion.cursor, rows_max)?;
    let removed = u32::try_from(taken.len()).expect("a step takes at most rows_max rows, which is a u32");
    let opened = Opened::find(rows, scope)?;
    match opened {
        Some(mut opened) => {
            for (key, value) in taken {
                let client_key = layout::client_key(&key)?;
                let (_, client_value) = layout::decode_value(&value)?;
                opened.account.usage.replace(scope, Some(size_bytes(client_key, client_value)), None, None)?;
                deletion.cursor = client_key[..client_key.len().min(Deletion::CURSOR_BYTES_MAX)].to_vec();
                rows.remove(&key, &value);
            }
            if done { opened.remove(rows)? } else { opened.store(rows)? }
        }
        None if taken.is_empty() => {} // a scope that the cache never saw
        None => return Err(Fault::Unbalanced { scope }.into()),
    }
    if done {
        deletion = Deletion { cursor: Vec::new(), purged: true };
    }
    rows.store(&layout::deletion_key(scope), &deletion)?;
    Ok(Done::Purged { rows: removed, done })
}

/// The rows that one step removes, and whether they are the last.
struct Step {
    taken: Vec<(Bytes, Bytes)>,
    done: bool,
}

fn next_step<T: Transaction>(
    rows: &Rows<T>,
    keyspace: Keyspace,
    scope: ScopeId,
    cursor: &[u8],
    rows_max: u32,
) -> Result<Step, Fault> {
    let mut range = KeyRange::prefix(&layout::scope_prefix(keyspace, scope));
    range.start = layout::value_key(keyspace, scope, cursor).into();
    let mut taken = Vec::new();
    let mut taken_bytes = 0;
    for row in rows.scan(range) {
        if taken.len() as u64 >= u64::from(rows_max) || taken_bytes >= PURGE_BYTES_MAX {
            return Ok(Step { taken, done: false });
        }
        let (key, value) = row?;
        taken_bytes += key.len() + value.len();
        taken.push((key, value));
    }
    Ok(Step { taken, done: true })
}

fn finish<T: Transaction>(rows: &mut Rows<T>, scope: ScopeId) -> Result<Done, Stop> {
    let key = layout::deletion_key(scope);
    match rows.load::<Deletion>(&key)? {
        Some(Deletion { purged: true, .. }) => {
            rows.discard(&key)?;
            Ok(Done::Accepted)
        }
        Some(Deletion { purged: false, .. }) | None => Err(Rejection::NotReady.into()),
    }
}
