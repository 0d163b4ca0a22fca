//! The parts of a running server, put together.
//!
//! 1. Three runtimes: neither Raft's tasks nor an operator's requests ever wait behind those of tenants.
//! 2. The listeners are bound before the node starts, so that a taken port is known at once. From then on requests are
//!    answered, with 503 until the node serves; then `addresses.json` is written, and the node is announced.
//! 3. A signal stops accepting, lets what is in flight finish, then stops the node, which makes a last checkpoint. A
//!    second signal ends the process at once. A fault of the node ends it with what and where.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::SocketAddr,
    num::NonZero,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, bail};
use consensus::{
    OnFollower,
    env::{Env, System},
};
use serde::Serialize;
use state::ids::NodeId;
use storage::fs::OsDisk;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, oneshot, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{Config, OnFollowerWrite},
    env::random_bytes,
    files,
    http::{
        App, Bounds,
        address::{AddressRates, Addresses as AddressRules},
        body::BodyBounds,
        caller::Callers,
        long::LongTexts,
        pool::{Pool, Resource},
        router::{Listener, Router},
    },
    listen::{self, Threads, Times, tls},
    node::{
        self, Node, PeerSide,
        data_dir::{DataDir, Role},
        end::End,
    },
    peer::{Grpc, Network as _, PeerOptions, PeerTls, Peers, head::Token},
    secret::InstanceSecret,
    service::{ClusterSide, Service},
    telemetry::{self, Metrics},
};

/// New connections that the system keeps until the node takes them in. Behind a fault all clients connect at once; one that
/// finds no place tries again only after a second. The system's own bound, `net.core.somaxconn`, lies over it.
const BACKLOG: u32 = 4_096;
/// The file in the data directory that names the addresses in use.
pub(crate) const ADDRESSES_FILE: &str = "addresses.json";
/// Threads of each group's own runtime. What one of its tasks wakes up it then does itself: among several threads each such
/// step may wake up another of them, which costs a busy node a fifth of its writes (docs/performance.md).
const GROUP_THREADS: usize = 1;
/// Threads for what the nodes have to do with each other besides.
const PEER_THREADS: usize = 2;
/// Threads of the private listener's own runtime.
const OPERATOR_THREADS: usize = 1;
/// How often callers that are not there any more are forgotten, in ticks of a second.
const SWEEP_TICKS: u64 = 60;

/// What a server is started with.
pub(crate) struct Start {
    /// Its settings, checked.
    pub(crate) config: Config,
    /// What the root key and the nodes' token follow from.
    pub(crate) secret: InstanceSecret,
    /// What to print on standard output when the node is ready.
    pub(crate) announce: Option<Announce>,
    /// Whether the end of standard input asks for an end, as a signal does.
    pub(crate) stops_with_stdin: bool,
}

/// Writes what is printed when the node is ready.
pub(crate) type Announce = Box<dyn FnOnce(&Addresses) -> String>;

/// The addresses in use.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Addresses {
    /// The public listener's.
    pub(crate) public: SocketAddr,
    /// The private listener's.
    pub(crate) private: SocketAddr,
    /// The peers' listener's, as the other nodes call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
}

/// Makes the data directory of the first node of a new cluster.
pub(crate) fn create_data_dir(path: &Path, env: &dyn Env) -> anyhow::Result<()> {
    let cluster_id = uuid::Builder::from_random_bytes(random_bytes(env)).into_uuid();
    DataDir::create(path, cluster_id, NodeId(env.random_u64()), Role::Founder)
}

/// Makes the data directory of a node that joins a cluster: asks the others which, for as long as it takes.
async fn create_joining_data_dir(config: &Config, token: &Token, env: &dyn Env) -> anyhow::Result<()> {
    let node = NodeId(env.random_u64());
    let peers = PeerOptions { node, cluster_id: Arc::default(), token: token.clone(), tls: peer_tls(config)? };
    let peers = Peers::new(Grpc::new(None).way(peers));
    let cluster_id = node::joining::find_cluster(&peers, &config.join).await;
    DataDir::create(&config.data_dir, cluster_id, node, Role::Joiner)
}

