//! The leader's side of the node lease, and the only way by which a node leaves the `values` group.
//!
//! A node that leaves must hold no lease: the next leader would not wait for it (`lease.rs`, rule 6). So every change of
//! the members goes through [`Lessor::change`]:
//!
//! 1. Decide what to change on the membership of now. Who leaves by it is granted nothing from here on.
//! 2. While a lease of theirs may run, wait a little and decide again: what was decided may be past. Then so until those were
//!    heard once more who must take part in it: a change of the voters that is begun and cannot be finished stops the group,
//!    and only their return ends that.
//! 3. Propose it in the term for which that was found, on the membership on which it was decided, or not at all.
//!
//! All who make changes go through it: what an operator asks for (`changes.rs`), the same machine with a new disk that
//! takes the place of a voter, and the second half of a change that another leader has left (`membership.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus::{ChangeError, Group, MemberChange, Members, env::Env, types::MemberId};
use state::ids::NodeId;
use storage::disk::DiskEngine;
use tokio::time::{Instant, sleep};

use super::{
    lease::{Leases, Leave},
    timing::{LOOK, RENEWAL_WAIT_MAX},
};

/// How often to look whether somebody was heard: between two heartbeats.
const HEARD_LOOK: Duration = Duration::from_millis(5);

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
        let mut ready_since = None;
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
            if leave != Leave::Now {
                // What was heard before the leases had ended counts for nothing.
                ready_since = None;
            }
            match leave {
                Leave::Now => {
                    let ready_for = now.saturating_sub(*ready_since.get_or_insert(now));
                    if can_be_finished(self.values.member(), &members, &change, ready_for) {
                        return Ok(self.values.change_members(change, basis).await);
                    }
                    sleep(HEARD_LOOK).await;
                }
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

/// Whether majorities of the voters before and after the change have answered to what was sent to them within this last time;
/// a change that is half done is finished in any case.
fn can_be_finished(own: MemberId, members: &Members, change: &MemberChange, within: Duration) -> bool {
    let MemberChange::SetVoters(after) = change else { return true };
    let is_fresh = |id: &&MemberId| {
        let heard = || members.members.iter().find(|member| member.id == **id)?.last_contact;
        **id == own || heard().is_some_and(|age| age < within)
    };
    let has_majority = |voters: &BTreeSet<MemberId>| 2 * voters.iter().filter(is_fresh).count() > voters.len();
    !members.is_settled || (has_majority(&members.voters) && has_majority(after))
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
    use consensus::{Member, types::Peer};

    use super::*;

    #[test]
    fn a_change_of_the_voters_waits_for_those_who_must_take_part() {
        let member = |node: u64, last_contact_ms: Option<u64>| Member {
            id: MemberId::from(node),
            peer: Peer::default(),
            is_voter: node != 4,
            matched_index: None,
            last_contact: last_contact_ms.map(Duration::from_millis),
        };
        let set = |ids: &[u64]| MemberChange::SetVoters(ids.iter().map(|id| MemberId::from(*id)).collect());
        let own = MemberId::from(1);
        let can = |contacts: [Option<u64>; 3], change: &MemberChange, is_settled| {
            let [second, third, fourth] = contacts;
            let members = vec![member(1, None), member(2, second), member(3, third), member(4, fourth)];
            let voters = members.iter().filter(|member| member.is_voter).map(|member| member.id).collect();
            let within = Duration::from_millis(50);
            can_be_finished(own, &Members { members, voters, is_settled }, change, within)
        };
        let (fresh, stale) = (Some(40), Some(900));
        assert!(can([fresh, fresh, fresh], &set(&[1, 2]), true));
        assert!(can([fresh, stale, None], &set(&[1, 2]), true), "who goes need not be heard");
        assert!(!can([stale, fresh, None], &set(&[1, 2]), true), "of the two that stay one was not");
        assert!(!can([stale, None, fresh], &set(&[1, 2, 4]), true), "nor a majority of those before");
        assert!(can([fresh, None, stale], &set(&[1, 2, 4]), true));
        assert!(can([stale, stale, stale], &set(&[1, 2]), false), "a half is worse than none");
        assert!(can([stale, stale, stale], &MemberChange::RemoveLearner(MemberId::from(4)), true));
    }

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
