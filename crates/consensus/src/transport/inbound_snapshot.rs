//! A snapshot on its way in: spooled, checked, installed.
//!
//! 1. One stream at a time is received, and its turn ends only when what it brought is installed.
//! 2. A stream that opens while another is being received takes over, unless its leader is an older one: the other's
//!    leader has been deposed, or has opened this one in its stead. What the other brought is kept for it. An installation
//!    is never disturbed; the stream behind it waits, and is told to come again when it has waited for too long.
//!    So one that has come to a halt keeps nobody out.
//! 3. What this member has applied already is not received again.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use openraft::raft::SnapshotResponse;
use storage::{Engine, fs::is_full};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    env::{self, Env},
    group::Group,
    log::LocalLog,
    snapshot::{Snapshot, SnapshotData},
    transport::{
        message::{self, SnapshotAnswer, SnapshotFrame, SnapshotOpening},
        spool::Spool,
        wire::Frames,
    },
    types::Vote,
};

/// Answers that may wait to be sent: there are two at most.
const ANSWERS_MAX: usize = 2;
/// How long a stream waits for its turn: less than its sender waits for the first answer.
const TURN_WAIT_MAX: Duration = Duration::from_secs(3);

/// Where a group keeps what has arrived of a snapshot.
pub(crate) struct Arrivals {
    dir: Option<PathBuf>,
    /// What a stream that ended early has left. One at a time: taken out while a stream goes on with it.
    left: Mutex<Option<Spool>>,
    /// One stream at a time is received and installed.
    turn: tokio::sync::Mutex<()>,
    newest: watch::Sender<Newest>,
}

/// The stream that opened last.
#[derive(Default)]
struct Newest {
    /// Its leader's vote.
    vote: Option<Vote>,
    /// Its number, from 1.
    number: u64,
}

/// Why a stream brought no whole snapshot.
enum Unfinished {
    /// Its sender is gone, or has opened another, and hears nothing any more.
    Left,
    /// It cannot be taken, with the reason for the sender.
    Failed(String),
}

impl Arrivals {
    /// Spools below `dir`, or in memory.
    ///
    /// # Errors
    /// When what an earlier process left cannot be removed.
    pub(crate) fn new(dir: Option<PathBuf>) -> io::Result<Self> {
        if let Some(dir) = &dir {
            Spool::remove_stale(dir)?;
        }
        Ok(Self { dir, left: Mutex::default(), turn: tokio::sync::Mutex::default(), newest: watch::Sender::default() })
    }

    fn left(&self) -> MutexGuard<'_, Option<Spool>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a leader's stream the newest, and answers its number; none when a newer leader's has opened before.
    fn enter(&self, vote: &Vote) -> Option<u64> {
        let mut entered = None;
        self.newest.send_if_modified(|newest| {
            let is_older = newest.vote.is_some_and(|known| *vote < known);
            if !is_older {
                *newest = Newest { vote: Some(*vote), number: newest.number + 1 };
                entered = Some(newest.number);
            }
            !is_older
        });
        entered
    }

    /// Returns once a newer stream than this one has opened.
    async fn superseded(&self, number: u64) {
        // The sender lives in `self`.
        drop(self.newest.subscribe().wait_for(|newest| newest.number > number).await);
    }

    /// The spool for this snapshot: what is left of it, or a new one.
    fn take(&self, opening: &SnapshotOpening, number: u64) -> io::Result<Spool> {
        let left = self.left().take();
        match left.filter(|spool| spool.log_id() == opening.meta.last_log_id) {
            Some(spool) => Ok(spool),
            None => Spool::new(opening.meta.last_log_id, self.dir.as_deref(), number),
        }
    }
}

