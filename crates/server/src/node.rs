//! One node: its data directory, its two Raft groups, and the tasks beside them.
//!
//! Start: lock the directory, open the engine at its last checkpoint, open the log and re-apply what lies behind, listen
//! to the peers, found the cluster or wait to be taken in. Then the tasks keep the lease (`renewal`), the members
//! (`membership`) and the cache group (`cache/driver`), and the node serves when all three let it. Stop is the same
//! backwards, with a last checkpoint, so that the next start has nothing to re-apply.

pub(crate) mod cache;
mod census;
mod changes;
mod cleanup;
mod damage;
pub(crate) mod data_dir;
pub(crate) mod desk;
mod divergence;
pub(crate) mod end;
pub(crate) mod joining;
pub(crate) mod lease;
mod lessor;
mod membership;
mod renewal;
mod renewing;
mod shares;
pub(crate) mod timing;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, bail};
use arc_swap::{ArcSwap, ArcSwapOption};
use consensus::{
    CheckpointPolicy, Group,
    env::Env,
    log::disk::{CACHE_BYTES_DEFAULT, DiskLog, Identity as LogIdentity, Observer, Setup},
    transport::wire::GroupId,
    types::{MemberId, Peer},
};
use state::{apply::StateMachine, ids::Keyspace};
use storage::{disk::DiskEngine, fs::Disk};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use uuid::Uuid;

use self::{
    cache::{
        Cache,
        driver::{Driver, Words},
        suspicion::Doubt,
    },
    data_dir::{DataDir, Identity},
    desk::{Desk, Parts},
    end::{End, Ending},
    lease::Holder,
    renewal::Keeper,
    shares::Sharer,
};
use crate::{
    env::monotonic_ns,
    peer::{Network, PeerOptions, PeerTls, Peers, ServeOptions, head::Token},
    rate::{Book, Holdings},
};

/// How a node is reached by the others.
pub(crate) struct PeerSide {
    /// What carries messages.
    pub(crate) network: Box<dyn Network>,
    /// What the others call it, as `host:port`; empty on a single node.
    pub(crate) address: String,
    /// Peer addresses of the cluster.
    pub(crate) join: Vec<String>,
    /// The cluster's token.
    pub(crate) token: Token,
    /// Mutual TLS, when configured.
    pub(crate) tls: Option<PeerTls>,
}

/// What a node is started with.
pub(crate) struct Options {
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Bytes of one segment of the log.
    pub(crate) log_segment_bytes: u64,
    /// Bytes of the log that are kept for members that lag.
    pub(crate) log_tail_bytes: u64,
    /// Bytes of the disk engine's page cache.
    pub(crate) page_cache_bytes: usize,
    /// When checkpoints are made, and how much may wait for one.
    pub(crate) checkpoints: CheckpointPolicy,
    /// The disk.
    pub(crate) disk: Arc<dyn Disk>,
    /// Who is told of every sync of the log.
    pub(crate) log_observer: Arc<dyn Observer>,
    /// The clock, randomness and threads.
    pub(crate) env: Arc<dyn Env>,
    /// Where its tasks run.
    pub(crate) runtimes: Runtimes,
    /// How the others reach the node.
    pub(crate) peer: PeerSide,
    /// The base of the URLs at which clients reach it.
    pub(crate) public_url: String,
    /// How long the cache may be without a majority before it is given up.
    pub(crate) cache_reset_after: Duration,
    /// The most bytes of keys and values that this node, when it leads the cache group, lets the cache hold.
    pub(crate) cache_bytes_max: u64,
}

/// Where a node's tasks run: none of these runtimes serves clients, and neither group waits behind the other.
#[derive(Clone, Debug)]
pub(crate) struct Runtimes {
    /// The `values` group.
    pub(crate) values: Handle,
    /// The cache group.
    pub(crate) cache: Handle,
    /// What the nodes have to do with each other besides.
    pub(crate) rest: Handle,
}

/// Runs `task` on another runtime, for as long as somebody waits for it: what it spawns stays there.
async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    task: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn_on(task, runtime);
    tasks.join_next().await.expect("one was spawned").context("it was cut off")?
}

/// A running node.
pub(crate) struct Node {
    values: Group<DiskEngine>,
    cache: Arc<ArcSwapOption<Cache>>,
    desk: Arc<Desk>,
    holder: Arc<Holder>,
    leader_url: Arc<ArcSwap<String>>,
    rates: Arc<Book>,
    env: Arc<dyn Env>,
    log: DiskLog,
    tasks: Vec<AbortHandle>,
    /// The peers' listener.
    serving: Option<JoinHandle<()>>,
    driver: AbortHandle,
    stop_peers: watch::Sender<bool>,
    end: watch::Receiver<Option<End>>,
    runtime: Handle,
    /// Held for as long as the node runs: it is the lock.
    _data_dir: DataDir,
}

