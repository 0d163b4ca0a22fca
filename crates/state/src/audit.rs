//! The books, checked against the rows: for tests, and for an operator in doubt.

use std::collections::BTreeMap;

use storage::{KeyRange, View};

use crate::{
    applied::Totals,
    hash::StateHash,
    ids::ScopeId,
    layout,
    outcome::Fault,
    query::Reader,
    usage::{Account, Usage, size_bytes},
};

/// What a walk over all rows found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recount {
    /// The hash of all rows but the applied row; equals [`Applied::state_hash`](crate::applied::Applied::state_hash).
    pub state_hash: StateHash,
    /// The sums; equal [`Applied::totals`](crate::applied::Applied::totals).
    pub totals: Totals,
}

impl<V: View> Reader<V> {
    /// Walks over all rows, and answers the hash and the sums that they really have. Fails with [`Fault::Unbalanced`]
    /// when a scope's account differs from its rows. Takes memory for every scope, and as long as reading everything.
    pub fn recount(&self) -> Result<Recount, Fault> {
        let usage = self.recount_usage()?;
        let totals = Totals {
            bytes: usage.values().map(|usage| usage.bytes).sum(),
            keys: usage.values().map(|usage| usage.keys).sum(),
            entities: self.view().scan(KeyRange::prefix(&layout::ENTITY_PREFIX)).count() as u64,
        };
        self.check_accounts(usage)?;
        Ok(Recount { state_hash: self.rehash()?, totals })
    }

    fn rehash(&self) -> Result<StateHash, Fault> {
        let mut hash = StateHash::default();
        for row in self.view().scan(KeyRange::prefix(&[])) {
            let (key, value) = row?;
            if *key != layout::APPLIED_KEY {
                hash.insert(&key, &value);
            }
        }
        Ok(hash)
    }

    /// What each scope's rows add up to; as revision, the latest one found.
    fn recount_usage(&self) -> Result<BTreeMap<ScopeId, Usage>, Fault> {
        let mut usage: BTreeMap<ScopeId, Usage> = BTreeMap::new();
        for row in self.view().scan(KeyRange::prefix(&layout::values_prefix(self.keyspace()))) {
            let (key, row) = row?;
            let (revision, value) = layout::decode_value(&row)?;
            let sum = usage.entry(ScopeId(layout::row_id(&key)?)).or_default();
            sum.bytes += size_bytes(layout::client_key(&key)?, value);
            sum.keys += 1;
            sum.revision = sum.revision.max(revision);
        }
        Ok(usage)
    }

    /// Every account must say what its rows add up to, and every row must have an account.
    fn check_accounts(&self, mut recounted: BTreeMap<ScopeId, Usage>) -> Result<(), Fault> {
        for row in self.view().scan(KeyRange::prefix(&layout::ACCOUNT_PREFIX)) {
            let (key, value) = row?;
            let scope = ScopeId(layout::row_id(&key)?);
            let kept = layout::decode::<Account>(&value)?.usage;
            let found = recounted.remove(&scope).unwrap_or_default();
            if (kept.bytes, kept.keys) != (found.bytes, found.keys) || kept.revision < found.revision {
                return Err(Fault::Unbalanced { scope });
            }
        }
        recounted.into_keys().next().map_or(Ok(()), |scope| Err(Fault::Unbalanced { scope }))
    }
}
