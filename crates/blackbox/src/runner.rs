//! A run from its beginning to its verdict.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use futures_util::future::join_all;
use insidb_oracle::History;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::sleep,
};

use crate::{
    Options,
    clients::{CLIENTS_PER_NODE, Purpose, Worker, World},
    clock::FakeClock,
    closing,
    cluster::{Cluster, Means, NODES, data_dir},
    disk::SmallDisk,
    judge::judge,
    nemesis::{Nemesis, WHOLE_WAIT_MAX},
    network::{Door, Network},
    record::{EVENTS_FILE, Event, HISTORY_FILE, Line, Recorder, read_lines},
    report::Report,
    schedule::{FaultKind, Schedule},
    tenants::{self, Operator},
    watch::Watch,
};

/// Streams of random numbers beside those of the clients, which are numbered from 1.
const COMING_AND_GOING: u64 = 1 << 20;
const QUOTAS: u64 = COMING_AND_GOING + 1;

/// Runs a cluster under faults, and judges what it recorded.
///
/// # Errors
/// When it cannot be run. What is wrong with the nodes is in the report.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let dir = std::path::absolute(&options.dir).context("cannot find the directory")?;
    let insid = options.insid.canonicalize().with_context(|| format!("cannot find {}", options.insid.display()))?;
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let is_empty = std::fs::read_dir(&dir).context("cannot read the directory")?.next().is_none();
    ensure!(is_empty, "{} is not empty", dir.display());
    let recorder = Recorder::create(&dir, NODES)?;
    recorder.event(&Event::Began {
        seed: options.seed,
        seconds: options.duration.as_secs(),
        rate_per_second: options.rate_per_second,
        insid: version(&insid)?,
    })?;
    let (means, kinds) = means(options, &dir, &recorder)?;
    let door = means.network.as_ref().map(Network::door).transpose()?;
    let cluster = Cluster::new(&insid, &dir, means)?;
    let interval = Duration::from_secs(1) * u32::try_from(NODES * CLIENTS_PER_NODE)? / options.rate_per_second.max(1);
    let world = World {
        nodes: cluster.addresses.clone(),
        recorder,
        seed: options.seed,
        stop: AtomicBool::new(false),
        is_flooding: AtomicBool::new(false),
        tenants: RwLock::default(),
        deleted: Mutex::default(),
        places: Mutex::new(BTreeSet::new()),
        begun: AtomicU64::new(0),
        interval,
    };
    let schedule = Schedule::new(options.seed, &kinds);
    // A thread that has entered the hub stays there: it must not be the caller's.
    thread::scope(|scope| {
        let inside = || inside(&world, cluster, schedule, options.duration, door.as_ref());
        let thread = named("clients").spawn_scoped(scope, inside).context("cannot start a thread")?;
        thread.join().map_err(|_| anyhow!("a thread has panicked"))?
    })?;
    world.recorder.event(&Event::Ended { at_ns: world.recorder.now_ns() })?;
    world.recorder.flush()?;
    check(&dir)
}