impl Node {
    /// Starts the node; it serves when [`Node::await_serving`] returns, and refuses until then.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let runtime = options.runtimes.rest.clone();
        runtime.spawn(Self::start_on_its_runtime(options)).await.context("the node's start was cut off")?
    }

    async fn start_on_its_runtime(options: Options) -> anyhow::Result<Self> {
        let data_dir = DataDir::open(&options.data_dir)?;
        let identity = data_dir.identity();
        let cluster_id = Arc::new(OnceLock::from(identity.cluster_id));
        let peers = Peers::new(options.peer.network.way(PeerOptions {
            node: identity.node_id,
            cluster_id: cluster_id.clone(),
            token: options.peer.token.clone(),
            tls: options.peer.tls.clone(),
        }));
        let (values, log) = start_values(&options, &data_dir, peers.clone()).await?;
        let cache = Arc::<ArcSwapOption<Cache>>::default();
        let holder = Arc::<Holder>::default();
        let desk = Arc::new(Desk::new(Parts {
            cluster_id: cluster_id.clone(),
            address: options.peer.address.clone(),
            public_url: options.public_url.clone(),
            env: options.env.clone(),
            values: values.clone(),
            cache: cache.clone(),
            peers: peers.clone(),
            holder: holder.clone(),
        }));
        let (ending, end) = watch::channel(None);
        let (stop_peers, stopping) = watch::channel(false);
        let (rates, called) = if options.peer.network.serves() {
            let (book, called) = Book::shared();
            (book, Some(called))
        } else {
            (Book::alone(), None)
        };
        let rates = Arc::new(rates);
        let mut node = Self {
            values,
            cache,
            desk,
            holder,
            leader_url: Arc::default(),
            rates: rates.clone(),
            env: options.env.clone(),
            log,
            tasks: Vec::new(),
            serving: None,
            driver: tokio::spawn(async {}).abort_handle(),
            stop_peers,
            end,
            runtime: options.runtimes.rest.clone(),
            _data_dir: data_dir,
        };
        // All of it before a peer is served: who must not come back as itself answers nobody in that name.
        let founds = node._data_dir.may_found() && !node.values.is_founded().await?;
        if founds && let Some(address) = joining::founded_before(&node.desk, &options.peer.join).await {
            bail!(joining::second_founding(&address));
        }
        node.found_or_join(&options).await?;
        if founds {
            let watch = joining::watch_for_first_founding(node.desk.clone(), options.peer.join.clone(), ending.clone());
            node.tasks.push(tokio::spawn(watch).abort_handle());
        }
        if options.peer.network.serves() {
            node.serve_peers(&options.peer, cluster_id, stopping, ending.clone());
        }
        node.spawn_tasks(&options, peers, ending);
        if let Some(called) = called {
            let sharer = Sharer {
                desk: node.desk.clone(),
                values: node.values.clone(),
                env: options.env.clone(),
                holdings: Holdings::new(identity.node_id, rates),
                called,
            };
            node.tasks.push(tokio::spawn(sharer.run()).abort_handle());
        }
        tracing::info!(cluster = %identity.cluster_id, node = %identity.node_id, "node started");
        Ok(node)
    }

    fn serve_peers(
        &mut self,
        side: &PeerSide,
        cluster_id: Arc<OnceLock<Uuid>>,
        stopping: watch::Receiver<bool>,
        ending: Ending,
    ) {
        let options = ServeOptions { token: side.token.clone(), cluster_id, tls: side.tls.clone() };
        let serving = side.network.serve(options, self.desk.clone(), stopping);
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                ending.send_replace(Some(End::Fault(format!("{error:#}"))));
            }
        });
        self.serving = Some(serving);
    }

    /// Founds the cluster when the directory's one-time marker allows it; a directory without marker and log waits to be
    /// taken in, where there is somebody to ask; one that has nobody to ask has lost its log.
    async fn found_or_join(&self, options: &Options) -> anyhow::Result<()> {
        let own = Peer { address: self.desk.address().to_owned() };
        let is_founded = self.values.is_founded().await?;
        let (may_found, may_join) = (self._data_dir.may_found(), self._data_dir.may_join());
        if !is_founded && may_found {
            self.values.found([(self.values.member(), own)].into()).await?;
        } else if !is_founded && (!may_join || options.peer.join.is_empty()) {
            // It may have voted under this identity, and has forgotten for whom.
            bail!(
                "the data directory has an identity, but its log is empty: it was lost. This node cannot come back as \
                 itself; start it with an empty data directory, and it joins its cluster as a new node"
            );
        }
        if may_join {
            self._data_dir.consume_joining()?;
        }
        if may_found {
            self._data_dir.consume_marker()?;
        }
        Ok(())
    }

    fn spawn_tasks(&mut self, options: &Options, peers: Peers, ending: Ending) {
        let words = Arc::<Words>::default();
        let keeper = Keeper {
            desk: self.desk.clone(),
            process: self.desk.process().id,
            holder: self.holder.clone(),
            values: self.values.clone(),
            cache: self.cache.clone(),
            words: words.clone(),
            env: options.env.clone(),
            leader_url: self.leader_url.clone(),
            ending: ending.clone(),
        };
        let driver = Driver {
            values: self.values.clone(),
            address: self.desk.address().to_owned(),
            cache: self.cache.clone(),
            wire: peers,
            env: options.env.clone(),
            runtime: options.runtimes.cache.clone(),
            words,
            reset_after: options.cache_reset_after,
            bytes_max: options.cache_bytes_max,
            ending: ending.clone(),
            incarnation: None,
            doubt: Doubt::default(),
            informed: None,
            handed_over: None,
        };
        self.driver = tokio::spawn(driver.run()).abort_handle();
        let joining = joining::join(self.desk.clone(), self.values.clone(), options.peer.join.clone());
        let holder = self.holder.clone();
        let joining = async move {
            let Err(condemned) = joining.await;
            holder.give_up();
            ending.send_replace(Some(condemned.into()));
        };
        let tasks = [
            tokio::spawn(keeper.run()),
            tokio::spawn(membership::run(self.values.clone(), self.desk.lessor())),
            tokio::spawn(cleanup::run(self.values.clone(), self.cache.clone())),
            tokio::spawn(joining),
            tokio::spawn(census::mind_full_disks(self.values.clone(), self.desk.clone())),
        ];
        self.tasks.extend(tasks.iter().map(|task| task.abort_handle()));
    }

    /// Returns when the node can serve linearizable reads and writes of both stores, however long the rest of the cluster
    /// takes; says now and then what is missing.
    ///
    /// # Errors
    /// When a group has stopped on a fault.
    pub(crate) async fn await_serving(&self) -> anyhow::Result<()> {
        let mut patience = Instant::now() + timing::PATIENCE;
        loop {
            let Some(missing) = self.missing().await? else {
                let applied_index = self.values.status().applied_index;
                let cache_generation = self.cache.load().as_ref().map(|cache| cache.generation);
                tracing::info!(applied_index, cache_generation, "node serves");
                return Ok(());
            };
            if Instant::now() >= patience {
                patience = Instant::now() + timing::PATIENCE;
                tracing::warn!(missing, "the node waits before it serves");
            }
            sleep(timing::WATCH).await;
        }
    }

    /// What keeps the node from serving; none when it serves.
    ///
    /// # Errors
    /// When the durable group has stopped on a fault.
    pub(crate) async fn missing(&self) -> anyhow::Result<Option<String>> {
        let soon = Instant::now() + timing::STEP_WAIT_MAX;
        match self.values.read(soon).await {
            Ok(_) => {}
            Err(consensus::Error::Stopped) => bail!("the values group has stopped: {}", self.values.fault().await),
            Err(error) => return Ok(Some(format!("the values group does not serve: {error}"))),
        }
        let Some(cache) = self.cache.load_full() else {
            return Ok(Some("this node has no member of the cache group yet".to_owned()));
        };
        if let Err(error) = cache.group.read(soon).await {
            return Ok(Some(format!("the cache group does not serve: {error}")));
        }
        if !self.rates.is_valid(monotonic_ns(&*self.env)) {
            return Ok(Some("the leader has not given this node its share of the rate limits yet".to_owned()));
        }
        if !self.holder.is_valid(self.desk.now()) {
            return Ok(Some("the leader has not granted this node its lease yet".to_owned()));
        }
        Ok(None)
    }

    /// The durable group.
    pub(crate) fn values(&self) -> &Group<DiskEngine> {
        &self.values
    }

    /// The running generation of the cache group; empty while there is none.
    pub(crate) fn cache(&self) -> Arc<ArcSwapOption<Cache>> {
        self.cache.clone()
    }

    /// What the node asks of the cluster's leader.
    pub(crate) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// The node's lease.
    pub(crate) fn holder(&self) -> Arc<Holder> {
        self.holder.clone()
    }

    /// The scopes' request rates.
    pub(crate) fn rates(&self) -> Arc<Book> {
        self.rates.clone()
    }

    /// Where clients reach the leader, as it says itself.
    pub(crate) fn leader_url(&self) -> Arc<ArcSwap<String>> {
        self.leader_url.clone()
    }

    /// Returns when the process must end, with the reason.
    pub(crate) async fn end(&self) -> End {
        let mut end = self.end.clone();
        let of_a_task = async {
            let found = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            match found {
                Some(end) => end,
                // The tasks have ended, which only a stop does.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            fault = self.values.fault() => End::Fault(format!("values: {fault}")),
            end = of_a_task => end,
        }
    }

    /// Hands over what the node leads, so that its end costs nobody anything.
    pub(crate) async fn hand_over(&self) {
        // From here on it takes no part in the cache group's changes either.
        self.driver.abort();
        let cache = self.cache.load_full();
        let cache = async {
            if let Some(cache) = cache {
                cache.group.hand_over(timing::HAND_OVER_WAIT_MAX).await;
            }
        };
        tokio::join!(self.values.hand_over(timing::HAND_OVER_WAIT_MAX), cache);
    }

    /// Stops the node: ends its tasks, makes a last checkpoint, closes the log.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        let runtime = self.runtime.clone();
        runtime.spawn(self.shutdown_on_its_runtime()).await.context("the node's stop was cut off")?
    }

    async fn shutdown_on_its_runtime(self) -> anyhow::Result<()> {
        self.driver.abort();
        for task in &self.tasks {
            task.abort();
        }
        if let Some(cache) = self.cache.swap(None) {
            cache.group.shutdown().await;
        }
        match self.values.checkpoint().await {
            Ok(()) => {}
            // The log has it all: the next start re-applies it.
            Err(storage::Error::DiskFull { path }) => tracing::warn!(path, "disk full: stopping without a checkpoint"),
            Err(error) => return Err(error).context("the last checkpoint"),
        }
        self.values.shutdown().await;
        // Last: until here peers get their answers, those to what they had forwarded among them.
        self.stop_peers.send_replace(true);
        if let Some(serving) = self.serving {
            // It ends within a second, and only a panic could make it fail.
            drop(serving.await);
        }
        self.log.close().context("closing the log")
    }
}

