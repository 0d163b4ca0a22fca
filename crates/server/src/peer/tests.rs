//! Two nodes over real sockets.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use consensus::{
    transport::wire::{Frames, GroupId, Refusal, Route, Wire, WireError},
    types::MemberId,
};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use state::ids::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use uuid::Uuid;

use super::{
    Grpc, Inbound, Network as _, PeerOptions, PeerTls, Peers, ServeOptions,
    head::Token,
    message::{Ask, Identity, Told},
};

const CLUSTER: Uuid = Uuid::from_u128(7);
const WAIT: Duration = Duration::from_secs(5);

/// Answers what it is sent, backwards; counts the frames it has taken.
#[derive(Default)]
struct Echo {
    frames: Arc<AtomicU64>,
}

impl Inbound for Echo {
    fn group_call(&self, _: Route, message: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        async move {
            match message.as_ref() {
                b"refuse" => Err(Refusal("as asked".to_owned())),
                b"hang" => std::future::pending().await,
                _ => Ok(message.iter().rev().copied().collect()),
            }
        }
        .boxed()
    }

    fn group_stream(&self, _: Route, frames: Frames) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, Refusal>> {
        let count = self.frames.clone();
        let answers = frames.filter_map(move |frame| {
            count.fetch_add(1, Ordering::SeqCst);
            async move { frame.ok() }
        });
        ready(Ok(answers.boxed())).boxed()
    }

    fn ask(&self, from: NodeId, ask: Ask) -> BoxFuture<'_, Result<Told, Refusal>> {
        let identity = Identity { cluster_id: Some(CLUSTER), node: from, address: String::new() };
        ready(Ok(if matches!(ask, Ask::Identify) { Told::Identity(identity) } else { Told::Done })).boxed()
    }
}

struct Node {
    address: SocketAddr,
    frames: Arc<AtomicU64>,
    serving: JoinHandle<anyhow::Result<()>>,
    _stop: watch::Sender<bool>,
}

fn cell(cluster: Option<Uuid>) -> Arc<OnceLock<Uuid>> {
    let cell = Arc::<OnceLock<Uuid>>::default();
    if let Some(cluster) = cluster {
        cell.set(cluster).unwrap();
    }
    cell
}

async fn start_at(address: &str, tls: Option<PeerTls>) -> Node {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = Arc::new(Echo::default());
    let frames = echo.frames.clone();
    let (stop, stopping) = watch::channel(false);
    let options = ServeOptions { token: Token::new(b"secret"), cluster_id: cell(Some(CLUSTER)), tls };
    let serving = tokio::spawn(Grpc::new(Some(listener)).serve(options, echo, stopping));
    Node { address, frames, serving, _stop: stop }
}

async fn start() -> Node {
    start_at("127.0.0.1:0", None).await
}

fn peers(token: &[u8], cluster: Option<Uuid>, tls: Option<PeerTls>) -> Peers {
    let options = PeerOptions { node: NodeId(1), cluster_id: cell(cluster), token: Token::new(token), tls };
    Peers::new(Grpc::new(None).way(options))
}

fn own() -> Peers {
    peers(b"secret", Some(CLUSTER), None)
}

fn route() -> Route {
    let member = |node| MemberId { node: NodeId(node), incarnation: 0 };
    Route { group: GroupId::Values, from: member(1), to: member(2) }
}

async fn call(peers: &Peers, node: &Node, message: &'static [u8]) -> Result<Bytes, WireError> {
    peers.call(&node.address.to_string(), route(), Bytes::from_static(message), WAIT).await
}

#[tokio::test]
async fn a_question_is_answered_and_a_refusal_is_one() {
    let node = start().await;
    assert_eq!(call(&own(), &node, b"abc").await.unwrap().as_ref(), b"cba");
    assert_eq!(call(&own(), &node, b"refuse").await, Err(WireError::Refused("as asked".to_owned())));
    let told = own().ask(&node.address.to_string(), &Ask::Status, WAIT).await.unwrap();
    assert!(matches!(told, Told::Done));
}

