//! The bridge between openraft and [`state::apply::StateMachine`].
//!
//! 1. openraft hands over committed entries as a stream, each with its proposer's responder where this node
//!    proposed it.
//! 2. They are applied in one transaction of the engine, up to a bound, and become visible together.
//! 3. Only then are the responders answered: what a proposer is told has been applied and is readable.
//!
//! The state crate keeps openraft's membership as opaque bytes; this file is where they are read and written.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use state::{
    Fault,
    applied::Applied,
    apply::{Applying, Payload, Shared, StateMachine},
    hash::StateHash,
    outcome::Outcome,
    query::Reader,
};
use storage::{Ahead, Engine, View};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    env::{self, Env},
    gate::Gate,
    log::{LocalLog, noted, weight::entry_bytes},
    purge::Pins,
    snapshot::{Snapshot, SnapshotData},
    types::{Entry, LogId, Membership, Reply, SnapshotMeta, StoredMembership, TypeConfig, log_id, position},
};

/// Commands that one transaction takes before it is committed and its proposers are answered.
const COMMANDS_PER_TRANSACTION_MAX: usize = 4_096;
/// A transaction that takes longer has to read from the disk. Heartbeats are due every 50 ms, and the next one may take as long.
const SLOW: Duration = Duration::from_millis(5);

/// openraft's handle on the state machine.
pub(crate) struct Machine<E: Engine> {
    inner: StateMachine<E>,
    gate: Arc<Gate>,
    log: Arc<dyn LocalLog>,
    pins: Pins,
    env: Arc<dyn Env>,
    samples: Arc<Samples>,
    installs: Arc<AtomicU64>,
    /// Whether the last transaction was slow.
    is_slow: bool,
}

/// The state's hash behind each of the newest entries, for comparing members at equal indexes.
#[derive(Default)]
pub(crate) struct Samples(Mutex<VecDeque<(u64, StateHash)>>);

/// How many entries back a hash is remembered.
const SAMPLES_MAX: usize = 4_096;

impl Samples {
    fn extend(&self, applied: impl Iterator<Item = (u64, StateHash)>) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.extend(applied);
        let surplus = samples.len().saturating_sub(SAMPLES_MAX);
        samples.drain(..surplus);
    }

    /// The hash behind the entry at `index`, if it is remembered.
    pub(crate) fn at(&self, index: u64) -> Option<StateHash> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = samples.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(samples[place].1)
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl<E: Engine> Machine<E> {
    pub(crate) fn new(
        inner: StateMachine<E>,
        gate: Arc<Gate>,
        log: Arc<dyn LocalLog>,
        pins: Pins,
        env: Arc<dyn Env>,
    ) -> Self {
        Self { inner, gate, log, pins, env, samples: Arc::default(), installs: Arc::default(), is_slow: false }
    }

    /// Counts the snapshots that are installed.
    pub(crate) fn installs(&self) -> Arc<AtomicU64> {
        self.installs.clone()
    }

    pub(crate) fn samples(&self) -> Arc<Samples> {
        self.samples.clone()
    }

    /// Where the state stands.
    pub(crate) fn applied(&self) -> &Applied {
        self.inner.applied()
    }

    /// What readers on other threads hold of the state.
    pub(crate) fn shared(&self) -> Shared<E> {
        self.inner.shared()
    }

    /// Applies what follows in the log, all in one transaction, before the group starts: nothing else needs the thread.
    pub(crate) fn reapply(&mut self, entries: Vec<Entry>, ahead: Ahead<E::View>) -> Result<(), Fault> {
        self.apply_chunk(entries.into_iter().map(|entry| (entry, None)).collect(), Some(ahead))
    }

    /// As [`Machine::apply_chunk`], without that the group's other tasks wait for a slow disk: they share a thread with this one,
    /// and while the disk is slow, another takes over from it.
    fn apply_beside_others(&mut self, chunk: Vec<EntryResponder<TypeConfig>>) -> Result<(), Fault> {
        let began = self.env.monotonic();
        // A runtime on one thread alone, as tests and simulations have it, has none to take over.
        let may_hand_over = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let applied = if self.is_slow && may_hand_over {
            tokio::task::block_in_place(|| self.apply_chunk(chunk, None))
        } else {
            self.apply_chunk(chunk, None)
        };
        self.is_slow = self.env.monotonic().saturating_sub(began) > SLOW;
        applied
    }

    /// Applies `chunk` in one transaction, then answers its proposers.
    fn apply_chunk(
        &mut self,
        chunk: Vec<EntryResponder<TypeConfig>>,
        ahead: Option<Ahead<E::View>>,
    ) -> Result<(), Fault> {
        let mut transaction = match ahead {
            Some(ahead) => self.inner.begin_with(ahead),
            None => self.inner.begin(),
        };
        let mut answers = Vec::with_capacity(chunk.len());
        let mut applied = Vec::with_capacity(chunk.len());
        let mut bytes = 0;
        for (entry, responder) in chunk {
            bytes += entry_bytes(&entry) as u64;
            let outcomes = apply_entry(&mut transaction, &entry)?;
            applied.push((entry.log_id.index, transaction.state_hash()));
            answers.extend(responder.map(|responder| (responder, Reply(outcomes))));
        }
        transaction.commit()?;
        self.samples.extend(applied.into_iter());
        self.gate.applied(bytes, &self.inner.engine().backlog());
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }
}

