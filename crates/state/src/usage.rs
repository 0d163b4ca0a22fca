//! Who uses how much: one account a scope, changed in the same transaction as the rows that it counts.

use serde::{Deserialize, Serialize};
use storage::{Bytes, Transaction};

use crate::{
    ids::{Keyspace, ScopeId},
    keys::Limits,
    layout,
    outcome::{Fault, Rejection},
    rows::{Rows, Stop},
};

/// A scope's books in one keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The sum of the sizes of the live keys and values, in bytes.
    pub bytes: u64,
    /// The number of live keys.
    pub keys: u64,
    /// The counter of accepted writes.
    pub revision: u64,
}

/// All that a write needs to know of its scope, in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) usage: Usage,
    /// The entity's limits; none for the root scope and in the cache, whose commands carry their quota.
    pub(crate) limits: Option<Limits>,
    /// Whether the scope is being removed, and takes no writes.
    pub(crate) closed: bool,
}

impl Account {
    /// The quota for a keyspace's writes, in bytes; `stamped` is the one that the command carries.
    pub(crate) fn quota_bytes(&self, keyspace: Keyspace, stamped: Option<u64>) -> Option<u64> {
        match keyspace {
            Keyspace::Values => self.limits.map(|limits| limits.bytes_on_disk),
            Keyspace::Cache => stamped,
        }
    }
}

/// The size of a key and its value, as `docs/api.md` section 4 counts it.
pub(crate) fn size_bytes(key: &[u8], value: &[u8]) -> u64 {
    key.len() as u64 + value.len() as u64
}

impl Usage {
    /// Replaces what a key takes, `old_bytes` (none: it did not exist), by `new_bytes` (none: it is removed). Refused
    /// when it grows the usage past the quota: a scope already over it may still shrink.
    pub(crate) fn replace(
        &mut self,
        scope: ScopeId,
        old_bytes: Option<u64>,
        new_bytes: Option<u64>,
        quota_bytes: Option<u64>,
    ) -> Result<(), Stop> {
        let balanced = |sum: Option<u64>| sum.ok_or(Fault::Unbalanced { scope });
        let (old, new) = (old_bytes.unwrap_or(0), new_bytes.unwrap_or(0));
        let bytes = balanced(self.bytes.checked_sub(old).and_then(|rest| rest.checked_add(new)))?;
        if let Some(quota_bytes) = quota_bytes.filter(|quota| bytes > self.bytes && bytes > *quota) {
            return Err(Rejection::QuotaExceeded { used_bytes: self.bytes, quota_bytes }.into());
        }
        let keys = self.keys.checked_sub(u64::from(old_bytes.is_some()));
        self.keys = balanced(keys.and_then(|rest| rest.checked_add(u64::from(new_bytes.is_some()))))?;
        self.bytes = bytes;
        Ok(())
    }
}

/// An account with the row that it was read from, so that storing it need not read again.
pub(crate) struct Opened {
    pub(crate) account: Account,
    scope: ScopeId,
    read: Option<(Bytes, Usage)>,
}

impl Opened {
    /// The scope's account, if it has one.
    pub(crate) fn find<T: Transaction>(rows: &Rows<T>, scope: ScopeId) -> Result<Option<Self>, Fault> {
        let Some(row) = rows.get(&layout::account_key(scope))? else { return Ok(None) };
        let account: Account = layout::decode(&row)?;
        Ok(Some(Self { account, scope, read: Some((row, account.usage)) }))
    }

    /// An account for a scope that has none; it exists once it is stored.
    pub(crate) fn new(scope: ScopeId, account: Account) -> Self {
        Self { account, scope, read: None }
    }

    /// Writes the account back, and what changed into the totals.
    pub(crate) fn store<T: Transaction>(self, rows: &mut Rows<T>) -> Result<(), Fault> {
        let (old_row, before) = self.read.unzip();
        rows.count(self.scope, before.unwrap_or_default(), self.account.usage)?;
        rows.replace(&layout::account_key(self.scope), old_row.as_deref(), &layout::encode(&self.account));
        Ok(())
    }

    /// As [`Opened::store`], where anything is used or counted that was not.
    pub(crate) fn store_changed<T: Transaction>(self, rows: &mut Rows<T>) -> Result<(), Fault> {
        let before = self.read.as_ref().map_or_else(Usage::default, |(_, before)| *before);
        if self.account.usage == before { Ok(()) } else { self.store(rows) }
    }

    /// Removes the account of an empty scope.
    pub(crate) fn remove<T: Transaction>(self, rows: &mut Rows<T>) -> Result<(), Fault> {
        let usage = self.account.usage;
        if usage.bytes != 0 || usage.keys != 0 {
            return Err(Fault::Unbalanced { scope: self.scope });
        }
        if let Some((old_row, before)) = self.read {
            rows.count(self.scope, before, usage)?;
            rows.remove(&layout::account_key(self.scope), &old_row);
        }
        Ok(())
    }
}
