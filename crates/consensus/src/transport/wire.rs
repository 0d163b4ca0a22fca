//! The border to whoever carries messages between members: bytes out, bytes back.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::types::MemberId;

/// Which group a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GroupId {
    /// The durable group, which holds the control plane too.
    Values,
    /// One generation of the cache group.
    Cache {
        /// Its number.
        generation: u64,
    },
}

/// Whence and whither. Every message and every stream carries it, and who receives refuses what is not meant for it:
/// openraft's append names no receiver, so that the message of a dead incarnation would count for its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The group.
    pub group: GroupId,
    /// Who sends.
    pub from: MemberId,
    /// Who is meant.
    pub to: MemberId,
}

/// Why a message was not answered. Only [`WireError::Broken`] leaves it open whether it arrived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There was no connection: the message was not sent.
    #[error("{0}")]
    Unreachable(String),
    /// The peer refused the message without acting on it: another cluster, token or version, or a member that it is not.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The connection broke, or time was up, after the message may have been sent.
    #[error("{0}")]
    Broken(String),
}

/// A message that this member does not take, with the reason; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// A stream of frames on its way in. It ends with an error when the connection breaks, and without when the sender is
/// done.
pub type Frames = BoxStream<'static, Result<Bytes, WireError>>;

/// Carries messages. It authenticates both ends, bounds and frames; it never sends anything twice, and hands nothing
/// on that it has not whole. Clones share its connections.
pub trait Wire: Clone + Send + Sync + 'static {
    /// One message to the member at `address` (`host:port`), one answer within `wait_max`.
    fn call(
        &self,
        address: &str,
        route: Route,
        message: Bytes,
        wait_max: Duration,
    ) -> impl Future<Output = Result<Bytes, WireError>> + Send;

    /// Opens a stream of frames each way. Back-pressure is the wire's: `frames` is polled only as fast as the receiver
    /// takes them, and dropping the answer's stream ends both.
    fn stream(
        &self,
        address: &str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> impl Future<Output = Result<Frames, WireError>> + Send;
}

/// The wire of a node without peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solitary;

fn no_peers() -> WireError {
    WireError::Unreachable("this node has no peers".to_owned())
}

impl Wire for Solitary {
    async fn call(&self, _: &str, _: Route, _: Bytes, _: Duration) -> Result<Bytes, WireError> {
        Err(no_peers())
    }

    async fn stream(&self, _: &str, _: Route, _: BoxStream<'static, Bytes>) -> Result<Frames, WireError> {
        Err(no_peers())
    }
}
