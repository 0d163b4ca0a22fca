//! The product's verbs, free of HTTP.
//!
//! 1. A handler calls a verb with parsed types and a deadline.
//! 2. A write becomes one [`Command`], goes to the group of its keyspace, and its [`Outcome`] becomes the answer.
//! 3. A read asks the group for a state that holds everything acknowledged before, and reads one view of it.
//! 4. What fails becomes one [`Error`], which says whether anything can have been done.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use consensus::{Group, OnFollower};
use state::{
    command::{Admitted, Command, Data, Write},
    ids::Keyspace,
    keys::Caller,
    kv::Key,
    outcome::{DataOutcome, Done, Fault, Outcome, Rejection},
    query::{Reader, Stored},
};
use storage::disk::DiskEngine;
use tokio::time::Instant;

use crate::node::{cache::Cache, desk::Desk, lease::Holder};

mod admin;
mod read;

pub(crate) use read::{AnyReader, Both, Consistency};

/// Why a verb was not carried out.
#[derive(Debug)]
pub(crate) enum Error {
    /// The state machine refused.
    Refused {
        /// Why.
        rejection: Rejection,
        /// In which store.
        keyspace: Keyspace,
        /// The scope's counter of accepted writes, for a tenant's write.
        revision: Option<u64>,
    },
    /// get: the key is absent.
    KeyNotFound,
    /// The API key or alias does not exist.
    ApiKeyNotFound,
    /// The caller's key, or its scope with it, was deleted while the request was on its way.
    KeyGone,
    /// Nothing was done: the caller's keys or limits were changed while the request was on its way.
    Fenced,
    /// bump: the increment is not an integer.
    NotAnInteger,
    /// Nothing was done: the node has no lease, or no leader is known.
    NoLeader,
    /// Nothing was done: the leader takes the write, at this base URL.
    Redirect(String),
    /// Nothing was done: the leader cannot reach a majority.
    NoQuorum,
    /// Nothing was done: too much is in hand.
    Overloaded,
    /// Nothing was done: the disk is full.
    DiskFull,
    /// Nothing was done: the cache holds as much as its leader gives it.
    MemoryFull,
    /// Nothing was done: a change of the cluster's members that cannot be made, with the reason.
    ClusterChangeRefused(String),
    /// The write may or may not have been done.
    OutcomeUnknown,
    /// A bug or a failed disk, for the log.
    Internal(String),
}

impl From<consensus::Error> for Error {
    fn from(error: consensus::Error) -> Self {
        match error {
            // A stopping node leads nothing any more.
            consensus::Error::NoLeader | consensus::Error::NotLeader(_) | consensus::Error::Stopped => Self::NoLeader,
            consensus::Error::NoQuorum => Self::NoQuorum,
            consensus::Error::Overloaded => Self::Overloaded,
            consensus::Error::DiskFull => Self::DiskFull,
            consensus::Error::MemoryFull => Self::MemoryFull,
            consensus::Error::OutcomeUnknown => Self::OutcomeUnknown,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Internal(fault.to_string())
    }
}

/// An accepted write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// The scope's counter of accepted writes to the store.
    pub(crate) revision: u64,
    /// bump: the new value.
    pub(crate) sum: Option<i64>,
}

/// What the service needs of the cluster.
pub(crate) struct ClusterSide {
    /// The node's lease.
    pub(crate) holder: Arc<Holder>,
    /// The way to the leader.
    pub(crate) desk: Arc<Desk>,
    /// Where clients reach the leader; empty while that is not known.
    pub(crate) leader_url: Arc<ArcSwap<String>>,
    /// What becomes of a tenant's write on a node that does not lead.
    pub(crate) on_follower: OnFollower,
}

/// Both groups, and the product's verbs over them.
pub(crate) struct Service {
    values: Group<DiskEngine>,
    /// Empty while no generation runs; the node swaps it when a new one begins.
    cache: Arc<ArcSwapOption<Cache>>,
    cluster: ClusterSide,
}

impl Service {
    /// The verbs over these groups.
    pub(crate) fn new(values: Group<DiskEngine>, cache: Arc<ArcSwapOption<Cache>>, cluster: ClusterSide) -> Self {
        Self { values, cache, cluster }
    }

    /// Lets a request go on only under the node's lease: without it, keys and limits here may be out of date.
    pub(crate) fn check_lease(&self) -> Result<(), Error> {
        let ClusterSide { holder, desk, .. } = &self.cluster;
        if holder.is_valid(desk.now()) { Ok(()) } else { Err(Error::NoLeader) }
    }

