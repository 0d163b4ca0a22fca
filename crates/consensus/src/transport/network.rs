//! openraft's way out: its requests as messages over a [`Wire`].
//!
//! 1. openraft asks [`Network`] for a [`Link`] to a member: one for entries, one for heartbeats, one for snapshots, so
//!    that none of them waits behind another.
//! 2. Entries flow as one stream of frames for as long as the connection holds, each answered in order: many are under
//!    way at a time. Heartbeats and votes are questions with one answer.
//! 3. A stream that cannot be opened within [`SILENCE_MAX`], or whose frames stay unanswered for longer than their bytes
//!    may take (`patience.rs`), is given up: the peer is paused, or its disk is, or the connection is dead.
//! 4. A question's answer may take as long as openraft waits for it.
//! 5. A leader without a quorum sends entries and snapshots by turns (`silence.rs`).

use std::{future::Future, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use storage::Engine;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    env::Env,
    snapshot::{Snapshot, SnapshotData},
    transport::{
        contact::Contact,
        leading::Leading,
        message::{self, Answer, Append, AppendResponse, Appended, Opening, Question},
        outbound_snapshot,
        patience::{SILENCE_MAX, Unanswered},
        silence::Silence,
        wire::{Frames, GroupId, Route, Wire, WireError},
    },
    types::{MemberId, Peer, TypeConfig, Vote},
};

/// The pause before a peer that was not there is tried again: short, so that one that comes back is found at once.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

type Call = dyn Fn(String, Route, Bytes, Duration) -> BoxFuture<'static, Result<Bytes, WireError>> + Send + Sync;

/// Asks other members, whichever wire carries the questions.
#[derive(Clone)]
pub(crate) struct Peers {
    group: GroupId,
    member: MemberId,
    call: Arc<Call>,
}

impl Peers {
    pub(crate) fn new<W: Wire>(group: GroupId, member: MemberId, wire: W) -> Self {
        let call = move |address: String, route: Route, message: Bytes, wait_max: Duration| {
            let wire = wire.clone();
            let call: BoxFuture<'static, _> =
                Box::pin(async move { wire.call(&address, route, message, wait_max).await });
            call
        };
        Self { group, member, call: Arc::new(call) }
    }

    /// One question to the member `to`, its answer within `wait_max`.
    pub(crate) async fn ask(
        &self,
        to: MemberId,
        peer: &Peer,
        question: &Question,
        wait_max: Duration,
    ) -> Result<Answer, WireError> {
        let route = Route { group: self.group, from: self.member, to };
        let answer = (self.call)(peer.address.clone(), route, message::encode(question), wait_max).await?;
        // Whatever was asked may have been done.
        message::decode(&answer).map_err(|refusal| WireError::Broken(refusal.0))
    }
}

/// Makes a [`Link`] for each member that openraft wants to reach.
pub(crate) struct Network<W, E> {
    pub(crate) group: GroupId,
    pub(crate) member: MemberId,
    pub(crate) wire: W,
    pub(crate) peers: Peers,
    pub(crate) contact: Arc<Contact>,
    pub(crate) leading: Arc<Leading>,
    pub(crate) silence: Silence,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) engine: PhantomData<fn() -> E>,
}

impl<W: Wire, E: Engine> Network<W, E> {
    fn link(&self, to: MemberId, peer: &Peer, is_for_heartbeats: bool) -> Link<W, E> {
        Link {
            route: Route { group: self.group, from: self.member, to },
            peer: peer.clone(),
            wire: self.wire.clone(),
            peers: self.peers.clone(),
            turns: Turns { contact: self.contact.clone(), silence: self.silence, since: Instant::now() },
            contact: self.contact.clone(),
            leading: self.leading.clone(),
            env: self.env.clone(),
            is_for_heartbeats,
            engine: PhantomData,
        }
    }
}

impl<W: Wire, E: Engine> RaftNetworkFactory<TypeConfig> for Network<W, E> {
    type Network = Link<W, E>;