#[tokio::test]
async fn strangers_are_refused_with_the_reason() {
    let node = start().await;
    let other = Uuid::from_u128(8);
    for (peers, reason) in [
        (peers(b"guess", Some(CLUSTER), None), "the cluster's token is wrong"),
        (peers(b"secret", Some(other), None), "this node is of cluster 00000000-0000-0000-0000-000000000007"),
        (peers(b"secret", None, None), "the sender has no cluster yet"),
    ] {
        match call(&peers, &node, b"abc").await {
            Err(WireError::Refused(said)) => assert!(said.contains(reason), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    // A node without a cluster may ask who is there, and nothing else.
    let newcomer = peers(b"secret", None, None);
    let address = node.address.to_string();
    assert!(matches!(newcomer.ask(&address, &Ask::Identify, WAIT).await, Ok(Told::Identity(_))));
    assert!(matches!(newcomer.ask(&address, &Ask::Status, WAIT).await, Err(WireError::Refused(_))));
}

#[tokio::test]
async fn only_a_connection_that_never_came_about_proves_that_nothing_was_sent() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let unsent = own().call(&nowhere, route(), Bytes::from_static(b"abc"), WAIT).await;
    assert!(matches!(unsent, Err(WireError::Unreachable(_))), "{unsent:?}");

    let node = start().await;
    let address = node.address.to_string();
    let short = Duration::from_millis(200);
    let late = own().call(&address, route(), Bytes::from_static(b"hang"), short).await;
    assert!(matches!(late, Err(WireError::Broken(_))), "{late:?}");
    // One that hangs holds nobody up.
    let peers = own();
    let hanging = tokio::spawn({
        let (peers, address) = (peers.clone(), address.clone());
        async move { peers.call(&address, route(), Bytes::from_static(b"hang"), WAIT).await }
    });
    assert_eq!(call(&peers, &node, b"abc").await.unwrap().as_ref(), b"cba");
    hanging.abort();
}

#[tokio::test]
async fn a_peer_that_is_back_is_found_at_once() {
    let node = start().await;
    let peers = own();
    let address = node.address.to_string();
    assert!(call(&peers, &node, b"abc").await.is_ok());
    node._stop.send_replace(true);
    node.serving.await.unwrap().unwrap();
    let gone = peers.call(&address, route(), Bytes::from_static(b"abc"), WAIT).await;
    assert!(gone.is_err(), "{gone:?}");
    let again = start_at(&address, None).await;
    let found = peers.call(&address, route(), Bytes::from_static(b"abc"), WAIT).await;
    assert_eq!(found.unwrap().as_ref(), b"cba");
    drop(again);
}

#[tokio::test]
async fn a_stream_holds_its_sender_back_and_arrives_in_order() {
    const FRAMES: u64 = 400;
    let node = start().await;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let frames = stream::iter(0..FRAMES).map(move |number| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut frame = vec![0_u8; 256 * 1024];
        frame[..8].copy_from_slice(&number.to_le_bytes());
        Bytes::from(frame)
    });
    let mut answers = own().stream(&node.address.to_string(), route(), frames.boxed()).await.unwrap();
    // The echo is not read: after some windows of both directions nobody can go on.
    let mut last = u64::MAX;
    while last != sent.load(Ordering::SeqCst) {
        last = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(last < FRAMES / 2, "{last} frames were sent to a peer that takes none");
    for number in 0..FRAMES {
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!(answer[..8], number.to_le_bytes());
    }
    assert!(answers.next().await.is_none());
    assert_eq!(node.frames.load(Ordering::SeqCst), FRAMES);
}

/// Counts down what is left when it is dropped.
struct Held(Arc<AtomicU64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + WAIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One frame, and then nothing for as long as the stream lives, which `left` counts.
fn endless(left: &Arc<AtomicU64>) -> BoxStream<'static, Bytes> {
    left.fetch_add(1, Ordering::SeqCst);
    let held = Held(left.clone());
    let rest = stream::pending().map(move |frame: Bytes| {
        let _ = &held;
        frame
    });
    stream::iter([Bytes::from_static(b"one")]).chain(rest).boxed()
}

#[tokio::test]
async fn a_stream_whose_answers_are_dropped_ends_on_both_sides() {
    let node = start().await;
    let left = Arc::<AtomicU64>::default();
    let peers = own();
    let mut answers = peers.stream(&node.address.to_string(), route(), endless(&left)).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().as_ref(), b"one");
    drop(answers);
    eventually("the sender to end", || left.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_stop_ends_open_streams() {
    let node = start().await;
    let left = Arc::<AtomicU64>::default();
    let peers = own();
    let mut answers = peers.stream(&node.address.to_string(), route(), endless(&left)).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().as_ref(), b"one");
    node._stop.send_replace(true);
    let rest = tokio::time::timeout(WAIT, answers.next()).await.expect("the stream has no end");
    assert!(rest.is_none_or(|answer| answer.is_err()));
    node.serving.await.unwrap().unwrap();
}

/// Forwards to `to` until it is told to swallow: then it takes what comes, and passes nothing on.
async fn swallower(to: SocketAddr) -> (SocketAddr, Arc<AtomicU64>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (swallow, swallows) = watch::channel(false);
    let connections = Arc::<AtomicU64>::default();
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut swallows = swallows.clone();
            // Only what is open when the switch is thrown is swallowed.
            swallows.mark_unchanged();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = swallows.changed() => {
                        let _ = tokio::io::copy(&mut near, &mut tokio::io::sink()).await;
                    }
                }
            });
        }
    });
    (address, connections, swallow)
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_given_up_for_a_new_one() {
    let node = start().await;
    let (address, connections, swallow) = swallower(node.address).await;
    let address = address.to_string();
    let peers = own();
    let ask = async |wait_max| peers.call(&address, route(), Bytes::from_static(b"abc"), wait_max).await;
    assert!(ask(WAIT).await.is_ok());
    let before = connections.load(Ordering::SeqCst);
    swallow.send_replace(true);
    let swallowed_at = tokio::time::Instant::now();
    while ask(Duration::from_millis(150)).await.is_err() {
        assert!(swallowed_at.elapsed() < WAIT, "it is asked on the dead connection for ever");
    }
    let took = swallowed_at.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(connections.load(Ordering::SeqCst) > before);
}

