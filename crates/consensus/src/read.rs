//! Linearizable reads on any member: everything acknowledged before the read began is in what it returns.
//!
//! 1. The leader answers under its lease, with no round to its peers; without a valid lease, after a quorum round.
//!    openraft never answers before the first entry of the leader's own term is committed, nor while it hands over.
//! 2. A follower asks the leader for that index. Reads that come while a question is under way share the next one: the
//!    one under way may have been answered before they began. A question to a leader that is none any more is given up,
//!    and asked anew of the next.
//! 3. The reader waits until this member has applied up to the index so learned, and reads its own state. One whose disk
//!    is full may not get there for hours: it says so, and the caller asks another member.

use std::time::Duration;

use openraft::{
    Raft, ReadPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{LinearizableReadError, RaftError},
    metrics::WaitError,
};
use storage::Engine;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Error,
    group::Group,
    state_machine::Machine,
    transport::{
        message::{Answer, Question},
        network::Peers,
    },
    types::{LogId, MemberId, Peer, TypeConfig},
};

/// How long a read looks for a leader.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long the leader may take to name an index before it is asked again.
const INDEX_WAIT_MAX: Duration = Duration::from_secs(1);
/// A member that keeps up with its leader has applied the index by then; one with a full disk is not waited for longer.
const FULL_DISK_PATIENCE: Duration = Duration::from_millis(100);

type Index = Result<Option<LogId>, Error>;

/// The reads of one member.
pub(crate) struct Reads {
    peers: Peers,
    round: Round,
}

/// Questions to the leader, one at a time, numbered.
struct Round {
    asking: Mutex<u64>,
    answered: watch::Sender<(u64, Index)>,
}

impl Reads {
    pub(crate) fn new(peers: Peers) -> Self {
        let round = Round { asking: Mutex::new(0), answered: watch::Sender::new((0, Err(Error::NoLeader))) };
        Self { peers, round }
    }

    /// Returns once this member's applied state is fit for a linearizable read.
    pub(crate) async fn await_linearizable<E: Engine>(&self, group: &Group<E>, deadline: Instant) -> Result<(), Error> {
        let leaderless_until = deadline.min(Instant::now() + LEADER_WAIT_MAX);
        loop {
            let index = timeout_at(deadline, self.index(group)).await.map_err(|_| Error::NoLeader)?;
            match index {
                Ok(index) => return await_applied(group, index, deadline).await,
                Err(Error::NoLeader | Error::NoQuorum) if Instant::now() < leaderless_until => {
                    group.await_news(leaderless_until).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn index<E: Engine>(&self, group: &Group<E>) -> Index {
        let leader = group.status().leader;
        if leader == Some(group.member()) {
            return index(group).await;
        }
        let (leader, peer) = group.leader_peer().ok_or(Error::NoLeader)?;
        self.shared_index(group, leader, &peer).await
    }

    /// The index of a question that was asked after this call began.
    async fn shared_index<E: Engine>(&self, group: &Group<E>, leader: MemberId, peer: &Peer) -> Index {
        let mut answered = self.round.answered.subscribe();
        // Whatever has this number or a lower one may have been asked before.
        let before = self.round.answered.borrow().0;
        let mut asking = self.round.asking.lock().await;
        let (last, index) = *answered.borrow_and_update();
        // Another one that waited for its turn behind the question of then has asked since.
        if last > before + 1 {
            return index;
        }
        // Whoever gives up here, by dropping this future, has used no number: the next in turn asks under the same.
        let index = tokio::select! {
            answer = self.peers.ask(leader, peer, &Question::ReadIndex, INDEX_WAIT_MAX) => match answer {
                // It has stopped, not this member.
                Ok(Answer::ReadIndex(Err(Error::Stopped))) => Err(Error::NoLeader),
                Ok(Answer::ReadIndex(index)) => index,
                Ok(_) | Err(_) => Err(Error::NoLeader),
            },
            () = deposed(group.raft(), leader) => Err(Error::NoLeader),
        };
        *asking += 1;
        let _ = self.round.answered.send_replace((*asking, index));
        index
    }
}

/// Returns once this member knows `leader` for the leader no more.
async fn deposed<E: Engine>(raft: &Raft<TypeConfig, Machine<E>>, leader: MemberId) {
    let mut metrics = raft.server_metrics();
    while metrics.borrow_watched().current_leader == Some(leader) {
        if metrics.changed().await.is_err() {
            // The group has stopped; the answer may come all the same.
            return std::future::pending().await;
        }
    }
}

/// The leader's answer up to where a read that begins now must have applied.
pub(crate) async fn index<E: Engine>(group: &Group<E>) -> Index {
    tokio::time::sleep_until(group.quiet_until()).await;
    let raft = group.raft();
    match index_under(raft, ReadPolicy::LeaseRead).await {
        Err(Error::NoQuorum) => index_under(raft, ReadPolicy::ReadIndex).await,
        other => other,
    }
}

async fn index_under<E: Engine>(raft: &Raft<TypeConfig, Machine<E>>, policy: ReadPolicy) -> Index {
    match raft.get_read_linearizer(policy).await {
        Ok(linearizer) => Ok(Some(*linearizer.read_log_id().log_id())),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Error::NoLeader),
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Error::NoQuorum),
        Err(RaftError::Fatal(_)) => Err(Error::Stopped),
    }
}

async fn await_applied<E: Engine>(group: &Group<E>, index: Option<LogId>, deadline: Instant) -> Result<(), Error> {
    if group.has_applied(index) {
        return Ok(());
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = group.raft().wait(Some(left.min(FULL_DISK_PATIENCE)));
        match wait.metrics(|metrics| metrics.last_applied >= index, "the read index to be applied").await {
            Ok(_) => return Ok(()),
            Err(WaitError::ShuttingDown) => return Err(Error::Stopped),
            Err(WaitError::Timeout(..)) if group.is_disk_full() => return Err(Error::DiskFull),
            Err(WaitError::Timeout(..)) if Instant::now() >= deadline => return Err(Error::Overloaded),
            Err(WaitError::Timeout(..)) => {}
        }
    }
}
