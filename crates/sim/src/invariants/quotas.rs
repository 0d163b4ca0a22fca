//! No accepted write raises a tenant's usage above the quota that it was admitted under.
//!
//! A quota counts once its change is acknowledged: from there on nothing that was admitted under another one is applied. So
//! from a state that holds all that was acknowledged, a leader's, and in every later one, whoever shows it, usage is at most
//! the quota, or at most what it was before in the same quiet time: a quota below what is in use takes nothing away.

use std::collections::BTreeMap;

use insidb_oracle::Store;

use super::{Invariant, Violation, holds};
use crate::network::Place;

/// Which books: a tenant's, in a store and, of the Cache, in a generation.
type Book = (usize, Store, u64);

/// What a node shows of one tenant in one store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// Of the Cache; 0 for the Value Store.
    pub(crate) generation: u64,
    /// Up to where the node has applied the store's log.
    pub(crate) index: u64,
    /// The bytes in use there.
    pub(crate) usage_bytes: u64,
    /// Whether the node leads the newest term and has applied an entry of it: then it has applied all that was acknowledged.
    pub(crate) leads: bool,
}

/// What is known since the last change of a quota.
#[derive(Clone, Copy, Debug)]
struct Known {
    index: u64,
    usage_bytes: u64,
}

/// What was seen of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    known: BTreeMap<Book, Known>,
    /// Since which change of its quotas each tenant's books are kept.
    epochs: BTreeMap<usize, u64>,
}

impl Quotas {
    /// A tenant's quotas have been changed so often: with another number than before, nothing is known.
    pub(crate) fn begin(&mut self, tenant: usize, epoch: u64) {
        if self.epochs.insert(tenant, epoch) != Some(epoch) {
            self.known.retain(|(of, _, _), _| *of != tenant);
        }
    }

    /// Takes up what all nodes show of a tenant in one store, whose quota has been in force since before.
    pub(crate) fn see(
        &mut self,
        tenant: usize,
        store: Store,
        quota_bytes: u64,
        shown: &[(Place, Shown)],
    ) -> Result<(), Violation> {
        let Some(generation) = shown.iter().map(|(_, shown)| shown.generation).max() else { return Ok(()) };
        let mut in_order: Vec<_> = shown.iter().filter(|(_, shown)| shown.generation == generation).collect();
        in_order.sort_by_key(|(place, shown)| (shown.index, *place));
        let book = (tenant, store, generation);
        // A generation that began in this quiet time began empty.
        let has_begun_since =
            self.known.keys().any(|(of, in_store, before)| (*of, *in_store) == (tenant, store) && *before < generation);
        let leader = in_order.iter().rfind(|(_, shown)| shown.leads);
        let mut known = match (self.known.get(&book), leader) {
            (Some(known), _) => *known,
            (None, _) if has_begun_since => Known { index: 0, usage_bytes: 0 },
            (None, Some((_, leader))) => Known { index: leader.index, usage_bytes: u64::MAX },
            (None, None) => return Ok(()),
        };
        for (place, Shown { index, usage_bytes, .. }) in in_order {
            if *index < known.index {
                continue;
            }
            let most = known.usage_bytes.max(quota_bytes);
            holds(*usage_bytes <= most, Invariant::Quota, || {
                format!(
                    "tenant {tenant} has a quota of {quota_bytes} bytes in {store:?}, had {} in use, and at index {index} of \
                     node {place} {usage_bytes}",
                    known.usage_bytes
                )
            })?;
            known = Known { index: *index, usage_bytes: *usage_bytes };
        }
        self.known.insert(book, known);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(generation: u64, index: u64, usage_bytes: u64) -> Shown {
        Shown { generation, index, usage_bytes, leads: index == 7 }
    }

    #[test]
    fn usage_above_a_quota_may_only_fall() {
        let mut quotas = Quotas::default();
        let mut see = |shown: &[(Place, Shown)]| quotas.see(0, Store::Values, 100, shown).is_ok();
        assert!(see(&[(1, at(0, 5, 120))]) && see(&[(1, at(0, 6, 130))]), "it may lack what was acknowledged");
        assert!(see(&[(0, at(0, 7, 150)), (1, at(0, 5, 190))]), "what was there before");
        assert!(see(&[(1, at(0, 6, 190))]), "a node that is behind shows older states");
        assert!(see(&[(1, at(0, 9, 140))]));
        assert!(!see(&[(0, at(0, 10, 145))]));
    }

    #[test]
    fn a_new_generation_begins_empty_and_a_new_quota_anew() {
        let mut quotas = Quotas::default();
        quotas.see(0, Store::Cache, 100, &[(0, at(3, 7, 150))]).unwrap();
        assert!(quotas.see(0, Store::Cache, 100, &[(0, at(4, 2, 101))]).is_err());
        quotas.see(0, Store::Cache, 100, &[(0, at(4, 2, 100))]).unwrap();
        quotas.begin(0, 1);
        quotas.see(0, Store::Cache, 50, &[(0, at(4, 7, 120))]).unwrap();
        assert!(quotas.see(0, Store::Cache, 50, &[(0, at(4, 8, 121))]).is_err());
    }
}
