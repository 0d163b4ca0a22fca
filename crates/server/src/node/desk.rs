//! What peers ask of this node, and what this node asks of the leader.
//!
//! 1. Messages of the Raft groups go to the group and generation that they name.
//! 2. What only the leader of the `values` group can do ([`Ask::Join`], [`Ask::Change`], [`Ask::Renew`], [`Ask::Barrier`])
//!    is done here when this node leads, and else answered with who does.
//! 3. [`Desk::ask_leader`] is the other end: it asks the leader wherever it is, this node included.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use consensus::{
    Group,
    env::Env,
    transport::wire::{Frames, GroupId, Refusal, Route},
    types::{MemberId, Peer},
};
use futures_util::{future::join_all, stream::BoxStream};
use state::{ids::NodeId, registry::RegistryState};
use storage::disk::DiskEngine;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{
    cache::{Cache, suspicion::Suspicions},
    lease::{Barrier, Leases},
    membership::survives_removal,
    timing::{HAND_OVER_WAIT_MAX, RENEWAL_WAIT_MAX},
};
use crate::peer::{
    Inbound, Peers,
    message::{Ask, Change, GroupStatus, Identity, Leader, Newcomer, Renewal, Renewed, Sample, Status, Told},
};

/// The node, as its peers and its own tasks see it.
pub(crate) struct Desk {
    node: NodeId,
    cluster_id: Arc<OnceLock<Uuid>>,
    address: String,
    public_url: String,
    env: Arc<dyn Env>,
    values: Group<DiskEngine>,
    cache: Arc<ArcSwapOption<Cache>>,
    peers: Peers,
    leases: Mutex<Leases>,
    suspicions: Mutex<Suspicions>,
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
}

