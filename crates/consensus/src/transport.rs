//! How a member reaches its peers.

use std::{future::Future, marker::PhantomData};

use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use storage::Engine;

use crate::{
    snapshot::{Snapshot, SnapshotData},
    types::{MemberId, Peer, TypeConfig, Vote},
};

/// The transport of a group with one member: there is nobody to reach.
pub struct Solitary<E>(PhantomData<fn() -> E>);

impl<E> Default for Solitary<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error("this node has no peers"))
}

impl<E: Engine> RaftNetworkFactory<TypeConfig> for Solitary<E> {
    type Network = Self;

    async fn new_client(&mut self, _: MemberId, _: &Peer) -> Self {
        Self::default()
    }
}

impl<E: Engine> RaftNetworkV2<TypeConfig> for Solitary<E> {
    type SnapshotData = SnapshotData<E>;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
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