/// The certificates among the nodes, where they are configured.
pub(crate) fn peer_tls(config: &Config) -> anyhow::Result<Option<PeerTls>> {
    match (&config.peer_tls_certificate, &config.peer_tls_key, &config.peer_tls_ca) {
        (Some(certificate), Some(key), Some(ca)) => PeerTls::read(certificate, key, ca).map(Some),
        _ => Ok(None),
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs a server until a signal ends it.
pub(crate) fn run(start: Start) -> anyhow::Result<()> {
    let filter = telemetry::parse_filter(&start.config.log_level).map_err(anyhow::Error::msg)?;
    let env: Arc<dyn Env> = Arc::new(System::new());
    let log = telemetry::start_logging(filter, start.config.log_format, &*env)?;
    let values = runtime("insid-values", GROUP_THREADS)?;
    let cache = runtime("insid-cache", GROUP_THREADS)?;
    let peers = runtime("insid-peers", PEER_THREADS)?;
    let requests = (0..processors()).map(|_| runtime("insid-http", 1)).collect::<anyhow::Result<Vec<_>>>()?;
    let operators = runtime("insid-operators", OPERATOR_THREADS)?;
    let metrics = Metrics::new(env.clone(), log.dropped_events());
    let handle = |runtime: &Runtime| runtime.handle().clone();
    let of_node = node::Runtimes { values: handle(&values), cache: handle(&cache), rest: handle(&peers) };
    let requests_on = Threads::new(requests.iter().map(handle));
    let runtimes = Runtimes { node: of_node, requests: requests_on, operators: handle(&operators) };
    let [first, ..] = &*requests else { unreachable!("there is one thread at least") };
    let ended = first.block_on(serve(start, runtimes, env, metrics));
    // What still blocks a thread, a read of a slow disk say, must not hold up the end.
    for runtime in requests.into_iter().chain([operators, values, cache, peers]) {
        runtime.shutdown_background();
    }
    // Where standard error is stuck, the last events are lost: there is nowhere left to say so.
    let _ = log.end();
    ended
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all();
    builder.build().with_context(|| format!("cannot start the threads of {name}"))
}

/// What runs where.
struct Runtimes {
    node: node::Runtimes,
    /// Tenants' requests.
    requests: Threads,
    operators: Handle,
}

async fn serve(start: Start, runtimes: Runtimes, env: Arc<dyn Env>, metrics: Metrics) -> anyhow::Result<()> {
    let Runtimes { node: of_node, requests, operators } = runtimes;
    let Start { config, secret, announce, stops_with_stdin } = start;
    let stdin = if stops_with_stdin { Some(end_of_stdin(&*env)?) } else { None };
    let mut signals = Signals::new(stdin)?;
    let token = secret.peer_token();
    if !DataDir::exists(&config.data_dir) {
        tokio::select! {
            made = create_joining_data_dir(&config, &token, &*env) => made?,
            () = signals.next() => return Ok(()),
        }
    }
    let public = bind("public_address", config.public_address)?;
    let private = {
        // A listener wakes up where it was made.
        let _entered = operators.enter();
        bind("private_address", config.private_address)?
    };
    let connections_max =
        files::connections_max(files::raise_limit(), config.peer_address.is_some(), config.connections_max);
    let public_options = Arc::new(listen_options(
        &config,
        connections_max,
        config.public_tls_certificate.as_deref(),
        config.public_tls_key.as_deref(),
    )?);
    let private_options = Arc::new(listen_options(
        &config,
        connections_max,
        config.private_tls_certificate.as_deref(),
        config.private_tls_key.as_deref(),
    )?);
    let peer = match config.peer_address {
        Some(address) => Some(bind("peer_address", address)?),
        None => None,
    };
    let advertised = match &peer {
        Some(_) if !config.peer_advertise.is_empty() => Some(config.peer_advertise.clone()),
        Some(listener) => Some(listener.local_addr()?.to_string()),
        None => None,
    };
    let addresses =
        Addresses { public: public.local_addr()?, private: private.local_addr()?, peer: advertised.clone() };
    let side = PeerSide {
        network: Box::new(Grpc::new(peer)),
        address: advertised.unwrap_or_default(),
        join: config.join.clone(),
        token,
        tls: peer_tls(&config)?,
    };
    let options = node_options(&config, env.clone(), &metrics, of_node, side, public_url(&config, addresses.public));
    let node = tokio::select! {
        node = Node::start(options) => node?,
        () = signals.next() => return Ok(()),
    };
    let app = Arc::new(app(&config, &node, &secret.root_key(), env.clone(), metrics));

    let (stop, stopping) = watch::channel(false);
    let public = tokio::spawn(listen::serve(
        public,
        Router::new(app.clone(), Listener::Public),
        public_options,
        stopping.clone(),
        requests,
    ));
    let private = operators.spawn(listen::serve(
        private,
        Router::new(app.clone(), Listener::Private),
        private_options,
        stopping,
        Threads::new([operators.clone()]),
    ));
    let housekeeping = tokio::spawn(keep_house(app));
    let ready = async {
        node.await_serving().await?;
        note_addresses(&config.data_dir, &addresses)?;
        tracing::info!(public = %addresses.public, private = %addresses.private, version = env!("CARGO_PKG_VERSION"), "listening");
        if let Some(announce) = announce {
            // Where nobody reads standard output, the node serves all the same.
            drop(std::io::stdout().write_all(announce(&addresses).as_bytes()));
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let end = tokio::select! {
        () = signals.next() => None,
        end = node.end() => Some(end),
        failed = ready => Some(End::Fault(failed.err().map_or_else(String::new, |error| format!("{error:#}")))),
    };
    tokio::spawn(async move {
        // Whoever sent a signal may let go of standard input too: that is no second one.
        signals.stdin = None;
        signals.next().await;
        std::process::exit(1);
    });
    match end {
        None => {}
        Some(End::Fault(fault)) => {
            tracing::error!(fault, "the node has stopped on a fault");
            bail!("the node has stopped on a fault: {fault}");
        }
        Some(End::Removed) => {
            tracing::warn!("this node was removed from the cluster: it ends");
            stop.send_replace(true);
            drop(tokio::join!(public, private));
            bail!("{}", End::Removed);
        }
    }
    tracing::info!("stopping");
    node.hand_over().await;
    stop.send_replace(true);
    drop(tokio::join!(public, private));
    housekeeping.abort();
    // Whoever looks for a node there finds none.
    drop(fs::remove_file(config.data_dir.join(ADDRESSES_FILE)));
    node.shutdown().await?;
    tracing::info!("stopped");
    Ok(())
}

/// Writes down where the node listens. A full disk does not keep a node from serving: then only the log says it, and what an
/// earlier run has left there goes.
fn note_addresses(data_dir: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let json = serde_json::to_vec(addresses).context("encoding the addresses")?;
    let written = node::data_dir::write_durably(data_dir, ADDRESSES_FILE, &json);
    let is_full = |error: &anyhow::Error| {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    };
    match written {
        Err(error) if is_full(&error) => {
            tracing::warn!(%error, "disk full: the addresses are written down nowhere but here");
            for name in [ADDRESSES_FILE.to_owned(), format!("{ADDRESSES_FILE}.new")] {
                drop(fs::remove_file(data_dir.join(name)));
            }
            Ok(())
        }
        other => other,
    }
}

/// What asks for an end: two signals, and, where it is watched, the end of standard input.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Signals {
    /// Takes the signals from now on; `stdin` is told of the end of standard input.
    pub(crate) fn new(stdin: Option<oneshot::Receiver<()>>) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, stdin })
    }

    /// Returns when an end is asked for, once for each time.
    pub(crate) async fn next(&mut self) {
        let Self { terminate, interrupt, stdin } = self;
        let ended = async {
            match stdin.as_mut() {
                Some(ended) => {
                    // Its thread says nothing: it drops the sender.
                    let _ = ended.await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = ended => *stdin = None,
        }
    }
}

/// Is told when standard input ends. The thread that waits for it ends with the process.
fn end_of_stdin(env: &dyn Env) -> anyhow::Result<oneshot::Receiver<()>> {
    let (ended, told) = oneshot::channel();
    let wait = move || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        drop(ended);
    };
    drop(env.spawn("insid-stdin", Box::new(wait)).context("cannot start the thread that watches standard input")?);
    Ok(told)
}

fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let set_by = match setting {
        "public_address" => "`public_address`; `insid dev` takes --public",
        "private_address" => "`private_address`; `insid dev` takes --private",
        setting => &format!("`{setting}`"),
    };
    listen().with_context(|| format!("cannot listen on {address} ({set_by})"))
}

