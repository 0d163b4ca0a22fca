//! Starting a member of one generation of the cache group.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use consensus::{
    CheckpointPolicy, Group, Options,
    env::Env,
    log::memory::MemoryLog,
    transport::wire::{GroupId, Wire},
    types::{MemberId, Peer},
};
use state::{apply::StateMachine, ids::Keyspace};
use storage::memory::MemoryEngine;

use super::Cache;
use crate::node::timing;

/// The cache's log is cut after this many bytes of commands. Soon, since where a node is alone all of it goes while it is warm
/// (see `consensus/log/disk/cache.rs`); not sooner, since in a cluster each cut goes through the tail that stays.
const LOG_BYTES_MAX: u64 = 2 * 1_048_576;
/// How many bytes of it stay then: a member that lags further takes a snapshot.
const LOG_TAIL_BYTES: u64 = 16 * 1_048_576;
/// The cache's log is cut after this time, when anything was applied.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What a member is started as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The generation.
    pub(super) generation: u64,
    /// The member.
    pub(super) member: MemberId,
    /// The generation's first voters when this is one of them; else the leader takes it in.
    pub(super) founders: Vec<MemberId>,
    /// Whether a member of an older generation may still serve.
    pub(super) former_may_serve: bool,
}

/// Starts the member, empty; under its lead the cache holds at most `bytes_max` bytes of keys and values.
pub(super) async fn start<W: Wire>(
    start: Start,
    peers: BTreeMap<state::ids::NodeId, Peer>,
    bytes_max: u64,
    wire: W,
    env: Arc<dyn Env>,
) -> anyhow::Result<Cache> {
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Cache)?;
    let options = Options {
        group: GroupId::Cache { generation: start.generation },
        member: start.member,
        heartbeat: timing::HEARTBEAT,
        election_timeout: timing::ELECTION_TIMEOUT,
        checkpoints: CheckpointPolicy {
            applied_bytes: LOG_BYTES_MAX,
            interval: LOG_INTERVAL,
            dirty_bytes_max: u64::MAX,
        },
        log_disk_full: Arc::new(|| false),
        quiet: if start.former_may_serve { timing::RAFT_LEASE_AND_MARGIN } else { Duration::ZERO },
        spool: None,
        state_bytes_max: bytes_max,
    };
    let group =
        Group::start(options, MemoryLog::new(LOG_TAIL_BYTES), wire, machine, env).await.map_err(anyhow::Error::msg)?;
    if !start.founders.is_empty() {
        let at = |member: &MemberId| (*member, peers.get(&member.node).cloned().unwrap_or_default());
        if let Err(error) = group.found(start.founders.iter().map(at).collect()).await {
            group.shutdown().await;
            return Err(error.into());
        }
    }
    Ok(Cache { generation: start.generation, group })
}