impl Desk {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { cluster_id, address, public_url, env, values, cache, peers } = parts;
        let node = values.member().node;
        let (leases, suspicions) = (Mutex::default(), Mutex::default());
        Self { node, cluster_id, address, public_url, env, values, cache, peers, leases, suspicions }
    }

    /// The node's peer address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The time by which leases are counted.
    pub(crate) fn now(&self) -> Duration {
        self.env.monotonic()
    }

    /// The way to the other nodes.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leader(&self) -> Told {
        let status = self.values.status();
        let leader = status.leader.filter(|leader| leader.node != self.node);
        let members = self.values.members();
        let member = leader.and_then(|leader| members.members.into_iter().find(|member| member.id == leader));
        Told::NotLeader(member.map(|member| Leader { node: member.id.node, address: member.peer.address }))
    }

    /// Asks the leader of the `values` group, wherever it is. [`Told::NotLeader`] when it cannot be found.
    pub(crate) async fn ask_leader(&self, ask: Ask, wait_max: Duration) -> Told {
        if self.values.status().is_leader {
            return timeout(wait_max, self.answer(ask)).await.unwrap_or(Told::Unknown);
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
            Ask::Join(_) | Ask::Change(_) | Ask::Renew(_) | Ask::Barrier { .. } if !self.values.status().is_leader => {
                self.leader()
            }
            Ask::Join(newcomer) => self.take_in(newcomer).await,
            Ask::Change(Change::Add { address }) => self.add(&address).await,
            Ask::Change(Change::Remove { node }) => self.remove(node).await,
            Ask::Change(Change::Transfer { node }) => self.transfer(node).await,
            Ask::Renew(renewal) => self.renew(renewal).await,
            Ask::Barrier { wait_ms } => self.barrier(Duration::from_millis(wait_ms)).await,
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

    async fn await_applied(&self, index: u64, wait_max: Duration) -> Told {
        let until = Instant::now() + wait_max;
        while self.values.status().applied_index < index {
            if Instant::now() >= until {
                return Told::Unknown;
            }
            self.values.await_news(until).await;
        }
        Told::Done
    }

    async fn take_in(&self, newcomer: Newcomer) -> Told {
        let Ok(registry) = self.values.local().registry() else { return Told::Unknown };
        if registry.removed.contains(&newcomer.node) {
            return Told::Refused(format!(
                "node {} was removed from the cluster; start it with an empty data directory to bring it back as a new one",
                newcomer.node
            ));
        }
        let id = MemberId { node: newcomer.node, incarnation: 0 };
        let peer = Peer { address: newcomer.address };
        let members = self.values.members();
        if members.members.iter().any(|member| member.id == id && member.peer == peer) {
            return Told::Done;
        }
        tracing::info!(node = %newcomer.node, address = peer.address, "a node joins, or has a new address");
        match self.values.add_learner(id, peer).await {
            Ok(()) => Told::Done,
            Err(_) => Told::Unknown,
        }
    }

    async fn add(&self, address: &str) -> Told {
        let identity = match self.peers.ask(address, &Ask::Identify, RENEWAL_WAIT_MAX).await {
            Ok(Told::Identity(identity)) => identity,
            Ok(_) => return Told::Refused(format!("the node at {address} does not say who it is")),
            Err(error) => return Told::Refused(format!("the node at {address} cannot be asked: {error}")),
        };
        self.take_in(Newcomer { node: identity.node, address: address.to_owned() }).await
    }

    async fn remove(&self, node: NodeId) -> Told {
        let id = MemberId { node, incarnation: 0 };
        let members = self.values.members();
        let Some(member) = members.members.iter().find(|member| member.id == id) else {
            return Told::Refused(format!("there is no node {node} in the cluster"));
        };
        if node == self.node {
            self.values.hand_over(HAND_OVER_WAIT_MAX).await;
            return if self.values.status().is_leader {
                Told::Refused("the node leads, and no other voter can take over".to_owned())
            } else {
                self.leader()
            };
        }
        if member.is_voter && !survives_removal(self.values.member(), &members, node) {
            return Told::Refused(format!(
                "without node {node} the voters would have no majority that answers; bring the others back first"
            ));
        }
        let ends_at = self.leases().revoke(node);
        sleep(ends_at.saturating_sub(self.env.monotonic())).await;
        let done = if member.is_voter {
            let mut voters = members.voters;
            voters.remove(&id);
            self.values.set_voters(voters).await
        } else {
            self.values.remove_learner(id).await
        };
        match done {
            Ok(()) => Told::Done,
            Err(consensus::Error::OutcomeUnknown) => Told::Unknown,
            Err(error) => {
                self.leases().pardon(node);
                Told::Refused(format!("{error}"))
            }
        }
    }

    async fn transfer(&self, to: Option<NodeId>) -> Told {
        let members = self.values.members();
        let target = match to {
            Some(node) => MemberId { node, incarnation: 0 },
            None => {
                self.values.hand_over(HAND_OVER_WAIT_MAX).await;
                return if self.values.status().is_leader {
                    Told::Refused("no other voter has taken over".to_owned())
                } else {
                    Told::Done
                };
            }
        };
        if !members.voters.contains(&target) {
            return Told::Refused(format!("node {} is no voter", target.node));
        }
        if target == self.values.member() {
            return Told::Done;
        }
        match self.values.transfer(target, HAND_OVER_WAIT_MAX).await {
            Ok(()) => Told::Done,
            Err(error) => Told::Refused(format!("the leadership was not taken over: {error}")),
        }
    }

    /// Confirms that this node leads, since before this call: its term, what it has applied, and who belongs to the group.
    async fn confirm(&self, wait_max: Duration) -> Option<(u64, u64, BTreeSet<NodeId>)> {
        let before = self.values.status();
        self.values.read(Instant::now() + wait_max).await.ok()?;
        let after = self.values.status();
        let confirmed = before.is_leader && after.is_leader && before.term == after.term;
        let members = self.values.members().members.iter().map(|member| member.id.node).collect();
        confirmed.then_some((after.term, after.applied_index, members))
    }

    async fn renew(&self, renewal: Renewal) -> Told {
        let Some((term, applied, members)) = self.confirm(RENEWAL_WAIT_MAX).await else { return self.leader() };
        let now = self.env.monotonic();
        let diverged = self.divergence(&renewal);
        let granted = {
            let mut leases = self.leases();
            leases.enter(term, applied, now);
            let is_member = members.contains(&renewal.node) && diverged.is_none();
            leases.renew(renewal.node, renewal.values.map_or(0, |sample| sample.index), is_member, now)
        };
        let registry = self.values.local().registry().unwrap_or_default();
        Told::Renewed(Renewed {
            granted: granted.granted,
            floor: granted.floor,
            leader_public_url: self.public_url.clone(),
            drop_generation: self.suspected(&renewal, &registry, now),
            diverged,
        })
    }

    fn suspected(&self, renewal: &Renewal, registry: &RegistryState, now: Duration) -> Option<u64> {
        let mut suspicions = self.suspicions.lock().unwrap_or_else(PoisonError::into_inner);
        suspicions.report(renewal.node, renewal.suspects, now);
        suspicions.generation_to_drop(registry, now)
    }

    /// Compares the node's states with this one's at the same places.
    fn divergence(&self, renewal: &Renewal) -> Option<String> {
        if renewal.node == self.node {
            return None;
        }
        let differs = |name: &str, sample: Sample, own: Option<state::hash::StateHash>| {
            let own = own.filter(|own| *own != sample.hash)?;
            let Sample { index, hash } = sample;
            tracing::error!(node = %renewal.node, store = name, index, theirs = %hash, ours = %own, "states differ");
            Some(format!("its {name} state at index {index} hashes to {hash}, the leader's to {own}"))
        };
        let values = renewal.values.and_then(|sample| differs("values", sample, self.values.hash_at(sample.index)));
        values.or_else(|| {
            let (generation, sample) = renewal.cache?;
            let cache = self.cache.load_full().filter(|cache| cache.generation == generation)?;
            differs("cache", sample, cache.group.hash_at(sample.index))
        })
    }

    async fn barrier(&self, wait_max: Duration) -> Told {
        let until = Instant::now() + wait_max;
        let Some((term, index, members)) = self.confirm(wait_max).await else { return self.leader() };
        {
            let mut leases = self.leases();
            leases.enter(term, index, self.env.monotonic());
            leases.raise_floor(index);
        }
        loop {
            let now = self.env.monotonic();
            let barrier = self.leases().barrier(index, &members, now);
            match barrier {
                Barrier::Passed => return Told::Done,
                _ if Instant::now() >= until => return Told::Unknown,
                // Until then every member may ask for its lease, which is sooner.
                Barrier::TooEarly(at) => sleep(super::timing::LOOK.min(at.saturating_sub(now))).await,
                Barrier::Waits(nodes) => self.await_nodes(&nodes, index, now, until).await,
            }
        }
    }

    /// Asks those who are behind; returns when each has answered, or its lease has run out.
    async fn await_nodes(&self, nodes: &[(NodeId, Duration)], index: u64, now: Duration, until: Instant) {
        let members = self.values.members();
        join_all(nodes.iter().map(async |(node, ends_at)| {
            let wait = ends_at.saturating_sub(now).min(until.saturating_duration_since(Instant::now()));
            let applied = if *node == self.node {
                true
            } else {
                let member = members.members.iter().find(|member| member.id.node == *node);
                let ask = Ask::AwaitApplied { index, wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) };
                match member {
                    Some(member) => {
                        matches!(self.peers.ask(&member.peer.address, &ask, wait).await, Ok(Told::Done))
                    }
                    None => false,
                }
            };
            if applied {
                self.leases().applied(*node, index);
            } else {
                // An unanswered question may come back at once: not again before the next look.
                sleep(super::timing::LOOK.min(wait)).await;
            }
        }))
        .await;
    }
}

