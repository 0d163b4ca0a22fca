//! The way into the log.
//!
//! 1. [`Submitter::submit`] queues a command, or refuses it before anything has happened.
//! 2. The batcher takes what has queued up while earlier entries were in flight and makes one entry of it: up to
//!    [`BATCH_COMMANDS_MAX`] commands or [`BATCH_BYTES_MAX`] bytes, stamped with the leader's time. Nothing waits
//!    for a timer: an idle group proposes a lone command at once.
//! 3. When the entry is applied, each proposer gets its own outcome.
//!
//! The only place that knows "not leader". Only openraft's `ForwardToLeader` proves that an entry was not
//! appended; whatever else goes wrong behind the proposal is [`Error::OutcomeUnknown`].

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use openraft::{Raft, errors::ClientWriteError, raft::ClientWriteResult};
use state::{
    bounds::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX},
    command::{Batch, Command},
    outcome::Outcome,
};
use storage::Engine;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    Error,
    checkpoint::Gate,
    env::Env,
    state_machine::Machine,
    transport::network::Peers,
    types::{Callback, Proposal, TypeConfig},
};

/// Entries that may be proposed and not yet applied.
const ENTRIES_IN_FLIGHT_MAX: usize = 3;
/// Commands that may wait to be proposed.
const QUEUED_COMMANDS_MAX: usize = 16_384;
/// Bytes of commands that may wait to be proposed.
const QUEUED_BYTES_MAX: usize = 128 * 1_048_576;

type Answer = Result<Outcome, Error>;

/// A command on its way into the log.
struct Waiting {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

/// The queue's entrance.
pub(crate) struct Submitter {
    queue: mpsc::Sender<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

impl Submitter {
    /// Starts the batcher of `raft` on the current runtime.
    pub(crate) fn start<E: Engine>(
        raft: Raft<TypeConfig, Machine<E>>,
        peers: Peers,
        gate: Arc<Gate>,
        env: Arc<dyn Env>,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUED_COMMANDS_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let batcher = Batcher {
            raft,
            peers,
            queue,
            carried: None,
            queued_bytes: queued_bytes.clone(),
            in_flight: Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX)),
            gate: gate.clone(),
            env,
        };
        tokio::spawn(batcher.run());
        Self { queue: sender, queued_bytes, gate }
    }

    /// Proposes `command` and waits until it is applied. Dropping the future may leave it applied or not.
    pub(crate) async fn submit(&self, command: Command) -> Answer {
        if self.gate.disk_full() && !goes_on_a_full_disk(&command) {
            return Err(Error::DiskFull);
        }
        let bytes = command.weight_bytes();
        let (answer, outcome) = oneshot::channel();
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUED_BYTES_MAX {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Overloaded);
        }
        if let Err(refused) = self.queue.try_send(Waiting { command, bytes, answer }) {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded,
                mpsc::error::TrySendError::Closed(_) => Error::Stopped,
            });
        }
        outcome.await.unwrap_or(Err(Error::OutcomeUnknown))
    }
}

/// What a node needs to come up and serve reads is a few small entries, for which the log always has room: its next
/// segment is made ahead of need, so a full disk leaves it most of one.
fn goes_on_a_full_disk(command: &Command) -> bool {
    match command {
        Command::Registry(_) => true,
        Command::Data(_) | Command::Admin(_) | Command::Cleanup(_) => false,
    }
}

struct Batcher<E: Engine> {
    raft: Raft<TypeConfig, Machine<E>>,
    peers: Peers,
    queue: mpsc::Receiver<Waiting>,
    /// A command that did not fit into the last entry: the first of the next.
    carried: Option<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
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

    /// The entry that begins with `first` and holds what else is waiting now, within the bounds.
    fn fill(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.bytes;
        let mut entry = vec![first];
        while entry.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(waiting) = self.queue.try_recv() else { break };
            if bytes + waiting.bytes > BATCH_BYTES_MAX {
                self.carried = Some(waiting);
                break;
            }
            bytes += waiting.bytes;
            entry.push(waiting);
        }
        entry
    }

    async fn propose(&mut self, entry: Vec<Waiting>, permit: OwnedSemaphorePermit) {
        let mut commands = Vec::with_capacity(entry.len());
        let mut answers = Vec::with_capacity(entry.len());
        for waiting in entry {
            self.queued_bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
            // Whoever gave up waiting was told that the outcome is unknown; not proposing is one of the two.
            if !waiting.answer.is_closed() {
                commands.push(waiting.command);
                answers.push(waiting.answer);
            }
        }
        if commands.is_empty() {
            return;
        }
        let batch = Batch { time_unix_ms: self.env.unix_ms(), commands };
        let callback = Callback::new(move |result| {
            drop(permit);
            distribute(answers, result);
        });
        // A group that has stopped drops the callback, and with it the answers: their receivers read that as an
        // unknown outcome.
        drop(self.raft.write(Proposal(Arc::new(batch))).responder(callback).await);
    }
}

/// Gives each proposer its own outcome.
fn distribute(answers: Vec<oneshot::Sender<Answer>>, result: ClientWriteResult<TypeConfig>) {
    match result {
        Ok(response) => {
            debug_assert_eq!(answers.len(), response.data.0.len(), "one outcome a command");
            for (answer, outcome) in answers.into_iter().zip(response.data.0) {
                // A receiver that is gone gave up waiting.
                drop(answer.send(Ok(outcome)));
            }
        }
        Err(error) => {
            let error = match error {
                ClientWriteError::ForwardToLeader(_) => Error::NoLeader,
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_) => Error::OutcomeUnknown,
            };
            for answer in answers {
                drop(answer.send(Err(error)));
            }
        }
    }
}
