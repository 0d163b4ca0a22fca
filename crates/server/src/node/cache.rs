//! The cache group of this node: which generation it belongs to, and how a generation begins.
//!
//! A Raft member that forgot its vote and its log must never come back as itself, and a group that lost its
//! majority must be declared lost by somebody who can know it: the `values` group is that somebody
//! (`ARCHITECTURE.md`, the volatile group). At each start of a process:
//!
//! 1. It commits `Register` to the `values` group, which declares its former member ended and gives it an
//!    incarnation never used before. A compare-and-set on the former one, so that a late duplicate is refused.
//! 2. With a majority of the node set out, `Reset` begins the next generation, empty. A cluster of one node is a
//!    group of one: each start is a new generation.
//! 3. The members of the new generation serve when no member of an older one can. The wait of one Raft lease that
//!    this takes in general is for members that are not known to have ended; where every node of the set was out,
//!    there are none, and with one node that is always so.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use consensus::{
    CheckpointPolicy, Error, Group,
    env::Env,
    log::memory::MemoryLog,
    transport::wire::{GroupId, Solitary},
    types::{MemberId, Peer},
};
use state::{
    apply::StateMachine,
    command::{Command, Registry},
    ids::{Keyspace, NodeId},
    outcome::{Done, Outcome, Rejection},
    registry::Standing,
};
use storage::{disk::DiskEngine, memory::MemoryEngine};
use tokio::time::Instant;

use super::timing;

/// The cache's log is kept this long at most, in bytes of commands: a member that lags further takes a snapshot.
const LOG_BYTES_MAX: u64 = 16 * 1_048_576;
/// The cache's log is cut after this time, when anything was applied.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The running generation on this node.
pub(crate) struct Cache {
    /// Its number: what `X-InsiDB-Cache-Generation` says.
    pub(crate) generation: u64,
    /// Its group.
    pub(crate) group: Group<MemoryEngine>,
}

/// Registers this process and begins the next generation, of which it is the first voter.
pub(crate) async fn begin_generation(
    values: &Group<DiskEngine>,
    node: NodeId,
    env: &Arc<dyn Env>,
) -> anyhow::Result<Cache> {
    let incarnation = register(values, node, env).await?;
    let generation = values.read(soon()).await?.registry()?.generation + 1;
    match values.submit(Command::Registry(Registry::Reset { generation }), soon()).await? {
        Outcome::Done(Done::GenerationBegun { generation, voters }) if voters == [(node, incarnation)] => {
            let group = start_group(generation, MemberId { node, incarnation }, env).await?;
            Ok(Cache { generation, group })
        }
        other => bail!("the values group answered the cache's reset with {other:?}"),
    }
}

/// Declares this node's former process ended, and takes a new incarnation.
async fn register(values: &Group<DiskEngine>, node: NodeId, env: &Arc<dyn Env>) -> anyhow::Result<u64> {
    loop {
        let previous = match values.read(soon()).await?.registry()?.nodes.get(&node) {
            None | Some(Standing::Unregistered) => None,
            Some(Standing::Out { incarnation } | Standing::In { incarnation, .. }) => Some(*incarnation),
        };
        let nonce = env.random_u64();
        match values.submit(Command::Registry(Registry::Register { node, previous, nonce }), soon()).await {
            Ok(Outcome::Done(Done::Registered { node: for_node, incarnation, nonce: answered }))
                if for_node == node && answered == nonce =>
            {
                return Ok(incarnation);
            }
            // An incarnation whose answer was lost is nobody's: the next attempt sees it as the former one.
            Err(Error::OutcomeUnknown) | Ok(Outcome::Refused(Rejection::RegistryConflict)) => {}
            Ok(other) => bail!("the values group answered the cache's registration with {other:?}"),
            Err(error) => return Err(error).context("cannot register with the values group"),
        }
    }
}

async fn start_group(generation: u64, member: MemberId, env: &Arc<dyn Env>) -> anyhow::Result<Group<MemoryEngine>> {
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Cache)?;
    let options = consensus::Options {
        group: GroupId::Cache { generation },
        member,
        heartbeat: timing::HEARTBEAT,
        election_timeout: timing::ELECTION_TIMEOUT,
        checkpoints: CheckpointPolicy {
            applied_bytes: LOG_BYTES_MAX,
            interval: LOG_INTERVAL,
            dirty_bytes_max: u64::MAX,
        },
        log_disk_full: Arc::new(|| false),
        quiet: Duration::ZERO,
        spool: None,
    };
    let group = Group::start(options, MemoryLog::default(), Solitary, machine, env.clone())
        .await
        .map_err(anyhow::Error::msg)?;
    group.found([(member, Peer::default())].into()).await?;
    group.await_serving(timing::START_WAIT_MAX).await.context("the cache group does not elect itself")?;
    Ok(group)
}

fn soon() -> Instant {
    Instant::now() + timing::STEP_WAIT_MAX
}