fn listen_options(
    config: &Config,
    connections_max: usize,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> anyhow::Result<listen::Options> {
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => bail!("a certificate and its key go together"),
    };
    Ok(listen::Options {
        connections_max,
        times: Times {
            head_max: Duration::from_millis(config.header_timeout_ms),
            idle_max: Duration::from_millis(config.idle_timeout_ms),
            write_stall_max: Duration::from_millis(config.write_timeout_ms),
        },
        tls,
        tls_handshake_time_max: Duration::from_millis(config.tls_handshake_timeout_ms),
        shutdown_time_max: Duration::from_millis(config.shutdown_timeout_ms),
    })
}

pub(crate) fn app(config: &Config, node: &Node, root_key: &str, env: Arc<dyn Env>, metrics: Metrics) -> App {
    let rates = AddressRates {
        values: config.address_rate_values,
        cache: config.address_rate_cache,
        system: config.address_rate_system,
    };
    let body = BodyBounds {
        bytes_max: BodyBounds::bytes_max(config.max_value_size),
        stall_max: Duration::from_millis(config.body_stall_timeout_ms),
        time_max: Duration::from_millis(config.body_timeout_ms),
    };
    let cluster = ClusterSide {
        holder: node.holder(),
        desk: node.desk(),
        leader_url: node.leader_url(),
        on_follower: match config.on_follower_write {
            OnFollowerWrite::Forward => OnFollower::Forward,
            OnFollowerWrite::Redirect => OnFollower::Refuse,
        },
    };
    App {
        service: Service::new(node.values().clone(), node.cache(), cluster),
        callers: Callers::new(env.clone(), root_key, node.rates()),
        addresses: AddressRules::new(config.permitted_ips.clone(), config.trusted_proxies.clone(), rates),
        metrics,
        // Half of the processors: the others are for who waits for less.
        long_texts: LongTexts::new(env.clone(), processors() / 2),
        env,
        bounds: Bounds {
            value_bytes_max: config.max_value_size,
            body,
            request_time_max: Duration::from_millis(config.request_timeout_ms),
        },
        body_bytes: Pool::new(Resource::BodyBytes, config.body_bytes_in_flight_max, body.bytes_max),
        answer_bytes: Pool::new(
            Resource::AnswerBytes,
            config.answer_bytes_in_flight_max,
            BodyBounds::answer_bytes_max(config.max_value_size),
        ),
        scans: Arc::new(Semaphore::new(config.scans_max)),
        places: Pool::new(Resource::Places, config.requests_in_flight_max, 1),
        operator_places: Pool::new(Resource::Places, config.requests_in_flight_max, 1),
        requests: AtomicU64::new(0),
    }
}

