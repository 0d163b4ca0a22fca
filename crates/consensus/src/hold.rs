//! The hold on votes behind a start.
//!
//! A leader answers reads from its lease: for as long as its followers have promised not to elect another. openraft
//! keeps that promise in memory alone, so that a follower that restarts has forgotten it. Therefore a member that starts
//! with a vote in its log neither grants votes nor campaigns for one whole lease: whatever it has promised has run out
//! by then.
//!
//! One member need not wait: the only voter, whose vote is its own. What it may have promised others, it took for run out
//! when it voted for itself, before it ended. A vote that is another's may be a promise to a leader whose last change of
//! the voters has made this member the only one, and is not committed yet.

use std::time::Duration;

use openraft::{Raft, errors::Fatal};
use storage::Engine;
use tokio::time::Instant;

use crate::{state_machine::Machine, transport::wire::Refusal, types::TypeConfig};

/// Whether a member that has just started with a vote in its log must hold its votes back. Asked of openraft's own state,
/// which is what log and store say: its metrics may come behind.
///
/// # Errors
/// When the group has stopped.
pub(crate) async fn is_needed<E: Engine>(raft: &Raft<TypeConfig, Machine<E>>) -> Result<bool, Fatal<TypeConfig>> {
    let member = *raft.node_id();
    raft.with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids().peekable();
        let is_alone = voters.peek().is_some() && voters.all(|voter| voter == member);
        !(is_alone && state.vote_ref().leader_id.voted_for == member)
    })
    .await
}

/// Until when votes are held back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    until: Option<Instant>,
}

impl Hold {
    /// Holds votes back for `lease`, from now on.
    pub(crate) fn new(lease: Option<Duration>) -> Self {
        Self { until: lease.map(|lease| Instant::now() + lease) }
    }

    /// When campaigning may begin; none when at once.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets a request for a vote through.
    ///
    /// # Errors
    /// While votes are held back. A refusal, since to openraft an answer that grants nothing is a word about the
    /// answerer's own vote, and there is none to say.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self.until {
            Some(until) if Instant::now() < until => {
                Err(Refusal("this member has just started, and may have promised its vote".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use openraft::{
        EntryPayload,
        storage::{IOFlushed, RaftLogStorage},
        vote::leader_id_std::LeaderId,
    };
    use state::{
        apply::StateMachine,
        ids::{Keyspace, Position},
    };
    use storage::memory::MemoryEngine;

    use super::*;
    use crate::{
        CheckpointPolicy, Group, Options,
        env::System,
        log::memory::MemoryLog,
        transport::wire::{GroupId, Solitary},
        types::{Entry, MemberId, Membership, Peer, Vote, log_id},
    };

    fn options() -> Options {
        Options {
            group: GroupId::Values,
            member: MemberId::from(1),
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(150),
            checkpoints: CheckpointPolicy {
                applied_bytes: u64::MAX,
                interval: Duration::from_secs(3_600),
                dirty_bytes_max: u64::MAX,
            },
            log_disk_full: Arc::new(|| false),
            quiet: Duration::ZERO,
            spool: None,
            state_bytes_max: u64::MAX,
        }
    }

    fn membership(voters: &[u64], index: u64) -> Entry {
        let voters: BTreeSet<MemberId> = voters.iter().copied().map(MemberId::from).collect();
        let peers: BTreeMap<_, _> = voters.iter().map(|voter| (*voter, Peer::default())).collect();
        let payload = EntryPayload::Membership(Membership::new(vec![voters], peers).unwrap());
        Entry { log_id: log_id(Position { term: 1, index }), payload }
    }

    /// Whether member 1 waits whose log has these memberships, one behind the other, and this vote.
    async fn waits(memberships: &[&[u64]], voted_for: Option<u64>) -> bool {
        let mut log = MemoryLog::default();
        if let Some(voted_for) = voted_for {
            let leader_id = LeaderId { term: 1, voted_for: MemberId::from(voted_for) };
            log.save_vote(&Vote { leader_id, committed: false }).await.unwrap();
        }
        let entries = memberships.iter().zip(0..).map(|(voters, index)| membership(voters, index));
        log.append(entries.collect::<Vec<_>>(), IOFlushed::noop()).await.unwrap();
        let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Values).unwrap();
        let group = Group::start(options(), log, Solitary, machine, Arc::new(System::new())).await.unwrap();
        let waits = group.hold().until().is_some();
        group.shutdown().await;
        waits
    }

    #[tokio::test]
    async fn only_a_sole_voter_with_a_vote_of_its_own_does_not_wait() {
        assert!(!waits(&[], None).await, "a member that never voted has promised nothing");
        assert!(!waits(&[&[1]], Some(1)).await);
        assert!(!waits(&[&[1, 2], &[1]], Some(1)).await, "the newest membership counts");
        assert!(waits(&[&[1]], Some(2)).await, "a vote for another may be a promise");
        assert!(waits(&[&[1], &[1, 2]], Some(1)).await);
        assert!(waits(&[&[1, 2, 3]], Some(1)).await);
        assert!(waits(&[&[2]], Some(1)).await, "the sole voter is another");
        assert!(waits(&[], Some(1)).await, "a membership that is not known may have others");
    }

    /// What openraft's metrics show of a group that has just started depends on chance.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_group_of_one_never_waits() {
        for round in 0..50 {
            assert!(!waits(&[&[1]], Some(1)).await, "round {round}");
        }
    }
}
