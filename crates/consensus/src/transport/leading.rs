//! What lets a leader answer reads from its own state, at once.
//!
//! openraft is asked through its core: two hand-overs between tasks for each read. A member whose published state shows all of
//! the following holds everything that was acknowledged before it looked, and need not ask:
//!
//! 1. It leads, and a quorum has answered something that it sent less than a lease ago: until the lease has run out, none
//!    of those who answered helps to elect another. What it looks at may be older than what is; then the lease is older too.
//! 2. It has not begun to hand over in this term: with that it gives its lease up. Noted before the message leaves.
//! 3. It has applied an entry of its own term, and with that all that leaders before it acknowledged.
//! 4. It has applied as much as it ever told others is committed, or they may have shown their readers more. Noted before
//!    the message leaves. What it acknowledges itself it has applied already.
//!
//! Where one of them is missing nothing is wrong: openraft is asked.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    transport::contact::{self, Metrics},
    types::{LogId, TypeConfig, Vote},
};
use openraft::{Instant as _, RaftMetrics, ServerState, async_runtime::watch::WatchReceiver as _};

/// One member's proof, from what openraft publishes and from what has left the member.
pub(crate) struct Leading {
    /// How long those who answer a leader elect no other.
    lease: Duration,
    /// Set once the group runs: the network, which needs it, is made before.
    metrics: OnceLock<Metrics>,
    /// The highest index that others were told is committed.
    told_committed: AtomicU64,
    /// The highest term whose leadership this member has begun to hand over.
    handed_over: AtomicU64,
}

impl Leading {
    /// For a group whose members elect nobody for `lease` after they have heard from a leader.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, metrics: OnceLock::new(), told_committed: AtomicU64::new(0), handed_over: AtomicU64::new(0) }
    }

    /// Takes the running group's metrics.
    pub(crate) fn follow(&self, metrics: Metrics) {
        // A group starts once.
        let _ = self.metrics.set(metrics);
    }

    /// Notes what a message says is committed. Call it before the message leaves.
    pub(crate) fn tells_committed(&self, committed: Option<&LogId>) {
        if let Some(committed) = committed {
            self.told_committed.fetch_max(committed.index, Ordering::SeqCst);
        }
    }

    /// Notes that the leader with this vote hands over. Call it before the message leaves.
    pub(crate) fn hands_over(&self, vote: &Vote) {
        self.handed_over.fetch_max(vote.leader_id.term, Ordering::SeqCst);
    }

    /// Whether this member's applied state, looked at from now on, holds everything that was acknowledged before this call.
    pub(crate) fn may_answer(&self) -> bool {
        self.metrics.get().is_some_and(|metrics| self.proves_it(&metrics.borrow_watched()))
    }

    fn proves_it(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let (term, Some(applied)) = (metrics.current_term, &metrics.last_applied) else { return false };
        metrics.state == ServerState::Leader
            && metrics.vote.leader_id.term == term
            && applied.leader_id.term == term
            && self.handed_over.load(Ordering::SeqCst) < term
            && self.told_committed.load(Ordering::SeqCst) <= applied.index
            && (contact::is_alone(metrics)
                || metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() < self.lease))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use openraft::{type_config::TypeConfigExt as _, vote::leader_id_std::LeaderId};
    use state::ids::Position;

    use super::*;
    use crate::types::{MemberId, Membership, Peer, StoredMembership, log_id};

    const LEASE: Duration = Duration::from_secs(60);

    fn at(term: u64, index: u64) -> LogId {
        log_id(Position { term, index })
    }

    fn vote(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, voted_for: MemberId::from(1) }, committed: true }
    }

    fn voters(sets: &[&[u64]]) -> Arc<StoredMembership> {
        let all = sets.iter().copied().flatten().map(|id| (MemberId::from(*id), Peer::default()));
        let all: BTreeMap<MemberId, Peer> = all.collect();
        let sets: Vec<BTreeSet<MemberId>> =
            sets.iter().map(|set| set.iter().copied().map(MemberId::from).collect()).collect();
        let membership = if sets.is_empty() { Membership::default() } else { Membership::new(sets, all).unwrap() };
        Arc::new(StoredMembership::new(Some(at(5, 1)), membership))
    }

    /// A leader of term 5 that has applied up to 10, with a lease.
    fn leader() -> RaftMetrics<TypeConfig> {
        let mut metrics = RaftMetrics::new_initial(MemberId::from(1));
        metrics.state = ServerState::Leader;
        metrics.current_term = 5;
        metrics.vote = vote(5);
        metrics.last_applied = Some(at(5, 10));
        metrics.membership_config = voters(&[&[1, 2, 3]]);
        metrics.last_quorum_acked = Some(TypeConfig::now().into());
        metrics
    }

    #[test]
    fn each_of_its_conditions_is_needed() {
        type Change = fn(&mut RaftMetrics<TypeConfig>, &Leading);
        let changes: [(&str, bool, Change); 13] = [
            ("as it is", true, |_, _| {}),
            ("it does not lead", false, |metrics, _| metrics.state = ServerState::Follower),
            ("it is on its way to another term", false, |metrics, _| metrics.current_term = 6),
            ("its vote is of an earlier term", false, |metrics, _| metrics.vote = vote(4)),
            ("nothing of its term is applied", false, |metrics, _| metrics.last_applied = Some(at(4, 10))),
            ("nothing is applied", false, |metrics, _| metrics.last_applied = None),
            ("it never had a quorum", false, |metrics, _| metrics.last_quorum_acked = None),
            ("its lease is over", false, |metrics, _| {
                metrics.last_quorum_acked = Some((TypeConfig::now() - LEASE).into())
            }),
            ("it hands over", false, |_, leading| leading.hands_over(&vote(5))),
            ("it has handed over, and leads again", true, |_, leading| leading.hands_over(&vote(4))),
            ("others know of more", false, |_, leading| leading.tells_committed(Some(&at(5, 11)))),
            ("others know of as much", true, |_, leading| leading.tells_committed(Some(&at(5, 10)))),
            ("what others knew of first counts", false, |_, leading| {
                leading.tells_committed(Some(&at(5, 11)));
                leading.tells_committed(Some(&at(5, 9)));
                leading.tells_committed(None);
            }),
        ];
        for (what, expected, change) in changes {
            let (mut metrics, leading) = (leader(), Leading::new(LEASE));
            change(&mut metrics, &leading);
            assert_eq!(leading.proves_it(&metrics), expected, "{what}");
        }
    }

    #[test]
    fn only_who_is_a_quorum_by_itself_needs_no_lease() {
        for (sets, expected) in [
            (&[&[1][..]][..], true),
            (&[&[2][..]], false),
            (&[&[1][..], &[1, 2]], false),
            (&[&[1, 2][..], &[1]], false),
            (&[], false),
        ] {
            let metrics = RaftMetrics { membership_config: voters(sets), last_quorum_acked: None, ..leader() };
            assert_eq!(Leading::new(LEASE).proves_it(&metrics), expected, "{sets:?}");
        }
    }

    #[test]
    fn before_the_group_runs_nothing_is_proved() {
        assert!(!Leading::new(LEASE).may_answer());
    }
}
