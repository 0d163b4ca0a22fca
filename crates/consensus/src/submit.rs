//! The way into the log.
//!
//! 1. [`Group::submit`] finds out who leads. Where this member does, [`Group::propose`] queues the command, or refuses it
//!    before anything has happened; else it goes to the leader (`forward.rs`).
//! 2. The batcher takes what has queued up while earlier entries were in flight and makes one entry of it: up to
//!    [`BATCH_COMMANDS_MAX`] commands or [`BATCH_BYTES_MAX`] bytes, stamped with the leader's time. Nothing waits
//!    for a timer: an idle group proposes a lone command at once.
//! 3. When the entry is applied, each proposer gets its own outcome.
//! 4. Where it is proved that nothing was appended since the leader has changed, the command comes back and looks for the
//!    new one.
//!
//! The only place that knows "not leader". Only openraft's `ForwardToLeader`, an answer of the leader that says so, and
//! a connection that never came about prove that an entry was not appended, and only then is a command tried again:
//! so none is ever applied twice. Whatever else goes wrong behind the proposal is [`Error::OutcomeUnknown`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use openraft::{Raft, async_runtime::watch::WatchReceiver as _, errors::ClientWriteError, raft::ClientWriteResult};
use state::{
    bounds::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX},
    command::{Batch, Command},
    outcome::Outcome,
};
use storage::Engine;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Error,
    checkpoint::Gate,
    env::Env,
    forward::Forwarder,
    group::Group,
    state_machine::Machine,
    types::{Callback, MemberId, Peer, Proposal, TypeConfig},
};

/// Entries that may be proposed and not yet applied.
const ENTRIES_IN_FLIGHT_MAX: usize = 3;
/// Commands that may wait to be proposed.
const QUEUED_COMMANDS_MAX: usize = 16_384;
/// Bytes of commands that may wait to be proposed.
const QUEUED_BYTES_MAX: usize = 128 * 1_048_576;

/// How long a command looks for a leader.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a member that was told wrongly who leads waits for better news.
const NEWS_WAIT_MAX: Duration = Duration::from_millis(20);

/// Why a command has no outcome, with the command where it surely was not appended for want of a leader.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) command: Option<Box<Command>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, command: None }
    }
}

pub(crate) type Answer = Result<Outcome, Failed>;

/// A command on its way into the log.
pub(crate) struct Waiting {
    pub(crate) command: Command,
    pub(crate) bytes: usize,
    /// Until when its caller waits.
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What becomes of a command on a member that does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFollower {
    /// It goes to the leader.
    Forward,
    /// It is refused: [`Error::NotLeader`].
    Refuse,
}

/// Who leads, as far as this member knows.
enum Leader {
    Itself,
    Other(MemberId, Peer),
    Nobody,
}

impl<E: Engine> Group<E> {
    /// Has the leader propose a command, wherever it is; returns the outcome once it is committed and applied. While
    /// there is no leader, it waits for one, two seconds at most. Dropping the future leaves the outcome unknown.
    ///
    /// # Errors
    /// Only [`Error::OutcomeUnknown`] leaves it open whether the command took effect; past the deadline it is the
    /// answer.
    pub async fn submit(&self, command: Command, deadline: Instant) -> Result<Outcome, Error> {
        self.submit_as(command, deadline, OnFollower::Forward).await
    }

    /// As [`Group::submit`], with a choice for a member that does not lead.
    ///
    /// # Errors
    /// As [`Group::submit`], and [`Error::NotLeader`].
    pub async fn submit_as(
        &self,
        mut command: Command,
        deadline: Instant,
        on_follower: OnFollower,
    ) -> Result<Outcome, Error> {
        let leaderless_until = deadline.min(Instant::now() + LEADER_WAIT_MAX);
        loop {
            let answer = match self.leader() {
                Leader::Itself => self.enqueue_here(command, deadline).await,
                Leader::Other(id, _) if on_follower == OnFollower::Refuse => return Err(Error::NotLeader(Some(id))),
                Leader::Other(id, peer) => {
                    let queue = self.submitter().forwarder.queue(id, &peer);
                    self.enqueue(&queue, command, deadline).await
                }
                Leader::Nobody => Err(Failed { error: Error::NoLeader, command: Some(Box::new(command)) }),
            };
            command = match answer {
                Ok(outcome) => return Ok(outcome),
                Err(Failed { command: Some(command), .. }) if Instant::now() < leaderless_until => *command,
                Err(Failed { error, .. }) => return Err(error),
            };
            self.await_news(leaderless_until).await;
        }
    }

