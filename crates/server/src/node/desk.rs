//! What peers ask of this node, and what this node asks of the leader.
//!
//! 1. Messages of the Raft groups go to the group and generation that they name.
//! 2. What only the leader of the `values` group can do ([`Ask::Join`], [`Ask::Change`], [`Ask::Renew`], [`Ask::Barrier`],
//!    [`Ask::Shares`]) is done when this node leads, and else answered with who does: changes of the cluster in
//!    `changes.rs`, leases and barriers in `renewing.rs`, comparing states in `divergence.rs`, shares of the rate limits in
//!    `shares.rs`.
//! 3. [`Desk::ask_leader`] is the other end: it asks the leader wherever it is, this node included.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use consensus::{
    Group, Member,
    env::Env,
    transport::wire::{Frames, GroupId, Refusal, Route},
};
use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use state::ids::NodeId;
use storage::disk::DiskEngine;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    cache::{Cache, suspicion::Suspicions},
    census::Census,
    lease::Holder,
    lessor::Lessor,
    shares::ShareDesk,
};
use crate::peer::{
    Inbound, Peers,
    message::{Ask, Follower, GroupStatus, Identity, Leader, Status, Told},
};

/// The node, as its peers and its own tasks see it.
pub(crate) struct Desk {
    pub(super) node: NodeId,
    /// Which process of the node this is: a random number.
    pub(super) process: u64,
    pub(super) public_url: String,
    pub(super) values: Group<DiskEngine>,
    pub(super) cache: Arc<ArcSwapOption<Cache>>,
    pub(super) peers: Peers,
    pub(super) holder: Arc<Holder>,
    pub(super) lessor: Lessor,
    /// Held while a removal is under way. It waits for its node's lease first, and decides after that: of two at a time each
    /// would be decided as if the other were not.
    pub(super) removal: Arc<tokio::sync::Mutex<()>>,
    cluster_id: Arc<OnceLock<Uuid>>,
    address: String,
    suspicions: Mutex<Suspicions>,
    census: Arc<Mutex<Census>>,
    shares: ShareDesk,
}

/// What a desk is made of.
pub(super) struct Parts {
    pub(super) cluster_id: Arc<OnceLock<Uuid>>,
    pub(super) address: String,
    pub(super) public_url: String,
    pub(super) env: Arc<dyn Env>,
    pub(super) values: Group<DiskEngine>,
    pub(super) cache: Arc<ArcSwapOption<Cache>>,
    pub(super) peers: Peers,
    pub(super) holder: Arc<Holder>,
}