    async fn new_client(&mut self, to: MemberId, peer: &Peer) -> Link<W, E> {
        self.link(to, peer, false)
    }

    async fn new_heartbeat_client(&mut self, to: MemberId, peer: &Peer) -> Link<W, E> {
        self.link(to, peer, true)
    }
}

/// The way to one member.
pub(crate) struct Link<W, E> {
    route: Route,
    peer: Peer,
    wire: W,
    peers: Peers,
    contact: Arc<Contact>,
    leading: Arc<Leading>,
    turns: Turns,
    env: Arc<dyn Env>,
    is_for_heartbeats: bool,
    engine: PhantomData<fn() -> E>,
}

impl<W: Wire, E: Engine> Link<W, E> {
    /// Where the member is now; while the membership does not say, where it was when openraft made the link.
    fn peer(&self) -> Peer {
        self.contact.peer(self.route.to).unwrap_or_else(|| self.peer.clone())
    }

    async fn ask(&self, question: &Question, option: &RPCOption) -> Result<Answer, RPCError<TypeConfig>> {
        // Every answer that openraft still waits for is of use; `soft_ttl` would cut off the last quarter.
        match self.peers.ask(self.route.to, &self.peer(), question, option.hard_ttl()).await {
            Ok(Answer::Stopped) => Err(broken("the peer's group has stopped").into()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(rpc_error(error)),
        }
    }

    async fn pipeline<S>(&mut self, input: S) -> Result<AppendResults, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + 'static,
    {
        self.turns.may_speak().await;
        let unanswered = Arc::new(Unanswered::new(Instant::now()));
        let (sent, turns, leading) = (unanswered.clone(), self.turns.clone(), self.leading.clone());
        let appends = input.then(move |request| {
            let (sent, turns, leading) = (sent.clone(), turns.clone(), leading.clone());
            async move {
                turns.may_speak().await;
                leading.tells_committed(request.leader_commit.as_ref());
                let frame = message::encode(&Append { request, quorum_age_ms: turns.contact.quorum_age_ms() });
                sent.sent(Instant::now(), frame.len());
                frame
            }
        });
        let opening = stream::once(async { message::encode(&Opening::Append) });
        let frames: BoxStream<'static, Bytes> = opening.chain(appends).boxed();
        let address = self.peer().address;
        let opened = self.wire.stream(&address, self.route.clone(), frames);
        let (contact, to) = (self.contact.clone(), self.route.to);
        let error = match timeout(SILENCE_MAX, opened).await {
            Ok(Ok(answers)) => {
                let answers = answers_of(answers, unanswered);
                return Ok(answers.map(move |answer| refuse_reversion(&contact, to, answer)).boxed());
            }
            Ok(Err(error)) => rpc_error(error),
            Err(_) => broken("the peer does not take a stream").into(),
        };
        // openraft pauses where it is asked for a request, and nobody has asked for one yet: it would try again at once.
        tokio::time::sleep(RETRY_PAUSE).await;
        Err(error)
    }
}

/// When the leader may send what holds its followers to it.
#[derive(Clone)]
struct Turns {
    contact: Arc<Contact>,
    silence: Silence,
    /// When the link was made: a leader that never had a quorum counts from here.
    since: Instant,
}

impl Turns {
    /// Returns when it may.
    async fn may_speak(&self) {
        let mut news = self.contact.news();
        loop {
            let quorum_age = self.contact.own_quorum_age().unwrap_or_else(|| self.since.elapsed());
            let Some(remaining) = self.silence.remaining(quorum_age) else { return };
            // A quorum that is back ends it.
            drop(timeout(remaining, news.changed()).await);
        }
    }
}

type AppendResult = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;
type AppendResults = BoxStream<'static, AppendResult>;

/// The answers of a stream, decoded; it ends behind an error, and when a frame stays unanswered for too long.
fn answers_of(answers: Frames, unanswered: Arc<Unanswered>) -> AppendResults {
    stream::unfold(Some(answers), move |answers| {
        let unanswered = unanswered.clone();
        async move {
            let mut answers = answers?;
            match next_answer(&mut answers, &unanswered).await? {
                Ok(result) => Some((Ok(result), Some(answers))),
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

async fn next_answer(answers: &mut Frames, unanswered: &Unanswered) -> Option<AppendResult> {
    loop {
        // While nothing is owed, a frame may be sent at any moment: it is looked at again before its time is up.
        let until = unanswered.patience_ends().unwrap_or_else(|| Instant::now() + SILENCE_MAX);
        match timeout_at(until, answers.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(frame))) => {
                unanswered.answered(Instant::now());
                return Some(decode_appended(&frame));
            }
            Ok(Some(Err(error))) => return Some(Err(rpc_error(error))),
            Err(_) => {}
        }
        if unanswered.patience_ends().is_some_and(|end| end <= Instant::now()) {
            return Some(Err(broken("the peer does not answer").into()));
        }
    }
}

/// A log that has gone back is nothing that openraft can work with: the member counts as one that does not answer.
fn refuse_reversion(contact: &Contact, to: MemberId, answer: AppendResult) -> AppendResult {
    match answer {
        Ok(Err(StreamAppendError::Conflict(log_id))) if contact.has_gone_back(to, log_id) => {
            Err(broken("the peer's log has gone back").into())
        }
        Ok(Ok(Some(log_id))) => {
            contact.has_it(to, log_id);
            Ok(Ok(Some(log_id)))
        }
        other => other,
    }
}

fn decode_appended(frame: &[u8]) -> AppendResult {
    match message::decode(frame) {
        Ok(Appended::Matching(log_id)) => Ok(Ok(log_id)),
        Ok(Appended::Conflict(log_id)) => Ok(Err(StreamAppendError::Conflict(log_id))),
        Ok(Appended::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote))),
        Ok(Appended::Stopped) => Err(broken("the peer's group has stopped").into()),
        Err(refusal) => Err(broken(refusal.0).into()),
    }
}

impl<W: Wire, E: Engine> RaftNetworkV2<TypeConfig> for Link<W, E> {
    type SnapshotData = SnapshotData<E>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendResponse, RPCError<TypeConfig>> {
        let before = request.prev_log_id;
        self.leading.tells_committed(request.leader_commit.as_ref());
        let append = Append { request, quorum_age_ms: self.contact.quorum_age_ms() };
        match self.ask(&Question::Append(append), &option).await? {
            Answer::Appended(AppendResponse::Conflict)
                if before.is_some_and(|before| self.contact.has_gone_back(self.route.to, before)) =>
            {
                Err(broken("the peer's log has gone back").into())
            }
            Answer::Appended(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.is_for_heartbeats {
            return stream_append_sequential(self, input, option);
        }
        let results = self.pipeline(input);
        Box::pin(async move {
            let results: BoxStream<'s, _> = results.await?;
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.ask(&Question::Vote(request), &option).await? {
            Answer::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.ask(&Question::PreVote(request), &option).await? {
            Answer::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.leading.hands_over(request.from_leader());
        match self.ask(&Question::Transfer(request), &option).await? {
            Answer::Transfer(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<E>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer();
        let sending = async {
            self.turns.may_speak().await;
            outbound_snapshot::send(&self.wire, &peer, &self.route, vote, snapshot, &self.env).await
        };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => sent,
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}

fn broken(reason: impl ToString) -> NetworkError<TypeConfig> {
    NetworkError::from_string(reason)
}

fn unexpected(_: &Answer) -> RPCError<TypeConfig> {
    broken("the peer answered another question than it was asked").into()
}

pub(crate) fn rpc_error(error: WireError) -> RPCError<TypeConfig> {
    match error {
        WireError::Unreachable(_) | WireError::Refused(_) => Unreachable::from_string(error.to_string()).into(),
        WireError::Broken(_) => broken(error.to_string()).into(),
    }
}
