//! Load past the limit: far more connections, requests and bytes than the nodes can serve, and clients that are a nuisance;
//! what becomes of those that are served, of those that are not, of the nodes' memory, and of what comes after.
//!
//! 1. `overload/nodes.rs` starts real nodes. A closed loop of a few connections finds out what they can serve.
//! 2. `overload/pace.rs` then asks for many times as much, in an open loop over thousands of connections, while
//!    `overload/nuisance.rs` has silent, slow and greedy clients, and `overload/watch.rs` looks as an operator does.
//! 3. The closed loop again, at once: are the nodes as fast as before?
//! 4. `overload/neighbours.rs`: two tenants, of whom one asks for a hundred times its rate.
//!
//! The nodes and the load share one machine. What the load could not send in time is counted, and told.

mod neighbours;
mod nodes;
mod nuisance;
mod pace;
mod report;
mod watch;
mod wire;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch as signal},
    time::timeout,
};

pub use self::{
    neighbours::{Neighbours, Verb},
    nuisance::{Fate, Nuisance},
    pace::{Tally, Times},
    report::{Report, Round},
    watch::Sight,
};
use self::{nodes::Nodes, nuisance::Means, pace::Target, wire::Connection};

/// Connections of the closed loop.
const CLOSED_CONNECTIONS: usize = 64;
/// How long nuisances have to make their connections before the load begins.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(30);
/// A rate limit that nobody meets.
const NO_RATE: i64 = 100_000_000;
/// What the quiet tenant asks for in a second at most: less than half of what the nodes can serve.
const QUIET_PER_SECOND_MAX: u32 = 1_000;

/// The nodes' own bounds in a run: small, so that a node that does not keep to them is seen. What is not here is as the
/// server has it.
const SETTINGS: [(&str, u64); 6] = [
    ("body_bytes_in_flight_max", BODY_BYTES_MAX),
    ("answer_bytes_in_flight_max", ANSWER_BYTES_MAX),
    ("values_dirty_bytes_max", DIRTY_BYTES_MAX),
    ("checkpoint_bytes", DIRTY_BYTES_MAX / 4),
    ("values_page_cache_bytes", PAGE_CACHE_BYTES),
    ("cache_bytes_max", 64 << 20),
];
const BODY_BYTES_MAX: u64 = 64 << 20;
const ANSWER_BYTES_MAX: u64 = 64 << 20;
const DIRTY_BYTES_MAX: u64 = 64 << 20;
const PAGE_CACHE_BYTES: u64 = 16 << 20;
/// The server's own bound on one key or value.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// What a byte of a body in flight may cost: its text, the values read out of it, the command, and its record in the log.
const BODY_FACTOR: u64 = 4;
/// What a connection may cost, beside bodies and answers: its task, and hyper's buffers.
const CONNECTION_BYTES: u64 = 48 * 1024;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's program.
    pub insid: PathBuf,
    /// Where the nodes keep their data. Must not exist, or be empty.
    pub dir: PathBuf,
    /// How many nodes: 1, or a cluster of more.
    pub nodes: usize,
    /// How many connections there are at once, of all kinds.
    pub connections: usize,
    /// How many times as much is asked for as can be served.
    pub factor: f64,
    /// How long each part of a round takes.
    pub time: Duration,
    /// Rounds of load.
    pub rounds: usize,
    /// Rounds of each kind with two tenants, for sets and for gets.
    pub neighbour_rounds: usize,
    /// What must hold.
    pub bounds: Bounds,
}

/// What must hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What the p99 of the requests that are served may be, from when they were due.
    pub accepted_p99_max: Duration,
    /// What the p99 of refusals may be, from when the request was sent.
    pub refused_p99_max: Duration,
    /// How long an operator's probe may take.
    pub probe_max: Duration,
    /// How fast the nodes must be behind the load, as a part of what they were before it: in the median of all rounds.
    pub speed_min: f64,
    /// What a neighbour may make of a tenant's p99, as a factor: in the median of all rounds.
    pub neighbour_factor_max: f64,
    /// What is let pass beside: a p99 of a few milliseconds is doubled by one pause of a busy machine.
    pub neighbour_slack: Duration,
}

/// How much memory a node may hold at most: what it held before the load, and what the load may add.
fn memory_bound(idle_bytes: u64, connections: u64) -> u64 {
    idle_bytes
        + connections * CONNECTION_BYTES
        + BODY_FACTOR * BODY_BYTES_MAX
        + ANSWER_BYTES_MAX
        + DIRTY_BYTES_MAX
        + PAGE_CACHE_BYTES
}

