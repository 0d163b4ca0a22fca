//! Checkpoints and what hangs on them: room in memory, room in the log, room on the disk.
//!
//! 1. Applying entries reports their size to the [`Gate`]. After enough bytes, or enough time with any, the
//!    checkpointer asks the engine for a checkpoint, on a thread of its own.
//! 2. A checkpoint becomes durable only when the log is durable as far as it comes: what is committed is applied also
//!    where this member's own log has not synced it yet, and a store ahead of its log looks like one whose log was lost.
//! 3. The checkpoint is Raft's snapshot: openraft is told of it, and the log purged no further than that (`purge.rs`).
//! 4. When writes come faster than checkpoints end, the gate closes before the engine's memory passes its bound:
//!    proposals wait, none is dropped.
//! 5. A checkpoint that finds the disk full is tried again until there is room, and so is a snapshot's installation;
//!    until then the gate refuses writes.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::Raft;
use state::{apply::Shared, outcome::Fault};
use storage::Engine;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    env::{self, Env},
    lag::Cuts,
    log::{LocalLog, noted},
    purge::{self, Pins},
    state_machine::Machine,
    types::TypeConfig,
};

/// How long to wait before what found the disk full is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// Asks a log whether it has no room to grow. Called for every proposal: it must be quick.
pub type DiskFull = Arc<dyn Fn() -> bool + Send + Sync>;

/// When to make a checkpoint, and how much may wait for one.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy {
    /// After this many bytes of applied commands.
    pub applied_bytes: u64,
    /// After this time, when anything was applied.
    pub interval: Duration,
    /// The most that the engine may hold that no checkpoint has written, in bytes: past it, proposals wait.
    pub dirty_bytes_max: u64,
}

/// What the checkpointer has done, for metrics and for people.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointStatus {
    /// When the last one ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// How many there were.
    pub count: u64,
}

/// An error that can be a full disk below the store.
pub(crate) trait StoreError {
    /// The file that finds no room, when that is what it is.
    fn full_disk(&self) -> Option<&str>;
}

impl StoreError for storage::Error {
    fn full_disk(&self) -> Option<&str> {
        match self {
            Self::DiskFull { path } => Some(path),
            Self::Io { .. } | Self::Corrupt { .. } => None,
        }
    }
}

impl StoreError for state::snapshot::Error {
    fn full_disk(&self) -> Option<&str> {
        match self {
            Self::Storage(error) => error.full_disk(),
            Self::Source(_) | Self::Invalid { .. } => None,
        }
    }
}

/// What lets proposals through, makes them wait, or refuses them.
pub(crate) struct Gate {
    applied_bytes: AtomicU64,
    policy: CheckpointPolicy,
    due: Notify,
    open: watch::Sender<bool>,
    store_disk_full: AtomicBool,
    log_disk_full: DiskFull,
    majority_lacks_room: AtomicBool,
}

impl Gate {
    pub(crate) fn new(policy: CheckpointPolicy, log_disk_full: DiskFull) -> Self {
        Self {
            applied_bytes: AtomicU64::new(0),
            policy,
            due: Notify::new(),
            open: watch::Sender::new(true),
            store_disk_full: AtomicBool::new(false),
            log_disk_full,
            majority_lacks_room: AtomicBool::new(false),
        }
    }

    /// Whether the log or the store has no room to grow.
    pub(crate) fn disk_full(&self) -> bool {
        (self.log_disk_full)() || self.store_disk_full.load(Ordering::Relaxed)
    }

    /// Whether a proposal that needs room could not be committed, for want of room here or on a majority.
    pub(crate) fn lacks_room(&self) -> bool {
        self.disk_full() || self.majority_lacks_room.load(Ordering::Relaxed)
    }

    /// Notes whether no majority of the voters has room; true when that is news.
    pub(crate) fn note_majority(&self, lacks_room: bool) -> bool {
        self.majority_lacks_room.swap(lacks_room, Ordering::Relaxed) != lacks_room
    }

    /// Does what needs room below the store, however long the disk stays full; meanwhile writes are refused, and the log gives
    /// back what it can do without.
    ///
    /// # Errors
    /// Those of an attempt, but for a full disk.
    pub(crate) async fn outlast_full_disk<T, E: StoreError, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        log: &dyn LocalLog,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E> {
        loop {
            let outcome = attempt().await;
            let Some(path) = outcome.as_ref().err().and_then(E::full_disk) else {
                if self.store_disk_full.swap(false, Ordering::Relaxed) {
                    tracing::info!("disk has room again: writes go on");
                }
                return outcome;
            };
            if !self.store_disk_full.swap(true, Ordering::Relaxed) {
                tracing::error!(path, "disk full: writes are refused until there is room for {what}");
            }
            log.give_back();
            tokio::time::sleep(DISK_FULL_RETRY).await;
        }
    }

