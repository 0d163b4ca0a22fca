//! What a member knows of the others: where they are, its leader's hold on the group, and whether a log has gone back.
//!
//! A leader knows when a quorum last answered it. A follower is told so with each append: what the append says, aged
//! since it arrived. By this the cache group's members tell a leader that works from one that is cut off but still heard
//! (`ARCHITECTURE.md`, the volatile group, rule 6).

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use openraft::{
    Instant as _, RaftMetrics, ServerState, async_runtime::watch::WatchReceiver as _,
    type_config::alias::WatchReceiverOf,
};
use tokio::time::Instant;

use crate::types::{LogId, MemberId, Peer, TypeConfig};

pub(crate) type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// The last word from the leader.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    /// How old, at `at`, the leader's last quorum was at least; none when it never had one.
    quorum_age: Option<Duration>,
}

/// One member's view of its leader.
#[derive(Default)]
pub(crate) struct Contact {
    /// Set once the group runs: the network, which needs it, is made before.
    metrics: OnceLock<Metrics>,
    heard: Mutex<Option<Heard>>,
    /// Members whose log has gone back, and when they last showed it.
    reverted: Mutex<BTreeMap<MemberId, Instant>>,
}

/// The changes since the last look.
pub(crate) struct News(Option<Metrics>);

impl News {
    /// Returns behind a change since the last call; at once the first time, maybe.
    pub(crate) async fn changed(&mut self) {
        if let Some(metrics) = &mut self.0
            && metrics.changed().await.is_ok()
        {
            return;
        }
        // The group has stopped, or has yet to start.
        std::future::pending().await
    }
}

impl Contact {
    /// Takes the running group's metrics.
    pub(crate) fn follow(&self, metrics: Metrics) {
        // A group starts once.
        let _ = self.metrics.set(metrics);
    }

    /// Notes an append that this member took from its leader. A leader that has just begun has had no quorum of its own yet:
    /// what was known of the group stays then, and ages.
    pub(crate) fn heard(&self, quorum_age_ms: Option<u64>) {
        let mut heard = self.lock();
        let known = heard.and_then(|before| before.quorum_age.map(|age| age + before.at.elapsed()));
        let quorum_age = quorum_age_ms.map(Duration::from_millis).or(known);
        *heard = Some(Heard { at: Instant::now(), quorum_age });
    }

    /// How long ago this member's state was known to be on its way to the leader's. None when it never was. The leader's
    /// own is the age of its last quorum: it may have been replaced since without knowing it.
    pub(crate) fn staleness(&self) -> Option<Duration> {
        let as_leader = if self.leads() { self.own_quorum_age() } else { None };
        as_leader.or_else(|| self.lock().map(|heard| heard.at.elapsed()))
    }

    /// How long ago the leader last had a quorum, as far as this member knows. None when it never heard.
    pub(crate) fn quorum_age(&self) -> Option<Duration> {
        let as_leader = if self.leads() { self.own_quorum_age() } else { None };
        as_leader.or_else(|| {
            let heard = (*self.lock())?;
            heard.quorum_age.map(|age| age + heard.at.elapsed())
        })
    }

    /// What an append says: for a leader alone.
    pub(crate) fn quorum_age_ms(&self) -> Option<u64> {
        self.own_quorum_age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// Where a member is reached by the membership of now. openraft keeps its links to a member whose address has changed.
    pub(crate) fn peer(&self, id: MemberId) -> Option<Peer> {
        let metrics = self.metrics.get()?.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    /// Takes note of a member that says it has no entry at `conflict`. True when it had acknowledged it to this leader: its
    /// log has gone back, and what it has promised with it. openraft relies on that this never is.
    pub(crate) fn has_gone_back(&self, id: MemberId, conflict: LogId) -> bool {
        let matched = self.matched(id);
        let has_gone_back = matched.is_some_and(|matched| matched.index >= conflict.index);
        if has_gone_back && self.reverted().insert(id, Instant::now()).is_none() {
            tracing::error!(member = %id, acknowledged = matched.map(|log_id| log_id.index), missing = conflict.index,
                "a member's log has lost what it had acknowledged: an old copy of its directory, or a disk that lost writes");
        }
        has_gone_back
    }

    /// Takes note of a member that has the entry: where it is all that it ever acknowledged, its log is whole again.
    pub(crate) fn has_it(&self, id: MemberId, log_id: LogId) {
        let mut reverted = self.reverted();
        if reverted.contains_key(&id) && self.matched(id).is_some_and(|matched| matched.index <= log_id.index) {
            reverted.remove(&id);
        }
    }

    fn matched(&self, id: MemberId) -> Option<LogId> {
        let metrics = self.metrics.get()?.borrow_watched();
        metrics.replication.as_ref()?.get(&id).copied().flatten()
    }

    /// How long ago a member last showed that its log has gone back.
    pub(crate) fn gone_back_age(&self, id: MemberId) -> Option<Duration> {
        self.reverted().get(&id).map(Instant::elapsed)
    }

    fn reverted(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, Instant>> {
        self.reverted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leads(&self) -> bool {
        self.metrics.get().is_some_and(|metrics| metrics.borrow_watched().state == ServerState::Leader)
    }

    /// To be told when anything changes that the leader's hold is derived from.
    pub(crate) fn news(&self) -> News {
        News(self.metrics.get().cloned())
    }

    /// How long ago this member, as the leader, last had a quorum.
    pub(crate) fn own_quorum_age(&self) -> Option<Duration> {
        let metrics = self.metrics.get()?.borrow_watched();
        if is_alone(&metrics) {
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the member is a quorum by itself, in each of the sets of voters that count.
pub(crate) fn is_alone(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let voters = metrics.membership_config.membership().get_joint_config();
    !voters.is_empty() && voters.iter().all(|voters| voters.len() == 1 && voters.contains(&metrics.id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_has_just_begun_leaves_what_was_known_of_the_group() {
        let contact = Contact::default();
        assert_eq!(contact.quorum_age(), None);
        contact.heard(None);
        assert_eq!(contact.quorum_age(), None, "it never had one, as far as is known");
        contact.heard(Some(40));
        contact.heard(None);
        let age = contact.quorum_age().unwrap();
        assert!(age >= Duration::from_millis(40) && age < Duration::from_secs(10), "{age:?}");
        contact.heard(Some(0));
        assert!(contact.quorum_age().unwrap() < age);
    }
}
