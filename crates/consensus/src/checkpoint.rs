//! Checkpoints, and the room that they make in memory and in the log.
//!
//! 1. Applying entries reports their size to the [`Gate`]. After enough bytes, or enough time with any, the
//!    checkpointer asks the engine for a checkpoint, on a thread of its own.
//! 2. A checkpoint becomes durable only when the log is durable as far as it comes: what is committed is applied also
//!    where this member's own log has not synced it yet, and a store ahead of its log looks like one whose log was lost.
//! 3. The checkpoint is Raft's snapshot: openraft is told of it, and the log purged no further than that (`purge.rs`).
//! 4. While the gate is closed, it looks again and again how far the checkpoint has come.
//! 5. A checkpoint has until half of what makes the next one due has come. As long as it is ahead of that it rests now and
//!    then (`rests.rs`).

use std::{sync::Arc, time::Duration};

use openraft::Raft;
use state::{apply::Shared, outcome::Fault};
use storage::{Backlog, Engine};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    env::{self, Env},
    gate::Gate,
    lag::Cuts,
    log::{LocalLog, noted},
    purge::{self, Pins},
    rests::Rests,
    state_machine::Machine,
    types::TypeConfig,
};

/// How often a closed gate looks whether there is room.
const PACE: Duration = Duration::from_millis(2);

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
    /// Makes one checkpoint; once. It [rests](crate::rests) as long as it `has_time`.
    pub(crate) async fn checkpoint(
        &self,
        has_time: impl Fn(&Backlog) -> bool + Send + 'static,
    ) -> Result<(), storage::Error> {
        let source = self.clone();
        let make = move || {
            let mut rests = Rests::begin(source.env.clone());
            let engine = source.engine.clone();
            let rest = move || rests.rest(|| has_time(&engine.backlog()));
            source.engine.checkpoint_when(|upcoming| source.await_log(upcoming), Box::new(rest)).map(drop)
        };
        env::background(&*self.env, make).await
    }

    /// Makes one checkpoint without rests, behind the one that may be under way, which takes none any more either.
    pub(crate) async fn checkpoint_at_once(&self) -> Result<(), storage::Error> {
        self.checkpoint(|_| false).await
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
        tokio::select! {
            fault = self.make_all() => fault,
            never = self.pace() => never,
        }
    }

    async fn make_all(&self) -> storage::Error {
        loop {
            let interval_passed = timeout(self.gate.policy().interval, self.gate.due()).await.is_err();
            let changed = self.gate.applied_bytes() > 0;
            // A wake-up left over from before the last checkpoint is no reason for another.
            let due = self.gate.is_due(&self.source.engine.backlog()) || (interval_passed && changed);
            if due && let Err(fault) = self.checkpoint().await {
                return fault;
            }
        }
    }

    /// Makes one checkpoint, however long the disk stays full, and lets the log be purged up to it.
    pub(crate) async fn checkpoint(&self) -> Result<(), storage::Error> {
        let began = Instant::now();
        let attempt = || async {
            let covered = self.gate.applied_bytes();
            let gate = self.gate.clone();
            self.source.checkpoint(move |backlog| gate.has_time(covered, backlog)).await?;
            self.gate.covered(covered);
            Ok(())
        };
        self.gate.outlast_full_disk("a checkpoint", &*self.source.log, attempt).await?;
        self.gate.update_room(&self.source.engine.backlog());
        self.status.send_modify(|status| {
            *status = CheckpointStatus { at: Instant::now(), took: began.elapsed(), count: status.count + 1 };
        });
        self.source.purge(&self.raft).await.map(drop)
    }

    /// Opens the gate as a checkpoint goes on, whenever it is closed. Also while none is made: what was applied beside other
    /// tasks may have closed it a moment after a checkpoint opened it, and then nothing else would.
    async fn pace(&self) -> ! {
        loop {
            self.gate.closed().await;
            tokio::time::sleep(PACE).await;
            self.gate.update_room(&self.source.engine.backlog());
        }
    }
}
