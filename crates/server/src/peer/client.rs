//! The way to the other nodes.
//!
//! Each address has two connections, made when they are first used and again whenever they broke: one for questions,
//! heartbeats among them, and one for streams, so that no snapshot holds a heartbeat up.

use std::{
    collections::HashMap,
    error::Error as _,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Route, Wire, WireError};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use state::ids::NodeId;
use tokio::time::timeout;
use tonic::{
    ConnectError, Request, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::{
    MESSAGE_BYTES_MAX, PeerTls, REFUSED, WINDOW_BYTES,
    generated::{Payload, peer_client::PeerClient},
    head::{self, Head, Token},
    message::{Ask, Told},
};

/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// How often an open connection is probed, and how long the probe may stay unanswered.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// What a node says of itself to the others.
#[derive(Clone, Debug)]
pub(crate) struct PeerOptions {
    /// The node.
    pub(crate) node: NodeId,
    /// Its cluster, once it has one.
    pub(crate) cluster_id: Arc<OnceLock<Uuid>>,
    /// The cluster's token.
    pub(crate) token: Token,
    /// Mutual TLS, when configured.
    pub(crate) tls: Option<PeerTls>,
}

/// The way to the other nodes. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    options: Arc<PeerOptions>,
    lanes: Arc<Mutex<HashMap<String, Arc<Lanes>>>>,
}

/// The connections to one address.
#[derive(Debug)]
struct Lanes {
    address: String,
    calls: PeerClient<Channel>,
    streams: PeerClient<Channel>,
    is_refused: AtomicBool,
}

impl Peers {
    /// No connections yet.
    pub(crate) fn new(options: PeerOptions) -> Self {
        Self { options: Arc::new(options), lanes: Arc::default() }
    }

    /// Asks the node at `address` (`host:port`); the answer comes within `wait_max`.
    pub(crate) async fn ask(&self, address: &str, ask: &Ask, wait_max: Duration) -> Result<Told, WireError> {
        let lanes = self.lanes(address)?;
        let body = postcard::to_stdvec(ask).expect("a question is plain data: encoding cannot fail");
        let request = self.request(Payload { body: body.into() }, None);
        let mut client = lanes.calls.clone();
        let answer = lanes.note(within(wait_max, client.node(request)).await)?;
        postcard::from_bytes(&answer.into_inner().body)
            .map_err(|error| WireError::Broken(format!("the answer of {address} cannot be decoded: {error}")))
    }

    fn request<T>(&self, message: T, route: Option<Route>) -> Request<T> {
        let mut request = Request::new(message);
        let cluster_id = self.options.cluster_id.get().copied();
        let head = Head { cluster_id, node: self.options.node, route };
        head::write(request.metadata_mut(), &self.options.token, &head);
        request
    }

    fn lanes(&self, address: &str) -> Result<Arc<Lanes>, WireError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = lanes.get(address) {
            return Ok(lanes.clone());
        }
        let made = Arc::new(Lanes {
            address: address.to_owned(),
            calls: self.client(address)?,
            streams: self.client(address)?,
            is_refused: AtomicBool::new(false),
        });
        lanes.insert(address.to_owned(), made.clone());
        Ok(made)
    }

    fn client(&self, address: &str) -> Result<PeerClient<Channel>, WireError> {
        let unusable = |error: tonic::transport::Error| {
            WireError::Unreachable(format!("{address} cannot be used as a peer's address: {error}"))
        };
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(unusable)?
            .connect_timeout(CONNECT_TIME_MAX)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(16 * WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if let Some(tls) = &self.options.tls {
            endpoint = endpoint.tls_config(tls.client()).map_err(unusable)?;
        }
        Ok(PeerClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// An answer within a time.
async fn within<T>(wait_max: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, WireError> {
    match timeout(wait_max, answer).await {
        Ok(answer) => answer.map_err(|status| wire_error(&status)),
        Err(_) => Err(WireError::Broken("no answer in time".to_owned())),
    }
}

/// What a status proves. A refusal carries a mark that only a peer of ours sets.
fn wire_error(status: &Status) -> WireError {
    if status.metadata().contains_key(REFUSED) {
        return WireError::Refused(status.message().to_owned());
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return WireError::Unreachable(format!("cannot connect: {error}"));
        }
        cause = error.source();
    }
    WireError::Broken(status.message().to_owned())
}

impl Lanes {
    /// Logs when a peer begins to refuse this node, and when it stops.
    fn note<T>(&self, result: Result<T, WireError>) -> Result<T, WireError> {
        match &result {
            Ok(_) => {
                if self.is_refused.load(Ordering::Relaxed) && self.is_refused.swap(false, Ordering::Relaxed) {
                    tracing::info!(address = self.address, "the peer takes this node's messages again");
                }
            }
            Err(WireError::Refused(reason)) => {
                if !self.is_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(address = self.address, reason, "the peer refuses this node's messages");
                }
            }
            Err(WireError::Unreachable(_) | WireError::Broken(_)) => {}
        }
        result
    }
}

/// Frames as payloads. A type of its own, since with the stream's own the compiler cannot prove that the call may be
/// sent between threads.
struct Outgoing(BoxStream<'static, Bytes>);

impl Stream for Outgoing {
    type Item = Payload;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Payload>> {
        self.0.poll_next_unpin(cx).map(|frame| frame.map(|body| Payload { body }))
    }
}

impl Wire for Peers {
    async fn call(&self, address: &str, route: Route, message: Bytes, wait_max: Duration) -> Result<Bytes, WireError> {
        let lanes = self.lanes(address)?;
        let request = self.request(Payload { body: message }, Some(route));
        let mut client = lanes.calls.clone();
        let answer = lanes.note(within(wait_max, client.group(request)).await)?;
        Ok(answer.into_inner().body)
    }

    async fn stream(
        &self,
        address: &str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> Result<Frames, WireError> {
        let lanes = self.lanes(address)?;
        let request = self.request(Outgoing(frames), Some(route));
        let mut client = lanes.streams.clone();
        let opened = client.group_stream(request).await.map_err(|status| wire_error(&status));
        let answers = lanes.note(opened)?.into_inner();
        Ok(answers
            .map(|answer| match answer {
                Ok(Payload { body }) => Ok(body),
                Err(status) => Err(wire_error(&status)),
            })
            .boxed())
    }
}