    /// Waits while the engine holds as much as it may.
    pub(crate) async fn room(&self) {
        if *self.open.borrow() {
            return;
        }
        // The sender lives in `self`: the channel cannot be closed.
        drop(self.open.subscribe().wait_for(|open| *open).await);
    }

    /// Notes that commands of this size were applied, and that the engine now holds `dirty_bytes`.
    pub(crate) fn applied(&self, bytes: u64, dirty_bytes: u64) {
        self.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.is_due(dirty_bytes) {
            self.due.notify_one();
        }
        self.update_room(dirty_bytes);
    }

    /// Removals weigh little in the log and much in the engine, overwrites the other way round: either counts.
    fn is_due(&self, dirty_bytes: u64) -> bool {
        self.applied_bytes.load(Ordering::Relaxed).max(dirty_bytes) >= self.policy.applied_bytes
    }

    fn update_room(&self, dirty_bytes: u64) {
        let open = dirty_bytes < self.policy.dirty_bytes_max;
        self.open.send_if_modified(|current| std::mem::replace(current, open) != open);
    }
}

/// The task that makes a group's checkpoints. It ends when `stop` does, or with the fault that ends the node.
pub(crate) struct Checkpointer<E: Engine> {
    pub(crate) raft: Raft<TypeConfig, Machine<E>>,
    pub(crate) source: Source<E>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) status: watch::Sender<CheckpointStatus>,
}

/// What checkpoints are made of, and what they make room in. Clones share it.
pub(crate) struct Source<E: Engine> {
    pub(crate) engine: Arc<E>,
    pub(crate) shared: Shared<E>,
    pub(crate) log: Arc<dyn LocalLog>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) pins: Pins,
    pub(crate) cuts: Cuts,
}

// Derived, it would ask for an engine that can be cloned.
impl<E: Engine> Clone for Source<E> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            shared: self.shared.clone(),
            log: self.log.clone(),
            env: self.env.clone(),
            pins: self.pins.clone(),
            cuts: self.cuts.clone(),
        }
    }
}

impl<E: Engine> Source<E> {
    /// Makes one checkpoint; once.
    pub(crate) async fn checkpoint(&self) -> Result<(), storage::Error> {
        let source = self.clone();
        let make = move || source.engine.checkpoint_when(|upcoming| source.await_log(upcoming)).map(drop);
        env::background(&*self.env, make).await
    }

    /// Blocks until the log is durable up to where `upcoming` comes.
    fn await_log(&self, upcoming: &E::View) -> Result<(), storage::Error> {
        let failed = |source| storage::Error::Io { what: "note a checkpoint in", path: "the log".to_owned(), source };
        match self.shared.reader_of(upcoming.clone()).applied().map_err(unreadable)?.position {
            Some(position) => noted(env::block_on(&*self.env, self.log.note_committed(position))).map_err(failed),
            None => Ok(()),
        }
    }

    /// Purges the log as far as the newest checkpoint allows. Answers up to which index; none when nothing may go.
    pub(crate) async fn purge(&self, raft: &Raft<TypeConfig, Machine<E>>) -> Result<Option<u64>, storage::Error> {
        let durable = self.shared.reader_of(self.engine.checkpointed());
        match durable.applied().map_err(unreadable)?.position {
            Some(position) => Ok(purge::purge(raft, self, position.index).await),
            None => Ok(None),
        }
    }
}

fn unreadable(fault: Fault) -> storage::Error {
    match fault {
        Fault::Storage(error) => error,
        other => storage::Error::Corrupt { path: "the applied row".to_owned(), detail: other.to_string() },
    }
}

impl<E: Engine> Checkpointer<E> {
    /// Runs until the task is aborted; returns only with a fault.
    pub(crate) async fn run(self) -> storage::Error {
        loop {
            let interval_passed =
                tokio::time::timeout(self.gate.policy.interval, self.gate.due.notified()).await.is_err();
            let changed = self.gate.applied_bytes.load(Ordering::Relaxed) > 0;
            // A wake-up left over from before the last checkpoint is no reason for another.
            let due = self.gate.is_due(self.source.engine.dirty_bytes()) || (interval_passed && changed);
            if due && let Err(fault) = self.checkpoint().await {
                return fault;
            }
        }
    }

    /// Makes one checkpoint, however long the disk stays full, and lets the log be purged up to it.
    pub(crate) async fn checkpoint(&self) -> Result<(), storage::Error> {
        let began = Instant::now();
        let attempt = || async {
            let covered = self.gate.applied_bytes.load(Ordering::Relaxed);
            self.source.checkpoint().await?;
            self.gate.applied_bytes.fetch_sub(covered, Ordering::Relaxed);
            Ok(())
        };
        self.gate.outlast_full_disk("a checkpoint", &*self.source.log, attempt).await?;
        self.gate.update_room(self.source.engine.dirty_bytes());
        self.status.send_modify(|status| {
            *status = CheckpointStatus { at: Instant::now(), took: began.elapsed(), count: status.count + 1 };
        });
        self.source.purge(&self.raft).await.map(drop)
    }
}