    /// Proposes a command on this member, or says that it does not lead.
    pub(crate) async fn propose(&self, command: Command, deadline: Instant) -> Result<Outcome, Error> {
        self.enqueue_here(command, deadline).await.map_err(|failed| failed.error)
    }

    async fn enqueue_here(&self, command: Command, deadline: Instant) -> Answer {
        if timeout_at(deadline, tokio::time::sleep_until(self.quiet_until())).await.is_err() {
            return Err(Error::NoLeader.into());
        }
        // A full disk stops the proposals of the member that has it, not what it passes on to others. A majority of full
        // disks stops those of the leader: it would wait for them in vain, and could not say what became of them.
        if self.submitter().gate.lacks_room() && !goes_on_a_full_disk(&command) {
            return Err(Error::DiskFull.into());
        }
        let _coming = self.room().reserve(&command, || self.local())?;
        self.enqueue(&self.submitter().local, command, deadline).await
    }

    async fn enqueue(&self, queue: &Queue, command: Command, deadline: Instant) -> Answer {
        // Past the deadline it may still be proposed, if it is on its way already.
        let enqueued = timeout_at(deadline, self.submitter().enqueue(queue, command, deadline)).await;
        enqueued.unwrap_or(Err(Error::OutcomeUnknown.into()))
    }

    fn leader(&self) -> Leader {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            None => Leader::Nobody,
            Some(leader) if leader == metrics.id => Leader::Itself,
            Some(leader) => match metrics.membership_config.membership().get_node(&leader) {
                Some(peer) => Leader::Other(leader, peer.clone()),
                None => Leader::Nobody,
            },
        }
    }