/// Judges again what a run has recorded.
///
/// # Errors
/// When the records cannot be read.
pub fn check(dir: &Path) -> anyhow::Result<Report> {
    let events: Vec<Event> = read_lines(&dir.join(EVENTS_FILE))?;
    let lines: Vec<Line> = read_lines(&dir.join(HISTORY_FILE))?;
    let mut history = History::default();
    lines.into_iter().for_each(|line| history.push(line.operation));
    let violations = judge(&history, &events);
    Ok(Report::new(&history, &events, violations))
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

fn version(insid: &Path) -> anyhow::Result<String> {
    let output = Command::new(insid).arg("--version").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {}", insid.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What the machine lets a run have, and the kinds of faults that can be made with it.
fn means(options: &Options, dir: &Path, recorder: &Recorder) -> anyhow::Result<(Means, BTreeSet<FaultKind>)> {
    let mut kinds = options.faults.clone();
    let mut means = Means::default();
    let mut skip = |kind: FaultKind, why: &anyhow::Error| {
        kinds.remove(&kind);
        recorder.event(&Event::Skipped { kind, why: format!("{why:#}") })
    };
    if options.faults.contains(&FaultKind::Partition) {
        match Network::make(NODES) {
            Ok(network) => means.network = Some(network),
            Err(why) => skip(FaultKind::Partition, &why)?,
        }
    }
    if options.faults.contains(&FaultKind::DiskFull) {
        let number = usize::try_from(options.seed % NODES as u64)?;
        match SmallDisk::mount(&data_dir(dir, number)) {
            Ok(disk) => means.disk = Some((number, disk)),
            Err(why) => skip(FaultKind::DiskFull, &why)?,
        }
    }
    if options.faults.contains(&FaultKind::Clock) {
        match FakeClock::find(dir, NODES) {
            Ok(clock) => means.clock = Some(clock),
            Err(why) => skip(FaultKind::Clock, &why)?,
        }
    }
    Ok((means, kinds))
}

fn runtime(door: Option<&Door>) -> anyhow::Result<Runtime> {
    door.map_or(Ok(()), Door::enter).context("cannot enter the network")?;
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// All that talks to nodes, where they are to be reached.
fn inside(
    world: &World,
    mut cluster: Cluster,
    schedule: Option<Schedule>,
    duration: Duration,
    door: Option<&Door>,
) -> anyhow::Result<()> {
    let runtime = self::runtime(door)?;
    let root_key = cluster.root_key()?;
    let watch = Watch::new(&world.nodes, &root_key)?;
    runtime.block_on(found(&mut cluster, &watch))?;
    let (ended, end) = oneshot::channel();
    thread::scope(|scope| {
        let root_key = root_key.as_str();
        let nemesis = move || {
            let done = faults(world, cluster, schedule, duration, door, root_key);
            // Whoever waits is told, whatever came of it; who does not wait any more has failed, and says so himself.
            let _ = ended.send(());
            done
        };
        let nemesis = named("nemesis").spawn_scoped(scope, nemesis).context("cannot start a thread")?;
        let asked = runtime.block_on(ask(world, root_key, end));
        tenants::end(world);
        let cluster = nemesis.join().map_err(|_| anyhow!("the nemesis has panicked"))??;
        asked?;
        let closed = runtime.block_on(closing::close(world, &watch));
        drop(cluster);
        closed
    })
}

/// Starts the nodes, and waits until they are a cluster.
async fn found(cluster: &mut Cluster, watch: &Watch) -> anyhow::Result<()> {
    cluster.spawn(0)?;
    let deadline = Instant::now() + WHOLE_WAIT_MAX;
    while !watch.is_ready(0).await {
        ensure!(Instant::now() < deadline, "the first node does not become ready: see its log");
        sleep(Duration::from_millis(20)).await;
    }
    cluster.founded();
    cluster.spawn_missing()?;
    let whole = watch.await_whole(WHOLE_WAIT_MAX).await;
    whole.map(drop).map_err(|missing| anyhow!("the cluster does not become whole: {missing}"))
}

/// Makes faults until the time is over; without any kind of them, just lets it pass.
fn faults(
    world: &World,
    cluster: Cluster,
    schedule: Option<Schedule>,
    duration: Duration,
    door: Option<&Door>,
    root_key: &str,
) -> anyhow::Result<Cluster> {
    let runtime = self::runtime(door)?;
    let watch = Watch::new(&world.nodes, root_key)?;
    let nemesis = Nemesis { cluster, watch, world, runtime };
    nemesis.run(schedule, duration)
}

/// Clients and operators, until the nemesis has ended or somebody ends the run.
async fn ask(world: &World, root_key: &str, mut end: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let operator = |stream| Operator::new(world, root_key, stream);
    operator(QUOTAS)?.make("main", Purpose::Main).await?;
    let tight = operator(QUOTAS)?.make("tight", Purpose::Tight).await?.context("the run was over before it began")?;
    let clients = async {
        let workers = (0..NODES * CLIENTS_PER_NODE).map(|number| Worker::new(world, number).run());
        join_all(workers).await.into_iter().collect::<anyhow::Result<()>>()
    };
    let stop = async {
        tokio::select! {
            _ = &mut end => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tenants::end(world);
        Ok(())
    };
    let (clients, coming, quotas, stop) =
        tokio::join!(clients, operator(COMING_AND_GOING)?.come_and_go(), operator(QUOTAS)?.move_quotas(tight), stop);
    clients.and(coming).and(quotas).and(stop)
}
