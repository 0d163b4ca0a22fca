//! The nodes among themselves: gRPC on a listener of its own, for this cluster's nodes alone.
//!
//! 1. Every call and every stream carries the cluster's token, the cluster's id, the protocol's version and who sends:
//!    [`serve`] refuses what does not fit, before anything of it is read.
//! 2. Messages of the Raft groups pass through as bytes: [`Peers`] is the wire of `consensus`, [`Inbound`] hands them
//!    to the group.
//! 3. What nodes say to each other beside that (joining, leases, shares of a rate) is [`message`].

pub(crate) mod message;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Refusal, Route, Wire, WireError};
use futures_util::stream::BoxStream;
use state::ids::NodeId;

use self::message::{Ask, Told};

/// What a node does with what its peers send. One object for the whole node.
pub(crate) trait Inbound: Send + Sync + 'static {
    /// A message for one of the Raft groups.
    fn group_call(&self, route: Route, message: Bytes) -> impl Future<Output = Result<Bytes, Refusal>> + Send;
    /// A stream for one of the Raft groups.
    fn group_stream(
        &self,
        route: Route,
        frames: Frames,
    ) -> impl Future<Output = Result<BoxStream<'static, Bytes>, Refusal>> + Send;
    /// A message for the node, from the node `from`.
    fn ask(&self, from: NodeId, ask: Ask) -> impl Future<Output = Result<Told, Refusal>> + Send;
}

/// The way to the other nodes. Clones share its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {}

impl Peers {
    /// Asks the node at `address` (`host:port`); the answer comes within `wait_max`.
    pub(crate) async fn ask(&self, _address: &str, _ask: &Ask, _wait_max: Duration) -> Result<Told, WireError> {
        Err(WireError::Unreachable("this node has no peers".to_owned()))
    }
}

impl Wire for Peers {
    async fn call(&self, _: &str, _: Route, _: Bytes, _: Duration) -> Result<Bytes, WireError> {
        Err(WireError::Unreachable("this node has no peers".to_owned()))
    }

    async fn stream(&self, _: &str, _: Route, _: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        Err(WireError::Unreachable("this node has no peers".to_owned()))
    }
}