/// Runs it all, and says what came of it.
///
/// # Errors
/// When it could not be run: nodes that do not start or end by themselves, a directory that cannot be used, too few
/// files that may be open.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let files = nodes::raise_file_limit()?;
    ensure!(options.connections as u64 + 200 < files, "no more than {files} files and connections may be open here");
    let dir = std::path::absolute(&options.dir).context("cannot name the directory")?;
    let insid = options.insid.canonicalize().with_context(|| format!("cannot find {}", options.insid.display()))?;
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    ensure!(std::fs::read_dir(&dir)?.next().is_none(), "{} is not empty", dir.display());
    let runtime = runtime()?;
    let nodes = Nodes::start(&insid, &dir.join("nodes"), options.nodes, &SETTINGS)?;
    let key = runtime.block_on(nodes.tenant("load", NO_RATE))?;
    let mixed = neighbours::requests(Verb::Set, &key).into_iter().zip(neighbours::requests(Verb::Get, &key));
    let target = Target::new(&nodes.public(), mixed.flat_map(|(set, get)| [set, get]).collect());
    // Keys that are there, and a node that has found its pace.
    runtime.block_on(pace::closed(&target, CLOSED_CONNECTIONS, options.time));
    let mut report =
        Report { nodes: options.nodes, bounds: options.bounds, rounds: Vec::new(), neighbours: Vec::new() };
    for number in 0..options.rounds {
        let nuisances = runtime.block_on(nodes.tenant(&format!("nuisance{number}"), NO_RATE))?;
        report.rounds.push(round(&nodes, &target, &nuisances, options, &runtime)?);
    }
    if options.neighbour_rounds > 0 {
        let beside = Nodes::start(&insid, &dir.join("beside"), 1, &SETTINGS)?;
        let capacity = runtime.block_on(pace::closed(&target, CLOSED_CONNECTIONS, Duration::from_secs(1)));
        let quiet_per_second = u32::try_from(capacity.accepted.count() / 4)?.clamp(1, QUIET_PER_SECOND_MAX);
        for verb in [Verb::Set, Verb::Get] {
            let rounds = options.neighbour_rounds;
            report.neighbours.push(neighbours::measure(verb, &nodes, &beside, rounds, quiet_per_second, options.time)?);
        }
        beside.stop()?;
    }
    nodes.stop()?;
    Ok(report)
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// Before, meanwhile, and behind.
fn round(
    nodes: &Nodes,
    target: &Target,
    nuisance_key: &str,
    options: &Options,
    runtime: &Runtime,
) -> anyhow::Result<Round> {
    let means = means(nodes, nuisance_key, runtime)?;
    let before = runtime.block_on(pace::closed(target, CLOSED_CONNECTIONS, options.time));
    let seconds = options.time.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "no round has as many requests")]
    let capacity = before.accepted.count() as f64 / seconds;
    let offered = capacity * options.factor;

    let mut idle_bytes = Vec::new();
    for node in &nodes.nodes {
        idle_bytes.push(node.resident_bytes()?);
        node.forget_peak()?;
    }
    let share = |percent: usize| (options.connections * percent / 100).max(1);
    let counts = [
        (Nuisance::Silent, share(10)),
        (Nuisance::SlowHead, share(5)),
        (Nuisance::SlowBody, share(5)),
        (Nuisance::SlowReader, share(5)),
        (Nuisance::HugeBody, share(1)),
    ];
    let others: usize = counts.iter().map(|(_, count)| count).sum();
    let pace_connections = options.connections.saturating_sub(others).max(1);
    let stop = AtomicBool::new(false);
    let (stop_nuisances, told) = signal::channel(false);
    let (made, mut all_made) = mpsc::unbounded_channel();
    let (load, fates, sight) = thread::scope(|scope| {
        let annoy = || anyhow::Ok(self::runtime()?.block_on(nuisance::annoy(means, &counts, told, made)));
        let fates = named("nuisances").spawn_scoped(scope, annoy).context("cannot start a thread")?;
        let sight = named("operator").spawn_scoped(scope, || watch::watch(nodes, &stop));
        let sight = sight.context("cannot start a thread")?;
        let load = runtime.block_on(async {
            let all = async {
                for _ in 0..others {
                    all_made.recv().await;
                }
            };
            // Where not all can be made, the count of open files tells.
            drop(timeout(CONNECT_WAIT_MAX, all).await);
            pace::open(target, pace_connections, offered, options.time).await
        });
        stop.store(true, Ordering::Relaxed);
        stop_nuisances.send_replace(true);
        let panicked = |_| anyhow!("a thread has panicked");
        anyhow::Ok((load, fates.join().map_err(panicked)??, sight.join().map_err(panicked)??))
    })?;
    let after = runtime.block_on(pace::closed(target, CLOSED_CONNECTIONS, options.time));

    let mut memory = Vec::new();
    for (node, idle_bytes) in nodes.nodes.iter().zip(idle_bytes) {
        let connections = options.connections.div_ceil(nodes.nodes.len()) as u64;
        memory.push((idle_bytes, node.peak_bytes()?, memory_bound(idle_bytes, connections)));
    }
    Ok(Round {
        time: options.time,
        connections: options.connections,
        offered,
        before,
        load,
        after,
        fates,
        sight,
        memory,
    })
}

/// A large value for slow readers, and bodies of every size that a node has an opinion about.
fn means(nodes: &Nodes, key: &str, runtime: &Runtime) -> anyhow::Result<Means> {
    let large = "v".repeat(VALUE_BYTES_MAX);
    let set = |path: &str, value: &str| {
        wire::request("POST", path, key, &format!("{{\"key\":\"large\",\"value\":\"{value}\"}}"))
    };
    let put = set("/cache", &large);
    let done = runtime.block_on(async { Connection::open(nodes.nodes[0].public).await?.exchange(&put).await });
    let done = done.context("a large value is not taken")?;
    ensure!(done.status == 200, "a large value is answered {}", done.status);
    let escaped = "\\u0061".repeat(VALUE_BYTES_MAX);
    let too_large = format!("{large}v");
    let mut unread = wire::head("/vs", key, 18 * VALUE_BYTES_MAX + 8 * 1024);
    unread.extend_from_slice(&[b' '; 1_024]);
    let huge = vec![set("/vs", &large), set("/vs", &escaped), set("/vs", &too_large), unread];
    Ok(Means { addresses: nodes.public(), key: key.to_owned(), large: "large".to_owned(), huge })
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}
