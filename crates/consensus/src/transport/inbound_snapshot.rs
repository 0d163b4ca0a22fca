//! A snapshot on its way in: spooled, checked, installed.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use storage::Engine;
use tokio::sync::mpsc;

use crate::{
    group::Group,
    snapshot::{Snapshot, SnapshotData},
    transport::{
        message::{self, SnapshotAnswer, SnapshotFrame, SnapshotOpening},
        spool::Spool,
        wire::Frames,
    },
};

/// Answers that may wait to be sent: there are two at most.
const ANSWERS_MAX: usize = 2;

/// Where a group keeps what has arrived of a snapshot.
pub(crate) struct Arrivals {
    dir: Option<PathBuf>,
    /// What a broken stream has left. One at a time: taken out while a stream goes on with it.
    left: std::sync::Mutex<Option<Spool>>,
    /// One stream at a time is received.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Arrivals {
    /// Spools below `dir`, or in memory.
    ///
    /// # Errors
    /// When what an earlier process left cannot be removed.
    pub(crate) fn new(dir: Option<PathBuf>) -> std::io::Result<Self> {
        if let Some(dir) = &dir {
            Spool::remove_stale(dir)?;
        }
        Ok(Self { dir, left: std::sync::Mutex::default(), turn: Arc::default() })
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Option<Spool>> {
        self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The spool for this snapshot: what is left of it, or a new one.
    fn take(&self, opening: &SnapshotOpening) -> std::io::Result<Spool> {
        let left = self.left().take();
        match left.filter(|spool| spool.log_id() == opening.meta.last_log_id) {
            Some(spool) => Ok(spool),
            None => Spool::new(opening.meta.last_log_id, self.dir.as_deref()),
        }
    }
}

impl<E: Engine> Group<E> {
    /// Takes a snapshot; the answers come as the stream.
    pub(crate) fn receive_snapshot(&self, opening: SnapshotOpening, frames: Frames) -> BoxStream<'static, Bytes> {
        let (answers, queue) = mpsc::channel(ANSWERS_MAX);
        let group = self.clone();
        tokio::spawn(async move {
            let last = match group.spool(&opening, frames, &answers).await {
                Ok(Some(spool)) => group.install(opening, spool).await,
                // The sender is gone, and comes again.
                Ok(None) => return,
                Err(reason) => {
                    tracing::warn!(reason, "a snapshot cannot be received");
                    SnapshotAnswer::Failed(reason)
                }
            };
            // A sender that is gone asks again.
            drop(answers.send(message::encode(&last)).await);
        });
        stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|answer| (answer, queue)) }).boxed()
    }

    /// Spools what arrives; none when the stream breaks before the end.
    async fn spool(
        &self,
        opening: &SnapshotOpening,
        mut frames: Frames,
        answers: &mpsc::Sender<Bytes>,
    ) -> Result<Option<Spool>, String> {
        let arrivals = self.arrivals();
        let Ok(_turn) = arrivals.turn.clone().try_lock_owned() else {
            return Err("another stream of a snapshot is being received".to_owned());
        };
        let mut spool = arrivals.take(opening).map_err(|error| format!("cannot spool: {error}"))?;
        drop(answers.send(message::encode(&SnapshotAnswer::Have(spool.bytes()))).await);
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { break };
            match message::decode(&frame).map_err(|refusal| refusal.0)? {
                SnapshotFrame::Piece(piece) => spool = push(spool, piece.into()).await?,
                SnapshotFrame::End => return Ok(Some(spool)),
            }
        }
        *arrivals.left() = Some(spool);
        Ok(None)
    }

    /// Checks the whole before openraft sees it: to openraft, a snapshot that cannot be installed is a failed disk.
    async fn install(&self, opening: SnapshotOpening, spool: Spool) -> SnapshotAnswer {
        let spool = Arc::new(spool);
        let checked = spool.clone();
        let keyspace = self.local().keyspace();
        let check = move || match checked.pieces() {
            Ok(pieces) => state::snapshot::check(keyspace, pieces).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match tokio::task::spawn_blocking(check).await.expect("a check does not panic, nor is its task aborted") {
            Ok(()) => {}
            Err(reason) => {
                tracing::error!(reason, "a snapshot has arrived damaged: it is thrown away, and comes again");
                return SnapshotAnswer::Failed(reason);
            }
        }
        let SnapshotOpening { vote, meta } = opening;
        tracing::info!(bytes = spool.bytes(), last = ?meta.last_log_id, "installing a snapshot");
        let snapshot: Snapshot<E> = Snapshot { meta, snapshot: SnapshotData::received(spool) };
        match self.raft().install_full_snapshot(vote, snapshot).await {
            Ok(response) => SnapshotAnswer::Done(response),
            Err(fault) => SnapshotAnswer::Failed(fault.to_string()),
        }
    }
}

/// Writes on a thread that may block.
async fn push(mut spool: Spool, piece: Bytes) -> Result<Spool, String> {
    let pushed = tokio::task::spawn_blocking(move || spool.push(piece).map(|()| spool)).await;
    pushed.expect("a write does not panic, nor is its task aborted").map_err(|error| format!("cannot spool: {error}"))
}