async fn start_values(
    options: &Options,
    data_dir: &DataDir,
    peers: Peers,
) -> anyhow::Result<(Group<DiskEngine>, DiskLog)> {
    let identity = data_dir.identity();
    let page_cache = storage::disk::Options { cache_bytes: options.page_cache_bytes };
    let engine = DiskEngine::open(options.disk.clone(), &data_dir.store(), page_cache).map_err(damage::of_store)?;
    let machine = StateMachine::open(Arc::new(engine), Keyspace::Values)?;
    let log = DiskLog::open(Setup {
        disk: options.disk.clone(),
        env: options.env.clone(),
        observer: options.log_observer.clone(),
        dir: data_dir.log(),
        identity: log_identity(identity),
        segment_bytes: options.log_segment_bytes,
        cache_bytes_max: CACHE_BYTES_DEFAULT,
        tail_bytes: options.log_tail_bytes,
    })
    .map_err(damage::of_log)?;
    let asked = log.clone();
    let group_options = consensus::Options {
        group: GroupId::Values,
        member: MemberId { node: identity.node_id, incarnation: 0 },
        heartbeat: timing::HEARTBEAT,
        election_timeout: timing::ELECTION_TIMEOUT,
        checkpoints: options.checkpoints,
        log_disk_full: Arc::new(move || asked.disk_full()),
        quiet: Duration::ZERO,
        spool: Some(data_dir.spool()),
        state_bytes_max: u64::MAX,
    };
    let (its_log, env) = (log.clone(), options.env.clone());
    let starting =
        async move { Group::start(group_options, its_log, peers, machine, env).await.map_err(anyhow::Error::msg) };
    Ok((run_on(&options.runtimes.values, starting).await?, log))
}

/// Whose log it is: the cluster's id, which no tenant ever sees, and the node's.
fn log_identity(identity: Identity) -> LogIdentity {
    let bytes = [identity.cluster_id.as_bytes().as_slice(), &identity.node_id.0.to_le_bytes()].concat();
    LogIdentity::new(bytes).expect("24 bytes are not too many")
}
