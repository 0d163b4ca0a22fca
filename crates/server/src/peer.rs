//! The nodes among themselves: gRPC on a listener of its own, for this cluster's nodes alone.
//!
//! 1. Every call and every stream carries the cluster's token, the cluster's id, the protocol's version and who sends:
//!    the listener refuses what does not fit, before anything of it is read.
//! 2. Messages of the Raft groups pass through as bytes: `Peers` is the wire of `consensus`, [`Inbound`] hands them
//!    to the group.
//! 3. What nodes say to each other beside that (joining, leases, shares of a rate) is [`message`].

mod client;
mod grpc;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from proto/peer.proto; a test holds it current")]
mod generated;
pub mod head;
mod incoming;
pub mod message;
mod server;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Refusal, Route, Wire, WireError};
use futures_util::{future::BoxFuture, stream::BoxStream};
use state::ids::NodeId;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use self::message::{Ask, Told};
pub use self::{client::PeerOptions, server::ServeOptions};
pub(crate) use self::{grpc::Grpc, incoming::CONNECTIONS_MAX};

/// The longest message, in bytes: an entry with one command of two of the greatest values, and room.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// How much of one stream may be on its way unread, in bytes; sixteen times as much of a whole connection.
const WINDOW_BYTES: u32 = 1 << 20;
/// The metadata key of a refusal: nothing was done.
const REFUSED: &str = "insidb-refused";

/// The certificates of mutual TLS among the nodes, in PEM. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct PeerTls {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerTls(..)")
    }
}

impl PeerTls {
    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity()).client_ca_root(Certificate::from_pem(&self.ca))
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().identity(self.identity()).ca_certificate(Certificate::from_pem(&self.ca))
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }
}

/// Brings a node's messages to the others, and theirs to it: gRPC, or what a simulator puts in its place.
pub trait Network: Send + Sync + 'static {
    /// Whether the others can reach this node; a single node has none.
    fn serves(&self) -> bool;
    /// The way to the others, for a node that says this of itself.
    fn way(&self, options: PeerOptions) -> Arc<dyn Way>;
    /// Takes what the others send until `stopping` says true; fails when it cannot any more. Called once.
    fn serve(
        &self,
        options: ServeOptions,
        inbound: Arc<dyn Inbound>,
        stopping: watch::Receiver<bool>,
    ) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// A node's way to the others: [`Wire`] as an object, and questions beside Raft's messages.
pub trait Way: fmt::Debug + Send + Sync + 'static {
    /// See [`Wire::call`].
    fn call<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        message: Bytes,
        wait_max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>>;
    /// See [`Wire::stream`].
    fn stream<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<Frames, WireError>>;
    /// Asks the node at `address` (`host:port`); the answer comes within `wait_max`.
    fn ask<'a>(&'a self, address: &'a str, ask: &'a Ask, wait_max: Duration) -> BoxFuture<'a, Result<Told, WireError>>;
}

/// The way to the other nodes. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Peers(Arc<dyn Way>);

impl Peers {
    /// On this way.
    pub(crate) fn new(way: Arc<dyn Way>) -> Self {
        Self(way)
    }

    /// See [`Way::ask`].
    pub(crate) async fn ask(&self, address: &str, ask: &Ask, wait_max: Duration) -> Result<Told, WireError> {
        self.0.ask(address, ask, wait_max).await
    }
}

impl Wire for Peers {
    async fn call(&self, address: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        self.0.call(address, route, message, wait_max).await
    }

    async fn stream(
        &self,
        address: &str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> Result<Frames, WireError> {
        self.0.stream(address, route, frames).await
    }
}

/// What a node does with what its peers send. One object for the whole node.
pub trait Inbound: Send + Sync + 'static {
    /// A message for one of the Raft groups.
    fn group_call(&self, route: Route, message: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>>;
    /// A stream for one of the Raft groups.
    fn group_stream(&self, route: Route, frames: Frames) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, Refusal>>;
    /// A message for the node, from the node `from`.
    fn ask(&self, from: NodeId, ask: Ask) -> BoxFuture<'_, Result<Told, Refusal>>;
}
