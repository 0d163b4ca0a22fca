//! A listener: from connections to requests.
//!
//! 1. A connection past the bound is answered 503 and closed.
//! 2. With TLS, the handshake has a time of its own.
//! 3. hyper reads requests from a [`stream::Watched`], which keeps the times for heads, idleness and slow readers.
//! 4. What hyper would refuse without a word (a head that is too large, no HTTP, or too slow) is answered in words.
//! 5. The socket is closed softly: what the client still sends is read for a while, since closing on it would make
//!    its kernel throw our last answer away.
//! 6. At a shutdown nothing new is accepted. A client may be sending on a connection that it keeps open, and could not
//!    tell whether a request that meets a close was done: so every such connection is served once more, and that answer
//!    says that it is the last. Only one that stays silent for [`FAREWELL_TIME_MAX`] is closed without.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Request, header::CONNECTION},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::http::router::Router;

mod stream;
pub(crate) mod tls;

use stream::{Activity, Ended, Verdict, Watched};

/// A request's head, in bytes: a URL of 65,534 and as much again for headers.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// What hyper may hold of a connection's input or output, in bytes.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Connections past the bound that are being told so; more are closed without a word.
const TURNED_AWAY_MAX: usize = 64;
/// How long a closed connection is read for the client to notice.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a connection that is kept open may be silent at a shutdown before it is closed.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
/// The pause after the operating system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a listener treats its connections.
pub(crate) struct Options {
    /// The most connections.
    pub(crate) connections_max: usize,
    /// The times that a connection's stream keeps.
    pub(crate) times: Times,
    /// TLS, when there is a certificate.
    pub(crate) tls: Option<TlsAcceptor>,
    /// The longest handshake.
    pub(crate) tls_handshake_time_max: Duration,
    /// What is in flight at a shutdown has this long.
    pub(crate) shutdown_time_max: Duration,
}

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For a request's head, from its first byte.
    pub(crate) head_max: Duration,
    /// Without a request.
    pub(crate) idle_max: Duration,
    /// Without taking a byte of an answer.
    pub(crate) write_stall_max: Duration,
}

/// The threads that serve connections: each a runtime of its own, so that a connection stays with its thread. Whatever wakes
/// it up wakes that thread alone, where the threads of one runtime wake up each other to share the work.
#[derive(Clone)]
pub(crate) struct Threads(Vec<(Handle, Arc<()>)>);

impl Threads {
    /// Those of `runtimes`, of which there is one at least.
    pub(crate) fn new(runtimes: impl IntoIterator<Item = Handle>) -> Self {
        Self(runtimes.into_iter().map(|runtime| (runtime, Arc::default())).collect())
    }

    /// The one with the fewest connections, and what a connection holds while it lasts.
    fn least(&self) -> (&Handle, Arc<()>) {
        let least = self.0.iter().min_by_key(|(_, seats)| Arc::strong_count(seats));
        let (runtime, seats) = least.expect("there is one at least");
        (runtime, seats.clone())
    }
}

/// Serves connections until `shutdown` says true, then finishes what is in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    options: Arc<Options>,
    mut shutdown: watch::Receiver<bool>,
    threads: Threads,
) {
    let router = Arc::new(router);
    let places = Arc::new(Semaphore::new(options.connections_max));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told_to_stop(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // It is woken up where it is served, not where it was accepted.
        let Ok(socket) = socket.into_std() else { continue };
        let connection = Connection { peer, router: router.clone(), options: options.clone() };
        let (thread, seat) = threads.least();
        if let Ok(place) = places.clone().try_acquire_owned() {
            let shutdown = shutdown.clone();
            connections.spawn_on(
                async move {
                    if let Ok(socket) = TcpStream::from_std(socket) {
                        connection.run(socket, shutdown).await;
                    }
                    drop((place, seat));
                },
                thread,
            );
        } else if let Ok(place) = turned_away.clone().try_acquire_owned() {
            connections.spawn_on(
                async move {
                    if let Ok(socket) = TcpStream::from_std(socket) {
                        connection.turn_away(socket).await;
                    }
                    drop((place, seat));
                },
                thread,
            );
        }
    }
    drop(listener);
    let finished = timeout(options.shutdown_time_max, async { while connections.join_next().await.is_some() {} });
    if finished.await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut off at the shutdown");
    }
}

