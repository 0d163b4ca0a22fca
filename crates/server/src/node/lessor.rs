//! The leader's side of the node lease, and the only way by which a node leaves the `values` group.
//!
//! A node that leaves must hold no lease: the next leader would not wait for it (`lease.rs`, rule 6). So every change of
//! the members goes through [`Lessor::change`]:
//!
//! 1. Decide what to change on the membership of now. Who leaves by it is granted nothing from here on.
//! 2. While a lease of theirs may run, wait a little and decide again: what was decided may be past.
//! 3. Propose it in the term for which that was found, on the membership on which it was decided, or not at all.
//!
//! All who make changes go through it: what an operator asks for (`changes.rs`), the same machine with a new disk that
//! takes the place of a voter, and the second half of a change that another leader has left (`membership.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus::{ChangeError, Group, MemberChange, Members, env::Env};
use state::ids::NodeId;
use storage::disk::DiskEngine;
use tokio::time::{Instant, sleep};

use super::{
    lease::{Leases, Leave},
    timing::{LOOK, RENEWAL_WAIT_MAX},
};

/// Grants leases where this node leads the `values` group. Clones share them.
#[derive(Clone)]
pub(super) struct Lessor {
    values: Group<DiskEngine>,
    env: Arc<dyn Env>,
    leases: Arc<Mutex<Leases>>,
}

/// That this node leads, since before it was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    /// In which term.
    pub(super) term: u64,
    /// What it had applied since.
    pub(super) applied: u64,
}

/// Who leaves by a change.
struct Departure<'a> {
    lessor: &'a Lessor,
    node: NodeId,
}

impl<'a> Departure<'a> {
    fn begin(lessor: &'a Lessor, node: NodeId) -> Self {
        lessor.leases().begin_departure(node);
        Self { lessor, node }
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.lessor.leases().end_departure(self.node);
    }
}

impl Lessor {
    pub(super) fn new(values: Group<DiskEngine>, env: Arc<dyn Env>) -> Self {
        Self { values, env, leases: Arc::default() }
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which leases are counted.
    pub(super) fn now(&self) -> Duration {
        self.env.monotonic()
    }

    /// Confirms that this node leads, since before this call, and that the leases are those of its term.
    pub(super) async fn confirm(&self, wait_max: Duration) -> Option<Confirmed> {
        let before = self.values.status();
        if !before.is_leader {
            return None;
        }
        self.values.read(Instant::now() + wait_max).await.ok()?;
        let after = self.values.status();
        let is_confirmed = after.is_leader && before.term == after.term;
        let confirmed = Confirmed { term: after.term, applied: after.applied_index };
        (is_confirmed && self.leases().enter(after.term, after.applied_index, self.now())).then_some(confirmed)
    }

    /// Changes the members as `decide` says, which is asked again whenever the members may be others. Must not be dropped
    /// halfway: what was proposed may come true later, and whoever leaves by it must be granted nothing until then.
    ///
    /// # Errors
    /// The outer one is `decide`'s own.
    pub(super) async fn change<T>(
        &self,
        decide: impl Fn(&Members) -> Result<MemberChange, T>,
    ) -> Result<Result<(), ChangeError>, T> {
        let mut departures = BTreeMap::new();
        loop {
            let (members, basis) = self.values.membership();
            let change = decide(&members)?;
            let nodes = who_leaves(&members, &change);
            departures.retain(|node, _| nodes.contains(node));
            for node in &nodes {
                departures.entry(*node).or_insert_with(|| Departure::begin(self, *node));
            }
            let now = self.now();
            let leave = self.leases().may_leave(basis.term(), &nodes, now);
            match leave {
                Leave::Now => return Ok(self.values.change_members(change, basis).await),
                Leave::At(at) => sleep(LOOK.min(at.saturating_sub(now))).await,
                Leave::OtherTerm => {
                    if self.confirm(RENEWAL_WAIT_MAX).await.is_none() {
                        return Ok(Err(ChangeError::NotLeader));
                    }
                }
            }
        }
    }
}

/// Who is a member no more after the change.
fn who_leaves(members: &Members, change: &MemberChange) -> BTreeSet<NodeId> {
    match change {
        MemberChange::AddLearner(..) => BTreeSet::new(),
        MemberChange::RemoveLearner(id) => [id.node].into(),
        MemberChange::SetVoters(voters) => {
            let leavers = members.members.iter().filter(|member| member.is_voter && !voters.contains(&member.id));
            leavers.map(|member| member.id.node).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus::{
        Member,
        types::{MemberId, Peer},
    };

    use super::*;

    #[test]
    fn who_loses_the_vote_or_the_learners_place_leaves() {
        let member = |node: u64, is_voter| Member {
            id: MemberId::from(node),
            peer: Peer::default(),
            is_voter,
            matched_index: None,
            last_contact: None,
        };
        let members = Members {
            members: vec![member(1, true), member(2, true), member(3, true), member(4, false)],
            // A transition in which 3 is on its way out: it is a member still.
            voters: [1, 2].map(MemberId::from).into(),
            is_settled: false,
        };
        let voters = |ids: &[u64]| MemberChange::SetVoters(ids.iter().map(|id| MemberId::from(*id)).collect());
        for (change, expected) in [
            (voters(&[1, 2]), vec![3]),
            (voters(&[1, 2, 3, 4]), vec![]),
            (voters(&[1, 4]), vec![2, 3]),
            (MemberChange::RemoveLearner(MemberId::from(4)), vec![4]),
            (MemberChange::AddLearner(MemberId::from(5), Peer::default()), vec![]),
        ] {
            let leave: Vec<u64> = who_leaves(&members, &change).iter().map(|node| node.0).collect();
            assert_eq!(leave, expected, "{change:?}");
        }
    }
}
