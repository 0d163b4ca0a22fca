//! openraft's way out: its requests as messages over a [`Wire`].

use std::{future::Future, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, SnapshotResponse, VoteRequest, VoteResponse},
};
use storage::Engine;

use crate::{
    snapshot::{Snapshot, SnapshotData},
    transport::{
        message::{self, Answer, AppendResponse, Question},
        wire::{GroupId, Route, Wire, WireError},
    },
    types::{MemberId, Peer, TypeConfig, Vote},
};

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
    pub(crate) engine: PhantomData<fn() -> E>,
}

/// The way to one member.
pub(crate) struct Link<E> {
    engine: PhantomData<fn() -> E>,
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error("this node has no peers"))
}

impl<W: Wire, E: Engine> RaftNetworkFactory<TypeConfig> for Network<W, E> {
    type Network = Link<E>;

    async fn new_client(&mut self, _: MemberId, _: &Peer) -> Link<E> {
        Link { engine: PhantomData }
    }
}

impl<E: Engine> RaftNetworkV2<TypeConfig> for Link<E> {
    type SnapshotData = SnapshotData<E>;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendResponse, RPCError<TypeConfig>> {
        Err(unreachable().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // The default grants everything.
        Err(unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot<E>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(unreachable().into())
    }
}