#[tokio::test]
async fn a_question_that_hangs_beside_others_that_are_answered_costs_no_connection() {
    let node = start().await;
    let (address, connections, _swallow) = swallower(node.address).await;
    let address = address.to_string();
    let peers = own();
    assert!(peers.call(&address, route(), Bytes::from_static(b"abc"), WAIT).await.is_ok());
    let before = connections.load(Ordering::SeqCst);
    let since = tokio::time::Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        let short = Duration::from_millis(100);
        assert!(peers.call(&address, route(), Bytes::from_static(b"hang"), short).await.is_err());
        assert!(peers.call(&address, route(), Bytes::from_static(b"abc"), WAIT).await.is_ok());
    }
    assert_eq!(connections.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_small_question_does_not_wait_behind_a_large_one() {
    let node = start().await;
    let (address, connections, _swallow) = swallower(node.address).await;
    let address = address.to_string();
    let peers = own();
    let large = Bytes::from(vec![b'x'; 4 << 20]);
    let answer = peers.call(&address, route(), large.clone(), WAIT).await.unwrap();
    assert_eq!(answer.len(), large.len());
    let after_large = connections.load(Ordering::SeqCst);
    assert!(peers.call(&address, route(), Bytes::from_static(b"abc"), WAIT).await.is_ok());
    assert_eq!(connections.load(Ordering::SeqCst), after_large + 1, "it has a connection of its own");
}

fn certificates() -> (PeerTls, PeerTls) {
    let make = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(ca, key);
        let node_key = rcgen::KeyPair::generate().unwrap();
        let node = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = node.signed_by(&node_key, &issuer).unwrap();
        PeerTls {
            certificate: certificate.pem().into_bytes(),
            key: node_key.serialize_pem().into_bytes(),
            ca: ca_certificate.pem().into_bytes(),
        }
    };
    (make(), make())
}

#[tokio::test]
async fn with_tls_both_ends_must_have_the_clusters_certificates() {
    let (ours, others) = certificates();
    let node = start_at("127.0.0.1:0", Some(ours.clone())).await;
    let inside = peers(b"secret", Some(CLUSTER), Some(ours));
    assert_eq!(call(&inside, &node, b"abc").await.unwrap().as_ref(), b"cba");
    for outside in [own(), peers(b"secret", Some(CLUSTER), Some(others))] {
        let refused = call(&outside, &node, b"abc").await;
        assert!(matches!(refused, Err(WireError::Unreachable(_) | WireError::Broken(_))), "{refused:?}");
    }
}

/// Silent connections, more than there are places: they say nothing, or only the begin of a handshake.
async fn crowd(node: &Node, begin: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut silent = TcpStream::connect(node.address).await.unwrap();
        silent.write_all(begin).await.unwrap();
        crowd.push(silent);
    }
    crowd
}

#[tokio::test]
async fn a_silent_crowd_keeps_no_peer_out_and_ends_no_connection_of_one() {
    let (ours, _) = certificates();
    // A record of TLS that is not whole; and of HTTP/2 the begin of the preface.
    for (tls, begin) in [(Some(ours), &b"\x16\x03\x01\x02"[..]), (None, b"PRI"), (None, b"")] {
        let node = start_at("127.0.0.1:0", tls.clone()).await;
        let before = peers(b"secret", Some(CLUSTER), tls.clone());
        let stream = before.stream(&node.address.to_string(), route(), stream::pending().boxed()).await.unwrap();
        let mut crowd = crowd(&node, begin).await;
        let new = peers(b"secret", Some(CLUSTER), tls.clone());
        assert_eq!(call(&new, &node, b"abc").await.unwrap().as_ref(), b"cba", "a new peer comes in");
        assert!(stream.into_future().now_or_never().is_none(), "the stream of the peer that was there goes on");
        let mut greeting = Vec::new(); // HTTP/2's, if the server had one; then the connection ends, in whatever way
        let ended = tokio::time::timeout(WAIT, crowd[0].read_to_end(&mut greeting)).await;
        assert!(ended.is_ok(), "the first of the crowd is still there");
    }
}

#[test]
fn the_generated_code_is_current() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let descriptors = protox::compile(["peer.proto"], [root]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(dir.path())
        .compile_fds(descriptors)
        .unwrap();
    let made = std::fs::read_to_string(dir.path().join("insidb.peer.v1.rs")).unwrap();
    assert!(made == include_str!("generated.rs"), "src/peer/generated.rs is not what proto/peer.proto gives");
}