impl Desk {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { cluster_id, address, public_url, env, values, cache, peers, holder } = parts;
        let (node, process) = (values.member().node, env.random_u64());
        let lessor = Lessor::new(values.clone(), env);
        let (suspicions, census, shares) = (Mutex::default(), Arc::default(), ShareDesk::default());
        Self {
            node,
            process,
            public_url,
            values,
            cache,
            peers,
            holder,
            lessor,
            removal: Arc::default(),
            cluster_id,
            address,
            suspicions,
            census,
            shares,
        }
    }

    /// The node's peer address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The time by which leases are counted.
    pub(crate) fn now(&self) -> Duration {
        self.lessor.now()
    }

    /// The leader's side of the leases.
    pub(super) fn lessor(&self) -> Lessor {
        self.lessor.clone()
    }

    /// The way to the other nodes.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn suspicions(&self) -> MutexGuard<'_, Suspicions> {
        self.suspicions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which nodes' disks are full, whenever it is asked; on the leader.
    pub(super) fn full_nodes(&self) -> impl Fn() -> BTreeSet<NodeId> + Send + Sync + 'static {
        let (census, lessor) = (self.census.clone(), self.lessor.clone());
        move || census.lock().unwrap_or_else(PoisonError::into_inner).full(lessor.now())
    }

    /// That this node does not lead, and who does.
    pub(super) fn leader(&self) -> Told {
        let status = self.values.status();
        let leader = status.leader.filter(|leader| leader.node != self.node);
        let members = self.values.members();
        let member = leader.and_then(|leader| members.members.into_iter().find(|member| member.id == leader));
        Told::NotLeader(member.map(|member| Leader { node: member.id.node, address: member.peer.address }))
    }

    /// Asks the leader of the `values` group, wherever it is. [`Told::NotLeader`] when it cannot be found.
    pub(crate) async fn ask_leader(&self, ask: Ask, wait_max: Duration) -> Told {
        if self.values.status().is_leader {
            // In a box: whatever the desk does is a part of each handler's future else.
            return timeout(wait_max, Box::pin(self.answer(ask))).await.unwrap_or(Told::Unknown);
        }
        match self.leader() {
            Told::NotLeader(Some(leader)) => match self.peers.ask(&leader.address, &ask, wait_max).await {
                Ok(told) => told,
                Err(consensus::transport::wire::WireError::Broken(_)) => Told::Unknown,
                Err(_) => Told::NotLeader(None),
            },
            other => other,
        }
    }

    async fn answer(&self, ask: Ask) -> Told {
        match ask {
            Ask::Identify => Told::Identity(Identity {
                cluster_id: self.cluster_id.get().copied(),
                node: self.node,
                address: self.address.clone(),
            }),
            Ask::Status => Told::Status(Box::new(self.status())),
            Ask::AwaitApplied { index, wait_ms } => self.await_applied(index, Duration::from_millis(wait_ms)).await,
            Ask::Join(_) | Ask::Change(_) | Ask::Renew(_) | Ask::Barrier { .. } | Ask::Shares(_)
                if !self.values.status().is_leader =>
            {
                self.leader()
            }
            Ask::Join(newcomer) => self.join(newcomer).await,
            Ask::Change(change) => self.change(change).await,
            Ask::Renew(renewal) => self.renew(renewal).await,
            Ask::Barrier { wait_ms } => self.barrier(Duration::from_millis(wait_ms)).await,
            Ask::HashAt { generation, index } => Told::Hash(self.hash_at(generation, index)),
            Ask::TransferCache { node } => self.transfer_cache(node).await,
            Ask::Shares(report) => self.shares.answer(self, report).await.unwrap_or_else(|| self.leader()),
        }
    }

    /// This node's view of both groups.
    pub(crate) fn status(&self) -> Status {
        let cache = self.cache.load();
        Status {
            node: self.node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            values: group_status(&self.values, 0),
            cache: cache.as_ref().map(|cache| group_status(&cache.group, cache.generation)),
        }
    }

    /// Answers when this process has applied so much.
    pub(super) async fn await_applied(&self, index: u64, wait_max: Duration) -> Told {
        if self.values.await_applied(index, Instant::now() + wait_max).await {
            Told::Applied { process: self.process }
        } else {
            Told::Unknown
        }
    }
}

fn group_status<E: storage::Engine>(group: &Group<E>, generation: u64) -> GroupStatus {
    let consensus::Status { member, leader, is_leader, term, last_index, applied_index } = group.status();
    // Index and hash out of one view: they are compared between nodes.
    let applied = group.local().applied().ok().and_then(|applied| Some((applied.position?.index, applied.state_hash)));
    let (applied_index, state_hash) = applied.map_or((applied_index, None), |(index, hash)| (index, Some(hash)));
    let members = if is_leader { group.members().members } else { Vec::new() };
    let follower = |member: Member| Follower {
        member: member.id,
        matched_index: member.matched_index,
        last_contact: member.last_contact,
    };
    let followers = members.into_iter().map(follower).collect();
    GroupStatus { member, generation, leader, term, last_index, applied_index, state_hash, followers }
}

impl Inbound for Desk {
    fn group_call(&self, route: Route, message: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        async move {
            match route.group {
                GroupId::Values => self.values.receive(&route, message).await,
                GroupId::Cache { .. } => self.running_cache()?.group.receive(&route, message).await,
            }
        }
        .boxed()
    }

    fn group_stream(&self, route: Route, frames: Frames) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, Refusal>> {
        async move {
            match route.group {
                GroupId::Values => self.values.receive_stream(&route, frames).await,
                GroupId::Cache { .. } => self.running_cache()?.group.receive_stream(&route, frames).await,
            }
        }
        .boxed()
    }

    fn ask(&self, _: NodeId, ask: Ask) -> BoxFuture<'_, Result<Told, Refusal>> {
        async move { Ok(self.answer(ask).await) }.boxed()
    }
}

impl Desk {
    fn running_cache(&self) -> Result<Arc<Cache>, Refusal> {
        self.cache.load_full().ok_or_else(|| Refusal("this node has no member of the cache group".to_owned()))
    }
}
