//! The way into the log.
//!
//! 1. [`Group::submit`] finds out who leads. Where this member does, [`Group::propose`] queues the command, or refuses it
//!    before anything has happened; else it goes to the leader (`forward.rs`).
//!    A write that its condition refuses is answered as a read is, where that can be (`transport/leading.rs`): it would change nothing.
//! 2. The batcher takes what has queued up while earlier entries were in flight and makes one entry of it, up to
//!    `BATCH_COMMANDS_MAX` commands or `BATCH_BYTES_MAX` bytes, where scopes take turns (`turns.rs`), stamped with the
//!    leader's time. Nothing waits for a timer: an idle group proposes a lone command at once. No scope's large commands
//!    hold more of what may wait than they leave free.
//! 3. When the entry is applied, each proposer gets its own outcome.
//! 4. Where it is proved that nothing was appended since the leader has changed, the command comes back and looks for the
//!    new one.
//!
//! The only place that knows "not leader". Only openraft's `ForwardToLeader`, an answer of the leader that says so, and
//! a connection that never came about prove that an entry was not appended, and only then is a command tried again:
//! so none is ever applied twice. Whatever else goes wrong behind the proposal is [`Error::OutcomeUnknown`].

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use openraft::{Raft, async_runtime::watch::WatchReceiver as _, errors::ClientWriteError, raft::ClientWriteResult};
use state::{
    command::{Batch, Command},
    ids::ScopeId,
    outcome::Outcome,
};
use storage::Engine;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Error,
    env::Env,
    forward::{Forwarder, Size},
    gate::{Gate, Room},
    group::Group,
    state_machine::Machine,
    turns::{Turns, Waiting},
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
                Leader::Itself => match self.refusal(&command) {
                    Some(refusal) => Ok(refusal),
                    None => self.enqueue_here(command, deadline).await,
                },
                Leader::Other(id, _) if on_follower == OnFollower::Refuse => return Err(Error::NotLeader(Some(id))),
                Leader::Other(id, peer) => {
                    let queue = self.submitter().forwarder.queue(id, &peer, Size::of(command.weight_bytes()));
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
        let quiet_until = self.quiet_until();
        // Once in the group's life. In a box, or all would carry the timers.
        if Instant::now() < quiet_until
            && Box::pin(timeout_at(deadline, tokio::time::sleep_until(quiet_until))).await.is_err()
        {
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

    /// What a conditional write is refused with, when it is: a read of the present state tells, and nothing need go through
    /// the log. Those who wait for a lock cost no sync. None where that is not proved, and where the command is refused for want
    /// of room first. Not for what a follower passes on, many at once: looking all of it up may take a slow disk long, on a
    /// thread that peers wait for.
    fn refusal(&self, command: &Command) -> Option<Outcome> {
        if !(command.is_conditional() && self.may_answer()) || self.submitter().gate.lacks_room() {
            return None;
        }
        // Where the state is damaged, applying the command finds that too, and ends the node.
        self.local().refusal(command).unwrap_or_default()
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
    queued: Queued,
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
        let turns = Turns::new(queue);
        let batcher = Batcher { raft, turns, in_flight: in_flight.clone(), gate: gate.clone(), env };
        tokio::spawn(batcher.run());
        Self { local, forwarder, queued: Queued::default(), in_flight, gate }
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
        let _place = self.queued.take(command.scope(), bytes).ok_or(Error::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        match queue.try_send(Waiting { command, bytes, deadline, answer }) {
            Ok(()) => outcome.await.unwrap_or(Err(Error::OutcomeUnknown.into())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Overloaded.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::Stopped.into()),
        }
    }
}

/// How much waits, in bytes.
#[derive(Default)]
struct Queued(Mutex<QueuedBytes>);

#[derive(Default)]
struct QueuedBytes {
    all: usize,
    /// Those of large commands.
    of_scopes: HashMap<ScopeId, usize>,
}

/// Bytes that count as waiting until it is dropped.
struct Place<'a> {
    queued: &'a Queued,
    /// Whose they are, where they count against a scope.
    scope: Option<ScopeId>,
    bytes: usize,
}

impl Queued {
    /// None when too many wait already, or a scope's large commands would hold more than is left: one tenant's alone half of
    /// it, those of two a third each, so that there is always room for who comes next. A node's requests keep to that rule
    /// among themselves (`server/http/pool.rs`); here meet those of all nodes.
    fn take(&self, scope: Option<ScopeId>, bytes: usize) -> Option<Place<'_>> {
        let scope = scope.filter(|_| Size::of(bytes) == Size::Large);
        let mut queued = self.lock();
        let left = QUEUED_BYTES_MAX.checked_sub(queued.all + bytes)?;
        if let Some(scope) = scope {
            let of_scope = queued.of_scopes.get(&scope).copied().unwrap_or_default() + bytes;
            if of_scope > left {
                return None;
            }
            queued.of_scopes.insert(scope, of_scope);
        }
        queued.all += bytes;
        Some(Place { queued: self, scope, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, QueuedBytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queued = self.queued.lock();
        queued.all -= self.bytes;
        if let Some(scope) = self.scope
            && let Entry::Occupied(mut of_scope) = queued.of_scopes.entry(scope)
        {
            *of_scope.get_mut() -= self.bytes;
            if *of_scope.get() == 0 {
                of_scope.remove();
            }
        }
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

/// Refuses what needs room; nothing of it was proposed. Answers the rest.
fn refuse_what_needs_room(entry: Vec<Waiting>) -> Vec<Waiting> {
    let (rest, refused): (Vec<_>, Vec<_>) =
        entry.into_iter().partition(|waiting| goes_on_a_full_disk(&waiting.command));
    for waiting in refused {
        // A receiver that is gone gave up waiting.
        drop(waiting.answer.send(Err(Error::DiskFull.into())));
    }
    rest
}

struct Batcher<E: Engine> {
    raft: Raft<TypeConfig, Machine<E>>,
    turns: Turns,
    in_flight: Arc<Semaphore>,
    gate: Arc<Gate>,
    env: Arc<dyn Env>,
}

impl<E: Engine> Batcher<E> {
    async fn run(mut self) {
        while self.turns.wait().await {
            let permit = self.in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
            let room = self.gate.room().await;
            let mut entry = self.turns.take();
            if room == Room::DiskFull {
                entry = refuse_what_needs_room(entry);
            }
            self.propose(entry, permit).await;
        }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn no_scopes_large_commands_hold_more_than_they_leave() {
        const LARGE: usize = 1 << 20;
        let queued = Queued::default();
        let scope = |number: u128| Some(ScopeId(Uuid::from_u128(number)));
        let fill = |scope: Option<ScopeId>, bytes: usize| -> Vec<Place<'_>> {
            std::iter::from_fn(|| queued.take(scope, bytes)).collect()
        };
        let alone = fill(scope(1), LARGE);
        assert_eq!(alone.len(), QUEUED_BYTES_MAX / LARGE / 2, "half of it");
        assert_eq!(fill(scope(2), LARGE).len(), QUEUED_BYTES_MAX / LARGE / 4, "there is room for who comes next");
        assert!(queued.take(scope(1), 100).is_some(), "small ones are let in");
        assert!(queued.take(None, LARGE).is_some(), "what is nobody's counts against all alone");
        drop(alone);
        assert_eq!(queued.lock().all, 0);
        assert!(queued.lock().of_scopes.is_empty());
        assert_eq!(fill(scope(3), 100).len(), QUEUED_BYTES_MAX / 100, "the bound on all");
    }
}