    /// Lets a probe for readiness through only when this process votes in the cache group: until then, the end of another
    /// node may cost the Cache its majority, and whoever restarts nodes one after another goes by that probe.
    pub(crate) fn check_cache_vote(&self) -> Result<(), Error> {
        let cache = self.cache().ok_or(Error::NoLeader)?;
        let votes = cache.group.members().voters.contains(&cache.group.member());
        if votes { Ok(()) } else { Err(Error::NoLeader) }
    }

    /// Up to where this node knows of keys and limits, as an index of the `values` group's log. Whoever looks at a caller
    /// after this call sees at least what was in force there.
    pub(crate) fn control_index(&self) -> u64 {
        self.values.status().applied_index
    }

    /// What the node asks of the cluster.
    pub(crate) fn desk(&self) -> &Desk {
        &self.cluster.desk
    }

    /// What a refusal to write here means: where the leader is, when that is known.
    fn elsewhere(&self) -> Error {
        let url = self.cluster.leader_url.load();
        if url.is_empty() { Error::NoLeader } else { Error::Redirect((**url).clone()) }
    }

    /// The group of the durable store, which holds the control plane too.
    pub(crate) fn values(&self) -> &Group<DiskEngine> {
        &self.values
    }

    /// The running cache group.
    pub(crate) fn cache(&self) -> Option<Arc<Cache>> {
        self.cache.load_full()
    }

    /// Where a tenant's write goes. The Cache's is the group of one generation: what happens to the write is decided
    /// there or nowhere.
    pub(crate) fn store(&self, keyspace: Keyspace) -> Result<Store<'_>, Error> {
        match keyspace {
            Keyspace::Values => Ok(Store::Values(self)),
            Keyspace::Cache => Ok(Store::Cache(self, self.cache().ok_or(Error::NoLeader)?)),
        }
    }
}

/// One store, ready to take a write.
pub(crate) enum Store<'a> {
    /// The Value Store, whose state looks up the quota itself.
    Values(&'a Service),
    /// The Cache's running generation.
    Cache(&'a Service, Arc<Cache>),
}

impl Store<'_> {
    /// One tenant's write. The Cache's quota is taken from `caller`, whose limits must be those in force at
    /// `control_index` or later: see [`Service::control_index`].
    pub(crate) async fn write(
        self,
        caller: &Caller,
        control_index: u64,
        write: Write,
        deadline: Instant,
    ) -> Result<Written, Error> {
        let (Self::Values(service) | Self::Cache(service, _)) = &self;
        let on_follower = service.cluster.on_follower;
        let (keyspace, outcome) = match &self {
            Self::Values(service) => {
                let command = Command::Data(data(caller, write, None));
                (Keyspace::Values, service.values.submit_as(command, deadline, on_follower).await)
            }
            Self::Cache(_, cache) => {
                let data = data(caller, write, quota_in_memory(caller));
                let command = Command::Admitted(Admitted { data, control_index });
                (Keyspace::Cache, cache.group.submit_as(command, deadline, on_follower).await)
            }
        };
        let outcome = match outcome {
            Err(consensus::Error::NotLeader(_)) => return Err(service.elsewhere()),
            other => other?,
        };
        match outcome {
            Outcome::Data(DataOutcome { revision, result: Ok(sum) }) => Ok(Written { revision, sum }),
            Outcome::Data(DataOutcome { result: Err(Rejection::ScopeGone | Rejection::KeyGone), .. }) => {
                Err(Error::KeyGone)
            }
            Outcome::Data(DataOutcome { result: Err(Rejection::Fenced), .. }) => Err(Error::Fenced),
            Outcome::Data(DataOutcome { revision, result: Err(rejection) }) => {
                Err(Error::Refused { rejection, keyspace, revision: Some(revision) })
            }
            Outcome::Refused(rejection) => Err(Error::Refused { rejection, keyspace, revision: None }),
            Outcome::Done(done) => Err(unexpected(&done)),
        }
    }
}

fn data(caller: &Caller, write: Write, quota_bytes: Option<u64>) -> Data {
    Data { scope: caller.entity.scope, api_key: caller.id, request: None, quota_bytes, writes: vec![write] }
}

/// The root key's scope has no quota.
fn quota_in_memory(caller: &Caller) -> Option<u64> {
    (caller.entity.scope != state::ids::ScopeId::ROOT).then_some(caller.entity.limits.bytes_in_memory)
}

fn unexpected(done: &Done) -> Error {
    Error::Internal(format!("a command was answered with {done:?}"))
}
