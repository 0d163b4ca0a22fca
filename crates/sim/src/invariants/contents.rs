//! What is there when all is quiet: every node shows the same values, usage is the sum over the live entries, and a page
//! of keys has each of them once, in order.

use std::collections::BTreeMap;

use insidb_oracle::Store;

use super::{Invariant, Violation, holds};
use crate::network::Place;

/// What one node shows of one tenant's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The values of the keys that are there.
    pub(crate) values: BTreeMap<String, String>,
    /// The page of all keys.
    pub(crate) page: Vec<String>,
    /// The bytes in use.
    pub(crate) usage_bytes: u64,
}

/// Checks what the nodes show of a tenant's store.
pub(crate) fn check(tenant: &str, store: Store, shown: &[(Place, Shown)]) -> Result<(), Violation> {
    for (place, of_node) in shown {
        let Shown { values, page, usage_bytes } = of_node;
        let recount: usize = values.iter().map(|(key, value)| key.len() + value.len()).sum();
        holds(*usage_bytes == recount as u64, Invariant::Contents, || {
            format!("{tenant} uses {usage_bytes} bytes of {store:?} by node {place}, and has {recount}: {values:?}")
        })?;
        holds(page.iter().eq(values.keys()), Invariant::Contents, || {
            format!("node {place} lists the keys {page:?} of {tenant} in {store:?}, and has {values:?}")
        })?;
        let (first, of_first) = &shown[0];
        holds(of_first == of_node, Invariant::Contents, || {
            format!("of {tenant} in {store:?} node {first} shows {of_first:?}, node {place} {of_node:?}")
        })?;
    }
    Ok(())
}
