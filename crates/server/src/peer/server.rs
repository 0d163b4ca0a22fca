//! The peers' listener.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use consensus::transport::wire::{Refusal, Route, WireError};
use futures_util::{FutureExt, Stream, StreamExt, future::Shared};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};
use uuid::Uuid;

use super::{
    Inbound, MESSAGE_BYTES_MAX, PeerTls, REFUSED, WINDOW_BYTES,
    generated::{
        Payload,
        peer_server::{Peer, PeerServer},
    },
    head::{self, Head, Token},
    incoming::{Guest, OnRefusal, bounded},
    message::Ask,
};

/// Calls and streams of one connection that may be open at a time.
const STREAMS_MAX: u32 = 4_096;
/// A peer that is silent for so long is asked whether it is there, and given up when it stays silent as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long open calls may take to end at a stop.
const STOP_WAIT_MAX: Duration = Duration::from_secs(1);
/// The same refusal of the same address is logged once in so long.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Different refusals of one address that are logged in that time.
const REASONS_MAX: usize = 4;
/// Addresses whose refusals are remembered.
const LOGGED_MAX: usize = 1_024;

/// What the listener needs to know of its node.
pub struct ServeOptions {
    /// The cluster's token.
    pub token: Token,
    /// The node's cluster, once it has one.
    pub cluster_id: Arc<OnceLock<Uuid>>,
    /// Mutual TLS, when configured.
    pub tls: Option<PeerTls>,
}

/// Serves the peers until `stopping` says true.
///
/// # Errors
/// When the certificates cannot be used, or the listener fails.
pub(super) async fn serve(
    listener: TcpListener,
    options: ServeOptions,
    inbound: Arc<dyn Inbound>,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(16 * WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    if let Some(tls) = &options.tls {
        server = server.tls_config(tls.server()).context("the peers' certificates cannot be used")?;
    }
    let doorman = Arc::new(Doorman { token: options.token, cluster_id: options.cluster_id, logged: Mutex::default() });
    let mut told = stopping.clone();
    let stopped: Stopped = async move { drop(told.wait_for(|stop| *stop).await) }.boxed().shared();
    let peer = PeerServer::new(Desk { inbound, stopped: stopped.clone() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let porter = doorman.clone();
    let service = InterceptedService::new(peer, move |request| doorman.let_in(request));
    let on_refusal: OnRefusal = Arc::new(move |from, reason| porter.log(from, reason));
    let incoming = bounded(TcpIncoming::from(listener).with_nodelay(Some(true)), on_refusal);
    let serving = server.add_service(service).serve_with_incoming_shutdown(incoming, stopped);
    tokio::select! {
        served = serving => served.context("the peers' listener has failed"),
        () = async {
            drop(stopping.wait_for(|stop| *stop).await);
            tokio::time::sleep(STOP_WAIT_MAX).await;
        } => Ok(()),
    }
}

/// The refusals of one address that were logged lately: why, and when.
type Logged = Vec<(String, Instant)>;

/// Looks at each call's head before anything else of it is read.
struct Doorman {
    token: Token,
    cluster_id: Arc<OnceLock<Uuid>>,
    logged: Mutex<HashMap<IpAddr, Logged>>,
}

impl Doorman {
    fn let_in(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let guest = request.extensions().get::<Guest>().expect("every connection that comes in is placed");
        let read = head::read(request.metadata(), &self.token, self.cluster_id.get().copied());
        let crowded = || "it has too many connections, or all peers together have".to_owned();
        match read.and_then(|head| guest.prove().then_some(head).ok_or_else(crowded)) {
            Ok(head) => {
                request.extensions_mut().insert(head);
                Ok(request)
            }
            Err(reason) => {
                self.log(guest.address(), &reason);
                Err(refused(reason))
            }
        }
    }

    fn log(&self, from: IpAddr, reason: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged.len() >= LOGGED_MAX && !logged.contains_key(&from) {
            logged.retain(|_, reasons| reasons.iter().any(|(_, at)| now.duration_since(*at) < LOG_PAUSE));
            if logged.len() >= LOGGED_MAX {
                return; // whoever looks has enough to read
            }
        }
        let of_address = logged.entry(from).or_default();
        of_address.retain(|(_, at)| now.duration_since(*at) < LOG_PAUSE);
        if of_address.len() >= REASONS_MAX || of_address.iter().any(|(known, _)| known == reason) {
            return;
        }
        of_address.push((reason.to_owned(), now));
        tracing::warn!(%from, reason, "a peer is refused");
    }
}

/// A refusal that proves that nothing was done.
fn refused(reason: String) -> Status {
    let mut status = Status::new(Code::FailedPrecondition, reason);
    status.metadata_mut().insert(REFUSED, MetadataValue::from_static("1"));
    status
}

/// Ready when the node stops.
type Stopped = Shared<futures_util::future::BoxFuture<'static, ()>>;

struct Desk {
    inbound: Arc<dyn Inbound>,
    stopped: Stopped,
}

fn head_of<T>(request: &Request<T>) -> Result<Head, Status> {
    request.extensions().get().cloned().ok_or_else(|| refused("the call has no head".to_owned()))
}

/// The route of a group's message, whose sender must be who the head says.
fn route_of<T>(request: &Request<T>) -> Result<Route, Status> {
    let head = head_of(request)?;
    match (head.cluster_id, head.route) {
        (None, _) => Err(refused("the sender has no cluster yet".to_owned())),
        (Some(_), Some(route)) if route.from.node == head.node => Ok(route),
        (Some(_), _) => Err(refused("the message does not say whence and whither".to_owned())),
    }
}

fn status_of(refusal: Refusal) -> Status {
    refused(refusal.0)
}

#[tonic::async_trait]
impl Peer for Desk {
    async fn group(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let route = route_of(&request)?;
        let answer = self.inbound.group_call(route, request.into_inner().body).await.map_err(status_of)?;
        Ok(Response::new(Payload { body: answer }))
    }

    type GroupStreamStream = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn group_stream(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::GroupStreamStream>, Status> {
        let route = route_of(&request)?;
        let frames = request.into_inner().map(|frame| match frame {
            Ok(Payload { body }) => Ok(body),
            Err(status) => Err(WireError::Broken(status.to_string())),
        });
        // A stop ends both directions: whoever waits at either end learns of it.
        let frames = frames.take_until(self.stopped.clone()).boxed();
        let answers = self.inbound.group_stream(route, frames).await.map_err(status_of)?;
        let answers = answers.take_until(self.stopped.clone());
        Ok(Response::new(Box::pin(answers.map(|body: Bytes| Ok(Payload { body })))))
    }

    async fn node(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let Head { cluster_id, node, .. } = head_of(&request)?;
        let ask: Ask = postcard::from_bytes(&request.into_inner().body)
            .map_err(|error| refused(format!("the question cannot be decoded: {error}")))?;
        let is_for_strangers = matches!(ask, Ask::Identify | Ask::Join(_));
        if cluster_id.is_none() && !is_for_strangers {
            return Err(refused(format!("node {node} has no cluster yet")));
        }
        let told = self.inbound.ask(node, ask).await.map_err(status_of)?;
        let body = postcard::to_stdvec(&told).expect("an answer is plain data: encoding cannot fail");
        Ok(Response::new(Payload { body: body.into() }))
    }
}

impl PeerTls {
    /// Reads the three PEM files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(certificate: &Path, key: &Path, ca: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Self { certificate: read(certificate)?, key: read(key)?, ca: read(ca)? })
    }
}