/// The entries that one transaction takes: what the stream has, up to the bound.
async fn next_chunk<S>(entries: &mut S) -> io::Result<Vec<EntryResponder<TypeConfig>>>
where
    S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
{
    let mut chunk = Vec::new();
    let mut commands = 0;
    while commands < COMMANDS_PER_TRANSACTION_MAX {
        let Some(item) = entries.try_next().await? else { break };
        commands += match &item.0.payload {
            EntryPayload::Normal(proposal) => proposal.0.commands.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 1,
        };
        chunk.push(item);
    }
    Ok(chunk)
}

fn apply_entry<E: Engine>(transaction: &mut Applying<'_, E>, entry: &Entry) -> Result<Vec<Outcome>, Fault> {
    let position = position(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => transaction.apply(position, Payload::Blank),
        EntryPayload::Normal(proposal) => transaction.apply(position, Payload::Batch(&proposal.0)),
        EntryPayload::Membership(membership) => {
            let bytes = postcard::to_stdvec(membership).expect("a membership is plain data: encoding cannot fail");
            transaction.apply(position, Payload::Membership(&bytes))
        }
    }
}

/// What openraft wants to know of the applied state.
pub(crate) fn decode_applied(applied: &Applied) -> io::Result<(Option<LogId>, StoredMembership)> {
    let membership = match &applied.membership {
        None => StoredMembership::default(),
        Some(state::applied::Membership { position, bytes }) => {
            let membership: Membership = postcard::from_bytes(bytes).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the stored membership cannot be decoded: {error}"))
            })?;
            StoredMembership::new(Some(log_id(*position)), membership)
        }
    };
    Ok((applied.position.map(log_id), membership))
}

fn meta_of<V: View>(reader: &Reader<V>) -> io::Result<SnapshotMeta> {
    let (last_log_id, last_membership) = decode_applied(&reader.applied().map_err(fault)?)?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// openraft takes faults as I/O errors, and stops the node on any.
fn fault(fault: Fault) -> io::Error {
    io::Error::other(fault)
}

impl<E: Engine> RaftStateMachine<TypeConfig> for Machine<E> {
    type SnapshotData = SnapshotData<E>;
    type SnapshotBuilder = Checkpoint<E>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        decode_applied(self.inner.applied())
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        loop {
            let chunk = next_chunk(&mut entries).await?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.apply_beside_others(chunk).map_err(fault)?;
        }
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Checkpoint(self.inner.checkpointed())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        if force {
            // A follower needs a snapshot that the log connects to: the newest checkpoint always is one, since
            // the log is purged no further than it. With none at all yet, one is made now.
            if self.inner.checkpointed().applied().ok()?.position.is_none() {
                let engine = self.inner.engine().clone();
                env::blocking(&*self.env, move || engine.checkpoint()).await.ok()?;
            }
        }
        Some(Checkpoint(self.inner.checkpointed()))
    }

    /// The log is purged only behind this. Between the two a crash leaves a log that ends before what the store holds,
    /// as one that was lost would; the note in the log tells them apart (`opening.rs`).
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData<E>) -> io::Result<()> {
        if let Some(last) = &meta.last_log_id {
            noted(self.log.note_committed(position(last)).await)?;
        }
        self.samples.clear();
        // It takes as long as the disk takes to write the whole state: elsewhere, heartbeats wait behind nothing. To
        // openraft an error is a failed disk, and the end of the member: one that is full is waited for.
        let attempt = || {
            let (shared, snapshot) = (self.inner.shared(), snapshot.clone());
            env::blocking(&*self.env, move || shared.install(snapshot.pieces()?))
        };
        let installed =
            self.gate.outlast_full_disk("a snapshot", &*self.log, attempt).await.map_err(io::Error::other)?;
        self.inner.adopt(installed);
        self.installs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<E>>> {
        let reader = self.inner.checkpointed();
        let meta = meta_of(&reader)?;
        Ok(meta.last_log_id.map(|last| {
            let pin = self.pins.pin(last.index);
            Snapshot { meta, snapshot: SnapshotData::pinned(reader, Some(pin)) }
        }))
    }
}

