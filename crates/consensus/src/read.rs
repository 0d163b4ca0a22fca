//! Linearizable reads on any member: everything acknowledged before the read began is in what it returns.
//!
//! 1. The leader answers under its lease, with no round to its peers, and as a rule without a question to openraft
//!    (`transport/leading.rs`); without a valid lease, after a quorum round.
//!    openraft never answers before the first entry of the leader's own term is committed, nor while it hands over.
//! 2. A follower asks the leader for that index. Reads that come while a question is under way share the next one: the
//!    one under way may have been answered before they began. A question to a leader that is none any more is given up,
//!    and asked anew of the next.
//! 3. The reader waits until this member has applied up to the index so learned, and reads its own state. One whose disk
//!    is full may not get there for hours: it says so, and the caller asks another member.

use std::{sync::Arc, time::Duration};

use openraft::{
    Raft, ReadPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{LinearizableReadError, RaftError},
    metrics::WaitError,
};
use storage::Engine;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    Error,
    gate::Gate,
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
/// Answers of the leader that may wait until they are applied here, before it is asked again.
const ANSWERS_MAX: usize = 16;

type Index = Result<Option<LogId>, Error>;

/// A read that waits until its member's state is fit for it.
type Waiting = oneshot::Sender<Result<(), Error>>;

/// The reads of one member while another leads.
pub(crate) struct Reads(mpsc::UnboundedSender<Waiting>);

impl Reads {
    /// Starts the task that asks the leader, on the current runtime. It ends when nobody can read any more.
    pub(crate) fn start<E: Engine>(raft: Raft<TypeConfig, Machine<E>>, peers: Peers, gate: Arc<Gate>) -> Self {
        let (reads, waiting) = mpsc::unbounded_channel();
        tokio::spawn(Follower { raft, peers, gate }.run(waiting));
        Self(reads)
    }

    /// Returns once this member's applied state is fit for a linearizable read.
    pub(crate) async fn await_linearizable<E: Engine>(&self, group: &Group<E>, deadline: Instant) -> Result<(), Error> {
        let leaderless_until = deadline.min(Instant::now() + LEADER_WAIT_MAX);
        loop {
            match self.await_once(group, deadline).await {
                Err(Error::NoLeader | Error::NoQuorum) if Instant::now() < leaderless_until => {
                    group.await_news(leaderless_until).await;
                }
                done => return done,
            }
        }
    }

    async fn await_once<E: Engine>(&self, group: &Group<E>, deadline: Instant) -> Result<(), Error> {
        if group.status().leader == Some(group.member()) {
            let index = timeout_at(deadline, index(group)).await.map_err(|_| Error::NoLeader)??;
            let applied = await_applied(group.raft(), index, || group.is_disk_full().then_some(Error::DiskFull));
            return timeout_at(deadline, applied).await.unwrap_or(Err(Error::Overloaded));
        }
        let (waiting, done) = oneshot::channel();
        self.0.send(waiting).map_err(|_| Error::Stopped)?;
        match timeout_at(deadline, done).await {
            Ok(done) => done.unwrap_or(Err(Error::Stopped)),
            Err(_) if group.quorum_age().is_some_and(|age| age < INDEX_WAIT_MAX) => Err(Error::Overloaded),
            Err(_) => Err(Error::NoLeader),
        }
    }
}

/// What asks the leader for all who read here: one question at a time.
///
/// All who wait for the same answer are told by whoever got it. Would they take turns instead, each woken by the one before, the
/// last of a thousand on a busy machine would have waited for a thousand wake-ups.
struct Follower<E: Engine> {
    raft: Raft<TypeConfig, Machine<E>>,
    peers: Peers,
    gate: Arc<Gate>,
}

impl<E: Engine> Follower<E> {
    async fn run(self, mut reads: mpsc::UnboundedReceiver<Waiting>) {
        let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
        loop {
            let place = answers.clone().acquire_owned().await.expect("the semaphore is never closed");
            let mut waiting = Vec::new();
            if reads.recv_many(&mut waiting, usize::MAX).await == 0 {
                return;
            }
            // Whoever comes from here on may have begun behind what the leader answers: that is for the next question.
            match self.ask().await {
                Ok(index) => drop(tokio::spawn(tell(self.raft.clone(), self.gate.clone(), index, waiting, place))),
                Err(error) => tell_all(waiting, Err(error)),
            }
        }
    }

    /// The leader with its address; none when it is not known, or is this member.
    fn leader(&self) -> Option<(MemberId, Peer)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
        let peer = metrics.membership_config.membership().get_node(&leader)?;
        Some((leader, peer.clone()))
    }

    /// The leader's answer up to where reads that have begun must have applied.
    async fn ask(&self) -> Index {
        let (leader, peer) = self.leader().ok_or(Error::NoLeader)?;
        tokio::select! {
            answer = self.peers.ask(leader, &peer, &Question::ReadIndex, INDEX_WAIT_MAX) => match answer {
                // It has stopped, not this member.
                Ok(Answer::ReadIndex(Err(Error::Stopped))) => Err(Error::NoLeader),
                Ok(Answer::ReadIndex(index)) => index,
                Ok(_) | Err(_) => Err(Error::NoLeader),
            },
            () = deposed(&self.raft, leader) => Err(Error::NoLeader),
        }
    }
}

/// Tells all of them once this member has applied the index, or cannot.
async fn tell<E: Engine>(
    raft: Raft<TypeConfig, Machine<E>>,
    gate: Arc<Gate>,
    index: Option<LogId>,
    waiting: Vec<Waiting>,
    _place: OwnedSemaphorePermit,
) {
    let cannot = || {
        let is_needless = waiting.iter().all(Waiting::is_closed);
        if gate.disk_full() { Some(Error::DiskFull) } else { is_needless.then_some(Error::Overloaded) }
    };
    let done = await_applied(&raft, index, cannot).await;
    tell_all(waiting, done);
}

fn tell_all(waiting: Vec<Waiting>, done: Result<(), Error>) {
    for waiting in waiting {
        // Whoever gave up waits no more.
        let _ = waiting.send(done);
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

/// Returns once this member has applied the index; or when `cannot`, asked now and then, says why it is not waited for.
async fn await_applied<E: Engine>(
    raft: &Raft<TypeConfig, Machine<E>>,
    index: Option<LogId>,
    cannot: impl Fn() -> Option<Error>,
) -> Result<(), Error> {
    if raft.metrics().borrow_watched().last_applied >= index {
        return Ok(());
    }
    loop {
        let wait = raft.wait(Some(FULL_DISK_PATIENCE));
        match wait.metrics(|metrics| metrics.last_applied >= index, "the read index to be applied").await {
            Ok(_) => return Ok(()),
            Err(WaitError::ShuttingDown) => return Err(Error::Stopped),
            Err(WaitError::Timeout(..)) => cannot().map_or(Ok(()), Err)?,
        }
    }
}
