//! The way to the other nodes.
//!
//! 1. Each address has three connections, made when they are first used and again whenever they broke: one for small
//!    questions, heartbeats among them, one for large ones, and one for streams: so that nothing holds a heartbeat up.
//! 2. A peer that has left questions unanswered for [`SILENCE_MAX`], and answered none meanwhile, is connected to anew: a
//!    connection that leads nowhere, since a network swallows what is sent, looks no different.
//! 3. Connections that nobody has used for [`IDLE_MAX`] are closed: their node was removed, or has another address.
//! 4. A stream whose answers nobody takes any more ends on the sending side too.

use std::{
    collections::HashMap,
    error::Error as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use consensus::transport::wire::{Frames, Route, WireError};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use state::ids::NodeId;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::{
    ConnectError, Request, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::{
    MESSAGE_BYTES_MAX, PeerTls, REFUSED, WINDOW_BYTES, Way,
    generated::{Payload, peer_client::PeerClient},
    head::{self, Head, Token},
    message::{Ask, Told},
};

/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// How often an open connection is probed, and how long the probe may stay unanswered.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long questions may stay unanswered, every one of them, before the peer is connected to anew. Longer than a busy
/// machine pauses: a new connection costs a moment, and what is under way on the old one its answer.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long connections are kept that nobody uses. Members talk to each other many times a second.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Refusals that go on for so long are logged: while nodes start and stop, some are in order.
const REFUSED_MIN: Duration = Duration::from_secs(3);
/// What comes so long after the last refusal is not the same any more.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// Refusals of one peer are logged once in so long.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// A question longer than this takes the connection for large ones.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// What a node says of itself to the others.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// The node.
    pub node: NodeId,
    /// Its cluster, once it has one.
    pub cluster_id: Arc<OnceLock<Uuid>>,
    /// The cluster's token.
    pub token: Token,
    /// Mutual TLS, when configured.
    pub tls: Option<PeerTls>,
}

/// The way to the other nodes over gRPC.
#[derive(Debug)]
pub(super) struct Channels {
    options: PeerOptions,
    lanes: Mutex<HashMap<String, Arc<Lanes>>>,
}

/// The connections to one address.
#[derive(Debug)]
struct Lanes {
    address: String,
    small: PeerClient<Channel>,
    large: PeerClient<Channel>,
    streams: PeerClient<Channel>,
    used: Mutex<Use>,
}

/// When the connections to one address were used.
#[derive(Debug)]
struct Use {
    last: Instant,
    /// Since when every question has stayed unanswered; none when the last one that ended was answered.
    silent_since: Option<Instant>,
    refusals: Refusals,
}

/// How long a peer has refused this node. While processes and generations change, some messages are refused and others taken.
#[derive(Debug, Default)]
struct Refusals {
    /// Since when, and when it last did.
    span: Option<(Instant, Instant)>,
    logged: Option<Instant>,
}

impl Refusals {
    /// Notes one; whether it is to be logged.
    fn note(&mut self, now: Instant) -> bool {
        let span = self.span.filter(|(_, last)| now.duration_since(*last) < REFUSED_PAUSE);
        let since = span.map_or(now, |(since, _)| since);
        self.span = Some((since, now));
        let due = now.duration_since(since) >= REFUSED_MIN
            && self.logged.is_none_or(|at| now.duration_since(at) >= LOG_PAUSE);
        if due {
            self.logged = Some(now);
        }
        due
    }
}

impl Channels {
    /// No connections yet.
    pub(super) fn new(options: PeerOptions) -> Self {
        Self { options, lanes: Mutex::default() }
    }

    fn request<T>(&self, message: T, route: Option<Route>) -> Request<T> {
        let mut request = Request::new(message);
        let cluster_id = self.options.cluster_id.get().copied();
        let head = Head { cluster_id, node: self.options.node, route };
        head::write(request.metadata_mut(), &self.options.token, &head);
        request
    }

    fn lanes(&self, address: &str) -> Result<Arc<Lanes>, WireError> {
        let now = Instant::now();
        let mut all = self.all();
        if let Some(lanes) = all.get(address) {
            lanes.used().last = now;
            return Ok(lanes.clone());
        }
        all.retain(|_, lanes| now.duration_since(lanes.used().last) < IDLE_MAX);
        let made = Arc::new(Lanes {
            address: address.to_owned(),
            small: self.client(address)?,
            large: self.client(address)?,
            streams: self.client(address)?,
            used: Mutex::new(Use { last: now, silent_since: None, refusals: Refusals::default() }),
        });
        all.insert(address.to_owned(), made.clone());
        Ok(made)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Lanes>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a question, within a time.
    async fn answered<T>(
        &self,
        lanes: &Arc<Lanes>,
        wait_max: Duration,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, WireError> {
        let asked_at = Instant::now();
        match timeout(wait_max, answer).await {
            Ok(answer) => {
                lanes.used().silent_since = None;
                lanes.note(answer.map_err(|status| wire_error(&status)))
            }
            Err(_) => {
                self.note_silence(lanes, asked_at);
                Err(WireError::Broken("no answer in time".to_owned()))
            }
        }
    }

    /// A question that was asked then has had no answer. Whoever asks next may get new connections.
    fn note_silence(&self, lanes: &Arc<Lanes>, asked_at: Instant) {
        let silent_since = *lanes.used().silent_since.get_or_insert(asked_at);
        if silent_since.elapsed() < SILENCE_MAX {
            return;
        }
        let mut all = self.all();
        if all.get(&lanes.address).is_some_and(|current| Arc::ptr_eq(current, lanes)) {
            tracing::info!(address = lanes.address, "the peer does not answer: connecting anew");
            all.remove(&lanes.address);
        }
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
    fn used(&self) -> MutexGuard<'_, Use> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs that a peer goes on refusing this node.
    fn note<T>(&self, result: Result<T, WireError>) -> Result<T, WireError> {
        if let Err(WireError::Refused(reason)) = &result
            && self.used().refusals.note(Instant::now())
        {
            tracing::warn!(address = self.address, reason, "the peer refuses this node's messages");
        }
        result
    }
}

/// Frames as payloads, for as long as anybody takes the answers. A type of its own, since with the stream's own the
/// compiler cannot prove that the call may be sent between threads.
struct Outgoing {
    frames: BoxStream<'static, Bytes>,
    /// Ready when the answers were dropped.
    abandoned: oneshot::Receiver<()>,
}

impl Stream for Outgoing {
    type Item = Payload;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Payload>> {
        if self.abandoned.poll_unpin(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.frames.poll_next_unpin(cx).map(|frame| frame.map(|body| Payload { body }))
    }
}

impl Way for Channels {
    fn call<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        message: Bytes,
        wait_max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>> {
        async move {
            let lanes = self.lanes(address)?;
            let lane = if message.len() <= SMALL_BYTES_MAX { &lanes.small } else { &lanes.large };
            let mut client = lane.clone();
            let request = self.request(Payload { body: message }, Some(route));
            let answer = self.answered(&lanes, wait_max, client.group(request)).await?;
            Ok(answer.into_inner().body)
        }
        .boxed()
    }

    fn stream<'a>(
        &'a self,
        address: &'a str,
        route: Route,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<Frames, WireError>> {
        async move {
            let lanes = self.lanes(address)?;
            let (taken, abandoned) = oneshot::channel::<()>();
            let request = self.request(Outgoing { frames, abandoned }, Some(route));
            let mut client = lanes.streams.clone();
            let opened = client.group_stream(request).await.map_err(|status| wire_error(&status));
            let answers = lanes.note(opened)?.into_inner();
            Ok(answers
                .map(move |answer| {
                    // Lives and dies with the answers.
                    let _ = &taken;
                    answer.map(|Payload { body }| body).map_err(|status| wire_error(&status))
                })
                .boxed())
        }
        .boxed()
    }

    fn ask<'a>(&'a self, address: &'a str, ask: &'a Ask, wait_max: Duration) -> BoxFuture<'a, Result<Told, WireError>> {
        async move {
            let lanes = self.lanes(address)?;
            let body = postcard::to_stdvec(ask).expect("a question is plain data: encoding cannot fail");
            let request = self.request(Payload { body: body.into() }, None);
            let mut client = lanes.small.clone();
            let answer = self.answered(&lanes, wait_max, client.node(request)).await?;
            postcard::from_bytes(&answer.into_inner().body)
                .map_err(|error| WireError::Broken(format!("the answer of {address} cannot be decoded: {error}")))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_once_they_go_on_and_not_again_soon() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let mut logged_at = Vec::new();
        // While a node starts; then of one that stays refused.
        for second in [0, 1, 2, 15, 16, 17, 18, 19, 28, 37, 46, 55, 64, 73, 78, 79] {
            if refusals.note(start + Duration::from_secs(second)) {
                logged_at.push(second);
            }
        }
        assert_eq!(logged_at, [18, 78]);
    }
}
