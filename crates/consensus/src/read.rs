//! Linearizable reads: everything acknowledged before the read began is in what it returns.
//!
//! 1. The leader answers under its lease, with no round to its peers; without a valid lease, after a quorum round.
//!    openraft never answers before the first entry of the leader's own term is committed.
//! 2. The reader waits until this node has applied up to the index so learned, and reads its own state.

use std::time::Duration;

use openraft::{
    Raft, ReadPolicy,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::Linearizer,
};
use storage::Engine;

use crate::{Error, state_machine::Machine, types::TypeConfig};

/// How long a read waits for this node to apply what the leader has committed.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Returns once this node's applied state is fit for a linearizable read.
pub(crate) async fn await_linearizable<E: Engine>(raft: &Raft<TypeConfig, Machine<E>>) -> Result<(), Error> {
    let linearizer = match linearizer(raft, ReadPolicy::LeaseRead).await {
        Err(Error::NoQuorum) => linearizer(raft, ReadPolicy::ReadIndex).await?,
        other => other?,
    };
    match linearizer.try_await_ready(raft, Some(APPLY_WAIT_MAX)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Error::Overloaded),
        Err(_) => Err(Error::Stopped),
    }
}

async fn linearizer<E: Engine>(
    raft: &Raft<TypeConfig, Machine<E>>,
    policy: ReadPolicy,
) -> Result<Linearizer<TypeConfig>, Error> {
    raft.get_read_linearizer(policy).await.map_err(|error| match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::NoQuorum,
        RaftError::Fatal(_) => Error::Stopped,
    })
}