/// Builds a snapshot from the engine's last checkpoint: the checkpoint is the snapshot, so nothing is written.
pub(crate) struct Checkpoint<E: Engine>(Reader<E::View>);

impl<E: Engine> RaftSnapshotBuilder<TypeConfig> for Checkpoint<E> {
    type SnapshotData = SnapshotData<E>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<E>> {
        let reader = self.0.clone();
        Ok(Snapshot { meta: meta_of(&reader)?, snapshot: SnapshotData::pinned(reader, None) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use futures_util::stream;
    use openraft::{
        StorageError,
        testing::log::{StoreBuilder, Suite},
    };
    use state::ids::{Keyspace, Position};
    use storage::memory::MemoryEngine;

    use super::*;
    use crate::{CheckpointPolicy, env::System, log::memory::MemoryLog};

    struct Memory;

    impl StoreBuilder<TypeConfig, MemoryLog, Machine<MemoryEngine>> for Memory {
        async fn build(&self) -> Result<((), MemoryLog, Machine<MemoryEngine>), StorageError<TypeConfig>> {
            Ok(((), MemoryLog::default(), machine(MemoryEngine::new())))
        }
    }

    pub(crate) fn machine<E: Engine>(engine: E) -> Machine<E> {
        let never = CheckpointPolicy { applied_bytes: u64::MAX, interval: Duration::MAX, dirty_bytes_max: u64::MAX };
        let gate = Arc::new(Gate::new(never, Arc::new(|| false)));
        let machine = StateMachine::open(Arc::new(engine), Keyspace::Cache).unwrap();
        Machine::new(machine, gate, Arc::new(MemoryLog::default()), Pins::default(), Arc::new(System::new()))
    }

    /// openraft's own suite for logs and state machines, over the real state machine.
    #[tokio::test]
    async fn openraft_accepts_the_state_machine() {
        Suite::test_all(Memory).await.unwrap();
    }

    /// An engine that does something at the begin of each transaction.
    struct Watched {
        memory: MemoryEngine,
        begins: Box<dyn Fn() + Send + Sync>,
    }

    impl Engine for Watched {
        type View = <MemoryEngine as Engine>::View;
        type Transaction<'a> = <MemoryEngine as Engine>::Transaction<'a>;

        fn view(&self) -> Self::View {
            self.memory.view()
        }

        fn begin(&self) -> Self::Transaction<'_> {
            (self.begins)();
            self.memory.begin()
        }

        fn replace<F: From<storage::Error>>(
            &self,
            rows: impl Iterator<Item = Result<storage::Row, F>>,
        ) -> Result<(), F> {
            self.memory.replace(rows)
        }

        fn checkpoint_when(
            &self,
            ready: impl FnOnce(&Self::View) -> storage::Result<()>,
            rest: storage::Rest,
        ) -> storage::Result<Self::View> {
            self.memory.checkpoint_when(ready, rest)
        }

        fn checkpointed(&self) -> Self::View {
            self.memory.checkpointed()
        }

        fn backlog(&self) -> storage::Backlog {
            self.memory.backlog()
        }
    }

    /// The group's heartbeats among them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_other_tasks_of_the_thread_go_on_while_the_disk_is_slow_to_read() {
        let (other_ran, has_other_run) = std::sync::mpsc::channel();
        let transactions = AtomicU64::new(0);
        let has_other_run = Mutex::new(has_other_run);
        let went_on = Arc::new(AtomicU64::new(0));
        let counted = went_on.clone();
        let begins = move || match transactions.fetch_add(1, Ordering::Relaxed) {
            // The first is slow, and nobody could know.
            0 => {
                let began = std::time::Instant::now();
                while began.elapsed() <= SLOW {
                    std::hint::spin_loop();
                }
            }
            _ => {
                let other = has_other_run.lock().unwrap().recv_timeout(Duration::from_secs(10));
                counted.fetch_add(u64::from(other.is_ok()), Ordering::Relaxed);
            }
        };
        let mut machine = machine(Watched { memory: MemoryEngine::new(), begins: Box::new(begins) });
        // On the runtime's own thread, as openraft does it.
        let task = tokio::spawn(async move {
            let blank = |index| Entry { log_id: log_id(Position { term: 1, index }), payload: EntryPayload::Blank };
            machine.apply(stream::iter([Ok((blank(0), None))])).await.unwrap();
            tokio::spawn(async move { other_ran.send(()).unwrap() });
            machine.apply(stream::iter([Ok((blank(1), None))])).await.unwrap();
        });
        task.await.unwrap();
        assert_eq!(went_on.load(Ordering::Relaxed), 1);
    }
}