fn group_status<E: storage::Engine>(group: &Group<E>, generation: u64) -> GroupStatus {
    let consensus::Status { member, leader, term, last_index, applied_index, .. } = group.status();
    // Index and hash out of one view: they are compared between nodes.
    let applied = group.local().applied().ok().and_then(|applied| Some((applied.position?.index, applied.state_hash)));
    let (applied_index, state_hash) = applied.map_or((applied_index, None), |(index, hash)| (index, Some(hash)));
    GroupStatus { member, generation, leader, term, last_index, applied_index, state_hash }
}

impl Inbound for Desk {
    async fn group_call(&self, route: Route, message: Bytes) -> Result<Bytes, Refusal> {
        match route.group {
            GroupId::Values => self.values.receive(&route, message).await,
            GroupId::Cache { .. } => self.running_cache()?.group.receive(&route, message).await,
        }
    }

    async fn group_stream(&self, route: Route, frames: Frames) -> Result<BoxStream<'static, Bytes>, Refusal> {
        match route.group {
            GroupId::Values => self.values.receive_stream(&route, frames).await,
            GroupId::Cache { .. } => self.running_cache()?.group.receive_stream(&route, frames).await,
        }
    }

    async fn ask(&self, _: NodeId, ask: Ask) -> Result<Told, Refusal> {
        Ok(self.answer(ask).await)
    }
}

impl Desk {
    fn running_cache(&self) -> Result<Arc<Cache>, Refusal> {
        self.cache.load_full().ok_or_else(|| Refusal("this node has no member of the cache group".to_owned()))
    }
}