impl<E: Engine> Group<E> {
    /// Takes a snapshot; the answers come as the stream.
    pub(crate) fn receive_snapshot(&self, opening: SnapshotOpening, frames: Frames) -> BoxStream<'static, Bytes> {
        let (answers, queue) = mpsc::channel(ANSWERS_MAX);
        let group = self.clone();
        // A task of its own: what has begun to be installed is installed, whether or not the sender still listens.
        tokio::spawn(async move {
            let last = match group.take_snapshot(opening, frames, &answers).await {
                Ok(answer) => answer,
                Err(Unfinished::Left) => return,
                Err(Unfinished::Failed(reason)) => {
                    tracing::warn!(reason, "a snapshot cannot be received");
                    SnapshotAnswer::Failed(reason)
                }
            };
            // A sender that is gone comes again.
            drop(answers.send(message::encode(&last)).await);
        });
        stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|answer| (answer, queue)) }).boxed()
    }

    async fn take_snapshot(
        &self,
        opening: SnapshotOpening,
        frames: Frames,
        answers: &mpsc::Sender<Bytes>,
    ) -> Result<SnapshotAnswer, Unfinished> {
        if let Some(vote) = self.newer_vote(&opening.vote) {
            // The sender has been deposed, and learns it from this.
            return Ok(SnapshotAnswer::Done(SnapshotResponse::new(vote)));
        }
        if self.is_contradicted(&opening.vote, opening.meta.last_log_id.into_iter()).await {
            return Err(Unfinished::Failed("it contradicts what this member has committed".to_owned()));
        }
        let arrivals = self.arrivals();
        let Some(number) = arrivals.enter(&opening.vote) else {
            return Err(Unfinished::Failed("a newer leader's snapshot is being received".to_owned()));
        };
        let turn = tokio::select! {
            turn = timeout(TURN_WAIT_MAX, arrivals.turn.lock()) => turn,
            () = arrivals.superseded(number) => return Err(Unfinished::Left),
        };
        let Ok(_turn) = turn else {
            return Err(Unfinished::Failed("another snapshot is being installed".to_owned()));
        };
        if self.has_applied(opening.meta.last_log_id) {
            // openraft reads nothing of it, and says so to the leader.
            let nothing =
                Spool::new(opening.meta.last_log_id, None, number).map_err(|error| cannot_spool(self.log(), &error))?;
            return Ok(self.install(opening, Arc::new(nothing)).await);
        }
        let spool = self.spool(&opening, frames, answers, number).await?;
        Ok(self.check_and_install(opening, spool).await)
    }

    /// Receives what is missing.
    async fn spool(
        &self,
        opening: &SnapshotOpening,
        mut frames: Frames,
        answers: &mpsc::Sender<Bytes>,
        number: u64,
    ) -> Result<Spool, Unfinished> {
        let arrivals = self.arrivals();
        let mut spool = arrivals.take(opening, number).map_err(|error| cannot_spool(self.log(), &error))?;
        // A sender that is gone is noticed by its frames.
        drop(answers.send(message::encode(&SnapshotAnswer::Have(spool.bytes()))).await);
        loop {
            let frame = tokio::select! {
                frame = frames.next() => frame,
                () = arrivals.superseded(number) => None,
            };
            let Some(Ok(frame)) = frame else {
                *arrivals.left() = Some(spool);
                return Err(Unfinished::Left);
            };
            match message::decode(&frame).map_err(|refusal| Unfinished::Failed(refusal.0))? {
                SnapshotFrame::Piece(piece) => {
                    spool =
                        push(self.env(), spool, piece.into()).await.map_err(|error| cannot_spool(self.log(), &error))?
                }
                SnapshotFrame::End => return Ok(spool),
            }
        }
    }

    /// Checks the whole before openraft sees it: to openraft, a snapshot that cannot be installed is a failed disk.
    async fn check_and_install(&self, opening: SnapshotOpening, spool: Spool) -> SnapshotAnswer {
        let keyspace = self.local().keyspace();
        let check = move || {
            let spool = Arc::new(spool);
            let pieces = spool.pieces().map_err(|error| error.to_string())?;
            state::snapshot::check(keyspace, pieces).map_err(|error| error.to_string())?;
            Ok(spool)
        };
        let checked: Result<_, String> = env::blocking(self.env(), check).await;
        match checked {
            Ok(spool) => {
                tracing::info!(bytes = spool.bytes(), last = ?opening.meta.last_log_id, "installing a snapshot");
                self.install(opening, spool).await
            }
            Err(reason) => {
                tracing::error!(reason, "a snapshot has arrived damaged: it is thrown away, and comes again");
                SnapshotAnswer::Failed(reason)
            }
        }
    }

    async fn install(&self, opening: SnapshotOpening, spool: Arc<Spool>) -> SnapshotAnswer {
        let SnapshotOpening { vote, meta } = opening;
        let snapshot: Snapshot<E> = Snapshot { meta, snapshot: SnapshotData::received(spool) };
        match self.raft().install_full_snapshot(vote, snapshot).await {
            Ok(response) => SnapshotAnswer::Done(response),
            Err(fault) => SnapshotAnswer::Failed(fault.to_string()),
        }
    }
}

/// Where the disk is full, the log gives back what it can do without: the next stream may find room.
fn cannot_spool(log: &dyn LocalLog, error: &io::Error) -> Unfinished {
    if is_full(error) {
        log.give_back();
    }
    Unfinished::Failed(format!("cannot spool: {error}"))
}

/// Writes on a thread that may block.
async fn push(env: &dyn Env, mut spool: Spool, piece: Bytes) -> io::Result<Spool> {
    env::blocking(env, move || spool.push(piece).map(|()| spool)).await
}

#[cfg(test)]
mod tests;
