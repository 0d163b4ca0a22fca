//! The nodes among themselves: gRPC on a listener of its own, for this cluster's nodes alone.
//!
//! 1. Every call and every stream carries the cluster's token, the cluster's id, the protocol's version and who sends:
//!    [`serve`] refuses what does not fit, before anything of it is read.
//! 2. Messages of the Raft groups pass through as bytes: [`Peers`] is the wire of `consensus`, [`Inbound`] hands them
//!    to the group.
//! 3. What nodes say to each other beside that (joining, leases, shares of a rate) is [`message`].

mod client;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from proto/peer.proto; a test holds it current")]
mod generated;
pub(crate) mod head;
mod incoming;
pub(crate) mod message;
mod server;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Refusal, Route};
use futures_util::stream::BoxStream;
use state::ids::NodeId;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use self::message::{Ask, Told};
pub(crate) use self::{
    client::{PeerOptions, Peers},
    server::{ServeOptions, serve},
};

/// The longest message, in bytes: an entry with one command of two of the greatest values, and room.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// How much of one stream may be on its way unread, in bytes; sixteen times as much of a whole connection.
const WINDOW_BYTES: u32 = 1 << 20;
/// The metadata key of a refusal: nothing was done.
const REFUSED: &str = "insidb-refused";

/// The certificates of mutual TLS among the nodes, in PEM. Its `Debug` shows nothing.
#[derive(Clone)]
pub(crate) struct PeerTls {
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
