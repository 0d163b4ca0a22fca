//! Who belongs to a group: what its leader knows of each member, and how members come, go and hand over.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers, Instant as _, Precondition, RaftMetrics, ReadPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
};
use storage::Engine;
use tokio::time::{Instant, timeout_at};

use crate::{
    Error,
    group::Group,
    types::{CommittedLeaderId, LogId, MemberId, Peer, TypeConfig},
};

/// A group's members, as far as this one has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Every member, voters and learners, by id.
    pub members: Vec<Member>,
    /// Who votes; in a transition, who will.
    pub voters: BTreeSet<MemberId>,
    /// Whether the newest membership is committed, and is no transition between two sets of voters.
    pub is_settled: bool,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Where it is reached.
    pub peer: Peer,
    /// Whether it votes, in either set of a transition.
    pub is_voter: bool,
    /// Up to which index its log is known to match the leader's; known on the leader alone.
    pub matched_index: Option<u64>,
    /// How long ago it last answered the leader; known on the leader alone.
    pub last_contact: Option<Duration>,
}

/// What a change of the members was decided on: a term and a membership. The change is proposed in that term and on that
/// membership, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    term: u64,
    membership: Option<LogId>,
}

impl Basis {
    /// The term.
    pub fn term(&self) -> u64 {
        self.term
    }
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a learner, or gives a member another address.
    AddLearner(MemberId, Peer),
    /// Makes these members the voters, through joint consensus; former voters leave the group.
    SetVoters(BTreeSet<MemberId>),
    /// Takes a learner out of the group.
    RemoveLearner(MemberId),
}

/// Why a change of the members has not come about, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead. Nothing was proposed.
    #[error("another node leads")]
    NotLeader,
    /// An earlier change is not committed yet, or one of the members is not there. Nothing was proposed.
    #[error("another change of the members is under way")]
    UnderWay,
    /// Leader or membership are not those of the [`Basis`] any more. Nothing was proposed, or the first of two steps was:
    /// the membership shows it.
    #[error("the members or the leader have changed meanwhile")]
    Overtaken,
    /// It was proposed, and what became of it is not known.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
}

impl<E: Engine> Group<E> {
    /// The group's members.
    pub fn members(&self) -> Members {
        self.membership().0
    }