    /// Waits until something may be new about the group's leader or its members, briefly, and no longer than until the
    /// moment `until`. Not for what changes with each entry or question: whoever asks again because of that would be
    /// woken by its own question, and ask without a pause.
    pub async fn await_news(&self, until: Instant) {
        let until = until.min(Instant::now() + NEWS_WAIT_MAX);
        let mut news = self.raft().server_metrics();
        // A new receiver takes all that ever was for news.
        let _ = news.changed().now_or_never();
        // A group that has stopped has no more news; that is found out by asking it.
        if let Ok(Err(_)) = timeout_at(until, news.changed()).await {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Waits until this member has applied up to `index`; false when the time is up, or the group has stopped, before.
    pub async fn await_applied(&self, index: u64, until: Instant) -> bool {
        let mut metrics = self.raft().metrics();
        let is_applied = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.last_applied.map_or(0, |applied| applied.index()) >= index
        };
        while !is_applied(&metrics.borrow_watched()) {
            match timeout_at(until, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        true
    }
}

/// Where commands wait to be taken.
pub(crate) type Queue = mpsc::Sender<Waiting>;

/// The queues' entrance.
pub(crate) struct Submitter {
    /// Of this member's own batcher.
    local: Queue,
    /// To whoever leads.
    forwarder: Forwarder,
    queued_bytes: Arc<AtomicUsize>,
    /// What the batcher takes a permit of for each entry until it is answered.
    in_flight: Arc<Semaphore>,
    gate: Arc<Gate>,
}

impl Submitter {
    /// Starts the batcher of `raft` on the current runtime.
    pub(crate) fn start<E: Engine>(
        raft: Raft<TypeConfig, Machine<E>>,
        forwarder: Forwarder,
        gate: Arc<Gate>,
        env: Arc<dyn Env>,
    ) -> Self {
        let (local, queue) = mpsc::channel(QUEUED_COMMANDS_MAX);
        let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
        let batcher = Batcher { raft, queue, carried: None, in_flight: in_flight.clone(), gate: gate.clone(), env };
        tokio::spawn(batcher.run());
        Self { local, forwarder, queued_bytes: Arc::new(AtomicUsize::new(0)), in_flight, gate }
    }

    /// Waits until what this member has proposed is answered.
    pub(crate) async fn drain(&self, wait_max: Duration) {
        let all = u32::try_from(ENTRIES_IN_FLIGHT_MAX).expect("they are few");
        // Past that time whoever waits is told that the outcome is unknown.
        drop(timeout(wait_max, self.in_flight.acquire_many(all)).await);
    }

    /// Queues `command` and waits for its outcome. Dropping the future may leave it applied or not.
    async fn enqueue(&self, queue: &Queue, command: Command, deadline: Instant) -> Answer {
        let bytes = command.weight_bytes();
        let _queued = Queued::new(&self.queued_bytes, bytes).ok_or(Error::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        match queue.try_send(Waiting { command, bytes, deadline, answer }) {
            Ok(()) => outcome.await.unwrap_or(Err(Error::OutcomeUnknown.into())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Overloaded.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::Stopped.into()),
        }
    }
}

/// Bytes that count as waiting until it is dropped.
struct Queued<'a> {
    queued_bytes: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> Queued<'a> {
    /// None when too many wait already.
    fn new(queued_bytes: &'a AtomicUsize, bytes: usize) -> Option<Self> {
        let queued = Self { queued_bytes, bytes };
        (queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUED_BYTES_MAX).then_some(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a node needs to come up and serve reads is a few small entries, for which the log always has room: its next
/// segment is made ahead of need, so a full disk leaves it most of one.
pub(crate) fn goes_on_a_full_disk(command: &Command) -> bool {
    match command {
        Command::Registry(_) => true,
        Command::Data(_) | Command::Admin(_) | Command::Cleanup(_) | Command::Admitted(_) | Command::Fence(_) => false,
    }
}

struct Batcher<E: Engine> {
    raft: Raft<TypeConfig, Machine<E>>,
    queue: mpsc::Receiver<Waiting>,
    /// A command that did not fit into the last entry: the first of the next.
    carried: Option<Waiting>,
    in_flight: Arc<Semaphore>,
    gate: Arc<Gate>,
    env: Arc<dyn Env>,
}

impl<E: Engine> Batcher<E> {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let permit = self.in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
            self.gate.room().await;
            let entry = self.fill(first);
            self.propose(entry, permit).await;
        }
    }

    async fn next(&mut self) -> Option<Waiting> {
        match self.carried.take() {
            Some(waiting) => Some(waiting),
            None => self.queue.recv().await,
        }
    }

    fn fill(&mut self, first: Waiting) -> Vec<Waiting> {
        let (entry, carried) = fill(first, &mut self.queue);
        self.carried = carried;
        entry
    }

    async fn propose(&mut self, entry: Vec<Waiting>, permit: OwnedSemaphorePermit) {
        let mut commands = Vec::with_capacity(entry.len());
        let mut answers = Vec::with_capacity(entry.len());
        for waiting in entry {
            // Whoever gave up waiting was told that the outcome is unknown; not proposing is one of the two.
            if !waiting.answer.is_closed() {
                commands.push(waiting.command);
                answers.push(waiting.answer);
            }
        }
        if commands.is_empty() {
            return;
        }
        let batch = Arc::new(Batch { time_unix_ms: self.env.unix_ms(), commands });
        let proposed = batch.clone();
        let callback = Callback::new(move |result| {
            drop(permit);
            distribute(answers, &proposed, result);
        });
        // A group that has stopped drops the callback, and with it the answers: their receivers read that as an
        // unknown outcome.
        drop(self.raft.write(Proposal(batch)).responder(callback).await);
    }
}

/// What goes together: `first`, and what else is waiting now, within the bounds; and the one that did not fit any more.
pub(crate) fn fill(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> (Vec<Waiting>, Option<Waiting>) {
    let mut bytes = first.bytes;
    let mut entry = vec![first];
    while entry.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(waiting) = queue.try_recv() else { break };
        if bytes + waiting.bytes > BATCH_BYTES_MAX {
            return (entry, Some(waiting));
        }
        bytes += waiting.bytes;
        entry.push(waiting);
    }
    (entry, None)
}

/// Gives each proposer its own outcome.
fn distribute(answers: Vec<oneshot::Sender<Answer>>, proposed: &Batch, result: ClientWriteResult<TypeConfig>) {
    match result {
        Ok(response) => {
            debug_assert_eq!(answers.len(), response.data.0.len(), "one outcome a command");
            for (answer, outcome) in answers.into_iter().zip(response.data.0) {
                // A receiver that is gone gave up waiting.
                drop(answer.send(Ok(outcome)));
            }
        }
        Err(ClientWriteError::ForwardToLeader(_)) => {
            for (answer, command) in answers.into_iter().zip(&proposed.commands) {
                drop(answer.send(Err(Failed { error: Error::NoLeader, command: Some(Box::new(command.clone())) })));
            }
        }
        Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => {
            for answer in answers {
                drop(answer.send(Err(Error::OutcomeUnknown.into())));
            }
        }
    }
}
