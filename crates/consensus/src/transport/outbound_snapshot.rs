//! A snapshot on its way out.
//!
//! 1. The stream opens with what the snapshot covers; the receiver answers how many bytes of it it has already.
//! 2. From there on the bytes follow, as fast as the receiver takes them: the export runs on a thread of its own and
//!    waits behind a short queue. The frames are small, however large a value is: what goes on where it broke gets
//!    further each time.
//! 3. A stream that breaks, or of which nothing is taken for [`PROGRESS_WAIT_MAX`], is opened anew, and goes on where it
//!    broke. openraft cancels the whole when it is not wanted any more.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::{
    errors::{NetworkError, RPCError, StreamingError},
    raft::SnapshotResponse,
};
use storage::Engine;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    env::{self, Env},
    snapshot::{Snapshot, SnapshotData},
    transport::{
        message::{self, Opening, SnapshotAnswer, SnapshotFrame, SnapshotOpening},
        network::rpc_error,
        wire::{Frames, Route, Wire, WireError},
    },
    types::{Peer, TypeConfig, Vote},
};

/// Frames that may wait to be sent.
const QUEUED_FRAMES_MAX: usize = 2;
/// How often a stream may break in a row without a byte of progress.
const TRIES_MAX: u32 = 20;
/// The pause before a broken stream is opened anew.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes that one frame carries.
const FRAME_BYTES_MAX: usize = 262_144;
/// How long the wire may take none of the frames that wait.
const PROGRESS_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the receiver may take to check and install what it has.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(600);
/// How long the receiver may take to say how much it has: longer than it lets a stream wait for its turn.
const OFFSET_WAIT_MAX: Duration = Duration::from_secs(5);

/// How one stream ended.
enum End {
    /// The receiver has it all.
    Answered(SnapshotResponse<TypeConfig>),
    /// It broke. Whether anything new had arrived before.
    Broken { progress: bool, error: WireError },
}

/// How far the wire has come with a stream.
struct Progress(Mutex<(Instant, bool)>);

impl Progress {
    fn new() -> Self {
        Self(Mutex::new((Instant::now(), false)))
    }

    /// The wire has taken a frame, or all of them.
    fn note(&self, is_whole: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), is_whole);
    }

    /// Until when the next answer is waited for.
    fn patience_ends(&self) -> Instant {
        let (at, is_whole) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at + if is_whole { INSTALL_TIME_MAX } else { PROGRESS_WAIT_MAX }
    }
}

/// Sends a snapshot, however many streams it takes.
pub(crate) async fn send<W: Wire, E: Engine>(
    wire: &W,
    peer: &Peer,
    route: &Route,
    vote: Vote,
    snapshot: Snapshot<E>,
    env: &Arc<dyn Env>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let mut tries = 0;
    let mut offset = 0;
    loop {
        let end = send_once(wire, (peer, route), vote, &snapshot, env, &mut offset).await;
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
    (peer, route): (&Peer, &Route),
    vote: Vote,
    snapshot: &Snapshot<E>,
    env: &Arc<dyn Env>,
    offset_before: &mut u64,
) -> End {
    let broken = |progress, error| End::Broken { progress, error };
    let (frames, queue) = mpsc::channel::<Bytes>(QUEUED_FRAMES_MAX);
    let opening = Opening::Snapshot(SnapshotOpening { vote, meta: snapshot.meta.clone() });
    // The queue is empty: there is room.
    drop(frames.try_send(message::encode(&opening)));
    let progress = Arc::new(Progress::new());
    let queued = stream::unfold((queue, progress.clone()), |(mut queue, progress)| async move {
        let frame = queue.recv().await;
        progress.note(frame.is_none());
        frame.map(|frame| (frame, (queue, progress)))
    });
    let opened = wire.stream(&peer.address, route.clone(), queued.boxed());
    let mut answers = match timeout(OFFSET_WAIT_MAX, opened).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return broken(false, error),
        Err(_) => return broken(false, WireError::Broken("the peer does not take a stream".to_owned())),
    };
    let first = timeout(OFFSET_WAIT_MAX, next_answer(&mut answers)).await.unwrap_or_else(|_| Err(silent()));
    let offset = match first {
        Ok(SnapshotAnswer::Have(offset)) => offset,
        Ok(SnapshotAnswer::Done(response)) => return End::Answered(response),
        Ok(SnapshotAnswer::Failed(reason)) => return broken(false, WireError::Broken(reason)),
        Err(error) => return broken(false, error),
    };
    let has_moved = offset > *offset_before;
    *offset_before = offset;
    let data = snapshot.snapshot.clone();
    let own_env = env.clone();
    env.run_blocking(Box::new(move || export(&*own_env, data, offset, &frames)));
    match last_answer(&mut answers, &progress).await {
        Ok(SnapshotAnswer::Done(response)) => End::Answered(response),
        Ok(SnapshotAnswer::Have(_)) => broken(has_moved, WireError::Broken("the peer answers twice".to_owned())),
        Ok(SnapshotAnswer::Failed(reason)) => broken(has_moved, WireError::Broken(reason)),
        Err(error) => broken(has_moved, error),
    }
}

/// The answer behind the whole, for as long as there is progress towards it.
async fn last_answer(answers: &mut Frames, progress: &Progress) -> Result<SnapshotAnswer, WireError> {
    loop {
        if let Ok(answer) = timeout_at(progress.patience_ends(), next_answer(answers)).await {
            return answer;
        }
        if progress.patience_ends() <= Instant::now() {
            return Err(silent());
        }
    }
}

async fn next_answer(answers: &mut Frames) -> Result<SnapshotAnswer, WireError> {
    match answers.next().await {
        Some(Ok(frame)) => message::decode(&frame).map_err(|refusal| WireError::Broken(refusal.0)),
        Some(Err(error)) => Err(error),
        None => Err(WireError::Broken("the peer ended the stream".to_owned())),
    }
}

fn silent() -> WireError {
    WireError::Broken("the peer does not answer".to_owned())
}

/// Puts what lies behind `offset` into the queue; ends when the stream does.
fn export<E: Engine>(env: &dyn Env, data: SnapshotData<E>, offset: u64, frames: &mpsc::Sender<Bytes>) {
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
        for bytes in rest.chunks(FRAME_BYTES_MAX) {
            let frame = message::encode(&SnapshotFrame::Piece(bytes.to_vec()));
            if env::block_on(env, frames.send(frame)).is_err() {
                return;
            }
        }
    }
    // Whoever receives it is gone when this fails.
    drop(env::block_on(env, frames.send(message::encode(&SnapshotFrame::End))));
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