    /// The group's members, with what a change that is decided on them needs.
    pub fn membership(&self) -> (Members, Basis) {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let basis = Basis { term: metrics.current_term, membership: *metrics.membership_config.log_id() };
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let members = membership
            .nodes()
            .map(|(id, peer)| Member {
                id: *id,
                peer: peer.clone(),
                is_voter: voters.contains(id),
                matched_index: metrics
                    .replication
                    .as_ref()
                    .and_then(|matched| matched.get(id)?.as_ref())
                    .map(|log_id| log_id.index()),
                last_contact: metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|heard| heard.get(id)?.as_ref())
                    .map(|heard| heard.elapsed()),
            })
            .collect();
        let target = membership.get_joint_config().last().cloned().unwrap_or_default();
        let is_settled = membership.get_joint_config().len() == 1
            && metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        (Members { members, voters: target, is_settled }, basis)
    }

    /// Makes a change that was decided on `basis`; returns once it is committed. openraft compares term and membership
    /// where it appends the entry, so that nothing can come between; the term once more before the second step of a
    /// change of voters.
    ///
    /// # Errors
    /// See [`ChangeError`]. Dropping the future leaves it open how far the change goes.
    pub async fn change_members(&self, change: MemberChange, basis: Basis) -> Result<(), ChangeError> {
        let (change, retain) = match change {
            MemberChange::AddLearner(id, peer) => (ChangeMembers::SetNodes([(id, peer)].into()), true),
            MemberChange::SetVoters(voters) => (ChangeMembers::ReplaceAllVoters(voters), false),
            MemberChange::RemoveLearner(id) => (ChangeMembers::RemoveNodes([id].into()), false),
        };
        let conditions = [
            Precondition::CommittedLeaderId { committed_leader_id: CommittedLeaderId::new(basis.term) },
            Precondition::LastMembershipLogId { last_membership_log_id: basis.membership },
        ];
        match self.raft().change_membership_if(change, retain, conditions).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ChangeError::NotLeader),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => Err(ChangeError::UnderWay),
            Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) => Err(ChangeError::Overtaken),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_)) => {
                Err(ChangeError::OutcomeUnknown)
            }
        }
    }

    /// The voters, for who must know them better than [`Group::members`] does: a leader may have been replaced without
    /// having heard of it. A quorum confirms, by a round that begins after the call, that this member leads, and the first
    /// entry of its own term is committed, so that no entry of an older leader can come into force any more; then it looks
    /// at its log. None when it does not lead any more, or a change is under way.
    ///
    /// # Errors
    /// [`Error::NoLeader`] when this member does not lead; [`Error::NoQuorum`] when no quorum has confirmed by the
    /// deadline that it does; [`Error::Stopped`].
    pub async fn confirmed_voters(&self, deadline: Instant) -> Result<Option<BTreeSet<MemberId>>, Error> {
        let raft = self.raft();
        let confirmed = async {
            let confirmed = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
                RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::NoQuorum,
                RaftError::Fatal(_) => Error::Stopped,
            })?;
            let own_entry = Some(*confirmed.read_log_id().log_id());
            let wait = raft.wait(None);
            let applied = wait.metrics(|metrics| metrics.last_applied >= own_entry, "its term's first entry");
            applied.await.map(drop).map_err(|_| Error::Stopped)
        };
        timeout_at(deadline, confirmed).await.unwrap_or(Err(Error::NoQuorum))?;
        // Asked of the core itself, behind every change that was asked for before.
        let looked = raft.with_raft_state(|state| {
            let (effective, committed) = (state.membership_state.effective(), state.membership_state.committed());
            let is_settled =
                effective.log_id() == committed.log_id() && effective.membership().get_joint_config().len() == 1;
            (state.server_state.is_leader() && is_settled).then(|| effective.membership().voter_ids().collect())
        });
        looked.await.map_err(|_| Error::Stopped)
    }

    /// Adds a learner, or gives a member another address. Returns once that is committed; the learner catches up behind.
    ///
    /// # Errors
    /// Only [`Error::OutcomeUnknown`] leaves it open whether the change took effect.
    pub async fn add_learner(&self, id: MemberId, peer: Peer) -> Result<(), Error> {
        self.change(ChangeMembers::SetNodes([(id, peer)].into()), true).await
    }

    /// Makes these members the voters, through joint consensus; former voters leave the group. Each must be a member.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn set_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), Error> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Takes a learner out of the group.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn remove_learner(&self, id: MemberId) -> Result<(), Error> {
        self.change(ChangeMembers::RemoveNodes([id].into()), false).await
    }

    async fn change(&self, change: ChangeMembers<MemberId, Peer>, retain: bool) -> Result<(), Error> {
        match self.raft().change_membership(change, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Error::NoLeader),
            // Another change is under way, or a member is not there: nothing was proposed.
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => Err(Error::Overloaded),
            Err(_) => Err(Error::OutcomeUnknown),
        }
    }

    /// Hands the leadership to another voter, and waits until it has taken it.
    ///
    /// # Errors
    /// [`Error::NotLeader`] when this member does not lead; [`Error::NoQuorum`] when the other has not taken it in time.
    pub async fn transfer(&self, to: MemberId, wait_max: Duration) -> Result<(), Error> {
        let status = self.status();
        if !status.is_leader {
            return Err(Error::NotLeader(status.leader));
        }
        self.raft().trigger().transfer_leader(to).await.map_err(|_| Error::Stopped)?;
        let taken = |metrics: &RaftMetrics<TypeConfig>| metrics.current_leader.is_some_and(|leader| leader == to);
        let wait = self.raft().wait(Some(wait_max)).metrics(taken, "the leadership to be taken over").await;
        wait.map(drop).map_err(|_| Error::NoQuorum)
    }

    /// Hands the leadership to the voter that has come furthest, if this member leads and there is one, and waits until what
    /// it had proposed is answered: the next leader commits it. For an orderly stop: what fails here is what a crash would do.
    pub async fn hand_over(&self, wait_max: Duration) {
        let members = self.members();
        let others = members.members.iter().filter(|member| member.is_voter && member.id != self.member());
        // One that answers, before one that has come as far and does not.
        let furthest = others.max_by_key(|member| (member.matched_index, member.last_contact.map(Reverse)));
        if let Some(other) = furthest
            && let Err(error) = self.transfer(other.id, wait_max).await
            && !matches!(error, Error::NotLeader(_))
        {
            // As where a whole cluster is stopped: the last node finds nobody.
            tracing::info!(%error, "the leadership was not handed over");
        }
        self.submitter().drain(wait_max).await;
    }
}
