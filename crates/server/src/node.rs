//! One node: its data directory, its two Raft groups, and the tasks beside them.
//!
//! Start: lock the directory, open the engine at its last checkpoint, open the log and re-apply what lies behind,
//! become the leader of the `values` group, register with it and begin a new generation of the cache. Stop is the
//! same backwards, with a last checkpoint, so that the next start has nothing to re-apply.

pub(crate) mod cache;
mod cleanup;
pub(crate) mod data_dir;
mod timing;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use consensus::{
    CheckpointPolicy, Group,
    env::Env,
    log::disk::{CACHE_BYTES_DEFAULT, DiskLog, Identity as LogIdentity, Observer, Setup},
    transport::wire::{GroupId, Solitary},
    types::{MemberId, Peer},
};
use state::{apply::StateMachine, ids::Keyspace};
use storage::{disk::DiskEngine, fs::Disk};
use tokio::{runtime::Handle, task::AbortHandle};

use self::{
    cache::Cache,
    data_dir::{DataDir, Identity},
};

/// What a node is started with.
pub(crate) struct Options {
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Bytes of one segment of the log.
    pub(crate) log_segment_bytes: u64,
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
    /// The runtime that is Raft's alone.
    pub(crate) raft: Handle,
}

/// A running node.
pub(crate) struct Node {
    values: Group<DiskEngine>,
    cache: Arc<ArcSwapOption<Cache>>,
    log: DiskLog,
    cleanup: AbortHandle,
    raft: Handle,
    /// Held for as long as the node runs: it is the lock.
    _data_dir: DataDir,
}

impl Node {
    /// Starts the node; returns when it can serve linearizable reads and writes of both stores.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let raft = options.raft.clone();
        // All of it runs on Raft's own runtime: what the groups spawn stays there.
        raft.spawn(Self::start_on_raft_runtime(options)).await.context("the node's start was cut off")?
    }

    async fn start_on_raft_runtime(options: Options) -> anyhow::Result<Self> {
        let data_dir = DataDir::open(&options.data_dir)?;
        let identity = data_dir.identity();
        let (values, log) = start_values(&options, &data_dir).await?;
        found_once(&values, &data_dir).await?;
        values.await_serving(timing::START_WAIT_MAX).await.context("the values group does not elect itself")?;
        let running = cache::begin_generation(&values, identity.node_id, &options.env).await?;
        tracing::info!(
            cluster = %identity.cluster_id,
            node = %identity.node_id,
            applied_index = values.status().applied_index,
            cache_generation = running.generation,
            "node serves"
        );
        let cache = Arc::new(ArcSwapOption::from_pointee(running));
        let cleanup = tokio::spawn(cleanup::run(values.clone(), cache.clone())).abort_handle();
        Ok(Self { values, cache, log, cleanup, raft: options.raft, _data_dir: data_dir })
    }

    /// The durable group.
    pub(crate) fn values(&self) -> &Group<DiskEngine> {
        &self.values
    }

    /// The running generation of the cache group; empty while there is none.
    pub(crate) fn cache(&self) -> Arc<ArcSwapOption<Cache>> {
        self.cache.clone()
    }

    /// Returns when a fault has stopped the node, with what and where: the process must end then.
    pub(crate) async fn fault(&self) -> String {
        let cache = self.cache.load_full();
        let cache_fault = async {
            match cache {
                Some(cache) => cache.group.fault().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            fault = self.values.fault() => format!("values: {fault}"),
            fault = cache_fault => format!("cache: {fault}"),
        }
    }

    /// Stops the node: ends its tasks, makes a last checkpoint, closes the log.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        let raft = self.raft.clone();
        raft.spawn(self.shutdown_on_raft_runtime()).await.context("the node's stop was cut off")?
    }

    async fn shutdown_on_raft_runtime(self) -> anyhow::Result<()> {
        self.cleanup.abort();
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
        self.log.close().context("closing the log")
    }
}

async fn start_values(options: &Options, data_dir: &DataDir) -> anyhow::Result<(Group<DiskEngine>, DiskLog)> {
    let identity = data_dir.identity();
    let page_cache = storage::disk::Options { cache_bytes: options.page_cache_bytes };
    let engine = DiskEngine::open(options.disk.clone(), &data_dir.store(), page_cache)?;
    let machine = StateMachine::open(Arc::new(engine), Keyspace::Values)?;
    let log = DiskLog::open(Setup {
        disk: options.disk.clone(),
        env: options.env.clone(),
        observer: options.log_observer.clone(),
        dir: data_dir.log(),
        identity: log_identity(identity),
        segment_bytes: options.log_segment_bytes,
        cache_bytes_max: CACHE_BYTES_DEFAULT,
    })?;
    let asked = log.clone();
    let group_options = consensus::Options {
        group: GroupId::Values,
        member: MemberId { node: identity.node_id, incarnation: 0 },
        heartbeat: timing::HEARTBEAT,
        election_timeout: timing::ELECTION_TIMEOUT,
        checkpoints: options.checkpoints,
        log_disk_full: Arc::new(move || asked.disk_full()),
        quiet: Duration::ZERO,
        spool: None,
    };
    let group = Group::start(group_options, log.clone(), Solitary, machine, options.env.clone())
        .await
        .map_err(anyhow::Error::msg)?;
    Ok((group, log))
}

/// Whose log it is: the cluster's id, which no tenant ever sees, and the node's.
fn log_identity(identity: Identity) -> LogIdentity {
    let bytes = [identity.cluster_id.as_bytes().as_slice(), &identity.node_id.0.to_le_bytes()].concat();
    LogIdentity::new(bytes).expect("24 bytes are not too many")
}

/// Founds the cluster when the directory's one-time marker allows it; refuses a directory that has neither the
/// marker nor a log.
async fn found_once(values: &Group<DiskEngine>, data_dir: &DataDir) -> anyhow::Result<()> {
    let founded = values.is_founded().await?;
    if !founded && !data_dir.may_found() {
        bail!(
            "the data directory has an identity, but its log is empty: it was lost. This node cannot come back as \
             itself; restore the directory from a backup, or start with a new one"
        );
    }
    if !founded {
        values.found([(values.member(), Peer::default())].into()).await?;
    }
    if data_dir.may_found() {
        data_dir.consume_marker()?;
    }
    Ok(())
}
