//! A snapshot on its way out.
//!
//! 1. The stream opens with what the snapshot covers; the receiver answers how many bytes of it it has already.
//! 2. From there on the bytes follow, as fast as the receiver takes them: the export runs on a thread of its own and
//!    waits behind a short queue.
//! 3. A stream that breaks is opened anew, and goes on where it broke. openraft cancels the whole when it is not wanted
//!    any more.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::{
    errors::{NetworkError, RPCError, StreamingError},
    raft::SnapshotResponse,
};
use storage::Engine;
use tokio::sync::mpsc;

use crate::{
    snapshot::{Snapshot, SnapshotData},
    transport::{
        message::{self, Opening, SnapshotAnswer, SnapshotFrame, SnapshotOpening},
        network::rpc_error,
        wire::{Route, Wire, WireError},
    },
    types::{Peer, SnapshotMeta, TypeConfig, Vote},
};

/// Frames that may wait to be sent.
const QUEUED_FRAMES_MAX: usize = 2;
/// How often a stream may break in a row without a byte of progress.
const TRIES_MAX: u32 = 20;
/// The pause before a broken stream is opened anew.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the receiver may take to check and install what it has.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(600);
/// How long the receiver may take to say how much it has.
const OFFSET_WAIT_MAX: Duration = Duration::from_secs(5);

/// How one stream ended.
enum End {
    /// The receiver has it all.
    Answered(SnapshotResponse<TypeConfig>),
    /// It broke. Whether anything new had arrived before.
    Broken { progress: bool, error: WireError },
}

/// Sends a snapshot, however many streams it takes.
pub(crate) async fn send<W: Wire, E: Engine>(
    wire: &W,
    peer: &Peer,
    route: &Route,
    vote: Vote,
    snapshot: Snapshot<E>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let mut tries = 0;
    let mut offset = 0;
    loop {
        let end = send_once(wire, peer, route, vote, &snapshot.meta, &snapshot.snapshot, &mut offset).await;
        match end {
            End::Answered(response) => return Ok(response),
            End::Broken { progress: true, .. } => tries = 0,
            End::Broken { progress: false, error } if tries >= TRIES_MAX => return Err(streaming_error(error)),
            End::Broken { progress: false, .. } => tries += 1,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn send_once<W: Wire, E: Engine>(
    wire: &W,
    peer: &Peer,
    route: &Route,
    vote: Vote,
    meta: &SnapshotMeta,
    data: &SnapshotData<E>,
    offset_before: &mut u64,
) -> End {
    let broken = |progress, error| End::Broken { progress, error };
    let (frames, queue) = mpsc::channel::<Bytes>(QUEUED_FRAMES_MAX);
    let opening = Opening::Snapshot(SnapshotOpening { vote, meta: meta.clone() });
    // The queue is empty: there is room.
    drop(frames.try_send(message::encode(&opening)));
    let queued = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|frame| (frame, queue)) });
    let mut answers = match wire.stream(&peer.address, route.clone(), queued.boxed()).await {
        Ok(answers) => answers,
        Err(error) => return broken(false, error),
    };
    let offset = match next_answer(&mut answers, OFFSET_WAIT_MAX).await {
        Ok(SnapshotAnswer::Have(offset)) => offset,
        Ok(SnapshotAnswer::Done(response)) => return End::Answered(response),
        Ok(SnapshotAnswer::Failed(reason)) => return broken(false, WireError::Broken(reason)),
        Err(error) => return broken(false, error),
    };
    let progress = offset > *offset_before;
    *offset_before = offset;
    let data = data.clone();
    tokio::task::spawn_blocking(move || export(data, offset, &frames));
    match next_answer(&mut answers, INSTALL_TIME_MAX).await {
        Ok(SnapshotAnswer::Done(response)) => End::Answered(response),
        Ok(SnapshotAnswer::Have(_)) => broken(progress, WireError::Broken("the peer answers twice".to_owned())),
        Ok(SnapshotAnswer::Failed(reason)) => broken(progress, WireError::Broken(reason)),
        Err(error) => broken(progress, error),
    }
}

async fn next_answer(
    answers: &mut crate::transport::wire::Frames,
    wait_max: Duration,
) -> Result<SnapshotAnswer, WireError> {
    match tokio::time::timeout(wait_max, answers.next()).await {
        Ok(Some(Ok(frame))) => message::decode(&frame).map_err(|refusal| WireError::Broken(refusal.0)),
        Ok(Some(Err(error))) => Err(error),
        Ok(None) => Err(WireError::Broken("the peer ended the stream".to_owned())),
        Err(_) => Err(WireError::Broken("the peer does not answer".to_owned())),
    }
}

/// Puts what lies behind `offset` into the queue; ends when the stream does.
fn export<E: Engine>(data: SnapshotData<E>, offset: u64, frames: &mpsc::Sender<Bytes>) {
    let mut skip = offset;
    let pieces = match data.pieces() {
        Ok(pieces) => pieces,
        Err(error) => return tracing::error!(%error, "a snapshot cannot be read"),
    };
    for piece in pieces {
        let piece = match piece {
            Ok(piece) => piece,
            // Without its end the receiver takes nothing; what is wrong with the disk is for an operator.
            Err(error) => return tracing::error!(%error, "a snapshot cannot be read"),
        };
        let skipped = skip.min(piece.len() as u64);
        skip -= skipped;
        let rest = &piece[usize::try_from(skipped).expect("no longer than a piece")..];
        if !rest.is_empty() && frames.blocking_send(message::encode(&SnapshotFrame::Piece(rest.to_vec()))).is_err() {
            return;
        }
    }
    // Whoever receives it is gone when this fails.
    drop(frames.blocking_send(message::encode(&SnapshotFrame::End)));
}

fn streaming_error(error: WireError) -> StreamingError<TypeConfig> {
    match rpc_error(error) {
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        RPCError::Timeout(_) | RPCError::RemoteError(_) => {
            StreamingError::Network(NetworkError::from_string("the peer does not answer"))
        }
    }
}