/// Returns when the shutdown has begun.
async fn told_to_stop(shutdown: &mut watch::Receiver<bool>) {
    // When the sender is gone, so is the server that could serve anybody.
    drop(shutdown.wait_for(|stop| *stop).await);
}

struct Connection {
    peer: SocketAddr,
    router: Arc<Router>,
    options: Arc<Options>,
}

impl Connection {
    async fn run(self, socket: TcpStream, shutdown: watch::Receiver<bool>) {
        // Answers are small and whole: waiting to fill a packet would only delay them.
        if socket.set_nodelay(true).is_err() {
            return;
        }
        match &self.options.tls {
            None => self.serve(socket, shutdown).await,
            Some(tls) => {
                if let Some(stream) = self.shake_hands(tls, socket).await {
                    self.serve(stream, shutdown).await;
                }
            }
        }
    }

    /// Says that there are too many connections; where there is TLS, inside of it, since a client reads nothing else.
    async fn turn_away(self, socket: TcpStream) {
        let verdict = Some(Verdict::TooManyConnections);
        match &self.options.tls {
            None => close(socket, verdict).await,
            Some(tls) => {
                if let Some(stream) = self.shake_hands(tls, socket).await {
                    close(stream, verdict).await;
                }
            }
        }
    }

    async fn shake_hands(&self, tls: &TlsAcceptor, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
        match timeout(self.options.tls_handshake_time_max, tls.accept(socket)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
        None
    }

    async fn serve<S>(&self, stream: S, mut shutdown: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let (ended, end) = oneshot::channel();
        let stream = Watched::new(stream, self.options.times, activity.clone(), ended);
        let stopping = shutdown.clone();
        let service = service_fn(|request: Request<Incoming>| self.answer(request, activity.clone(), stopping.clone()));
        let mut builder = http1::Builder::new();
        // A client may close its side once it has sent its request: it is answered all the same.
        let mut was_silent = false;
        builder
            .half_close(true)
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX);
        {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let done = tokio::select! {
                done = connection.as_mut() => done,
                () = told_to_stop(&mut shutdown) => {
                    match timeout(FAREWELL_TIME_MAX, connection.as_mut()).await {
                        Ok(done) => done,
                        Err(_) => {
                            was_silent = !activity.is_serving();
                            connection.as_mut().graceful_shutdown();
                            connection.await
                        }
                    }
                }
            };
            if let Err(error) = done {
                tracing::debug!(%error, "connection ended");
            }
        }
        // hyper has dropped the stream, and with that handed it back.
        if let Ok(Ended { mut stream, verdict }) = end.await {
            if was_silent {
                // No answer is on its way that a close could overtake.
                drop(timeout(LINGER_TIME_MAX, stream.shutdown()).await);
            } else {
                close(stream, verdict).await;
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        activity: Arc<Activity>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Response, std::convert::Infallible> {
        activity.request_began();
        let mut answer = self.router.serve(self.peer.ip(), request.map(Body::new)).await;
        if *shutdown.borrow() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        activity.request_ended();
        Ok(answer)
    }
}

/// Says the last word, if there is one, and closes softly.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, verdict: Option<Verdict>) {
    let closing = async {
        if let Some(verdict) = verdict {
            stream.write_all(verdict.answer().as_bytes()).await?;
            tracing::info!(status = verdict.code().status(), code = %verdict.code(), "request without a head");
        }
        stream.shutdown().await?;
        let mut discarded = [0; 4096];
        while stream.read(&mut discarded).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever fails now, the connection is over.
    drop(timeout(LINGER_TIME_MAX, closing).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_goes_to_the_thread_with_the_fewest() {
        let threads = Threads::new(vec![Handle::current(); 2]);
        let seats =
            |threads: &Threads| threads.0.iter().map(|(_, seats)| Arc::strong_count(seats) - 1).collect::<Vec<_>>();
        let mut held: Vec<_> = (0..5).map(|_| threads.least().1).collect();
        assert_eq!(seats(&threads), [3, 2]);
        // Those of the second thread end.
        held.retain(|seat| Arc::ptr_eq(seat, &threads.0[0].1));
        held.extend((0..3).map(|_| threads.least().1));
        assert_eq!(seats(&threads), [3, 3]);
    }
}