/// What is done now and then, beside the requests.
async fn keep_house(app: Arc<App>) {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        ticks.tick().await;
        app.metrics.sample();
        app.addresses.sweep();
        if tick % SWEEP_TICKS == 0 {
            app.callers.sweep(app.service.values().control_version());
        }
    }
}

/// The size of a log segment: what is configured, but that the largest commands fit, each with a key and two values.
fn log_segment_bytes(config: &Config) -> u64 {
    consensus::log::disk::segment_bytes(config.log_segment_bytes, 3 * config.max_value_size as u64 + 64 * 1024)
}

/// The base of the URLs at which clients reach the node.
fn public_url(config: &Config, public: SocketAddr) -> String {
    if !config.public_url.is_empty() {
        return config.public_url.clone();
    }
    let scheme = if config.public_tls_certificate.is_some() { "https" } else { "http" };
    format!("{scheme}://{public}")
}

pub(crate) fn node_options(
    config: &Config,
    env: Arc<dyn Env>,
    metrics: &Metrics,
    runtimes: node::Runtimes,
    peer: PeerSide,
    public_url: String,
) -> node::Options {
    node::Options {
        data_dir: config.data_dir.clone(),
        log_segment_bytes: log_segment_bytes(config),
        log_tail_bytes: config.log_tail_bytes,
        page_cache_bytes: config.values_page_cache_bytes,
        checkpoints: consensus::CheckpointPolicy {
            applied_bytes: config.checkpoint_bytes,
            interval: Duration::from_millis(config.checkpoint_interval_ms),
            dirty_bytes_max: config.values_dirty_bytes_max,
        },
        disk: Arc::new(OsDisk),
        env,
        log_observer: metrics.log_observer(),
        runtimes,
        peer,
        public_url,
        cache_reset_after: Duration::from_millis(config.cache_reset_after_ms),
        cache_bytes_max: config.cache_bytes_max,
    }
}
