//! What the tests of several members share.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use consensus::{
    CheckpointPolicy, Group, Options,
    env::System,
    log::memory::MemoryLog,
    transport::{
        loopback::Hub,
        wire::{GroupId, Wire},
    },
    types::{MemberId, Peer},
};
use state::{
    applied::Applied,
    apply::StateMachine,
    command::{Command, Condition, Data, Write},
    hash::StateHash,
    ids::{ApiKeyId, Keyspace, ScopeId},
    kv::{Key, Value},
};
use storage::{Engine, memory::MemoryEngine};
use tokio::time::Instant;

/// How long a condition may take to come true.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Cluster {
    pub hub: Hub,
    pub groups: BTreeMap<u64, Group<MemoryEngine>>,
}

pub fn options(id: u64) -> Options {
    Options {
        group: GroupId::Cache { generation: 1 },
        member: MemberId::from(id),
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(175),
        checkpoints: CheckpointPolicy {
            applied_bytes: u64::MAX,
            interval: Duration::from_secs(3_600),
            dirty_bytes_max: u64::MAX,
        },
        log_disk_full: Arc::new(|| false),
        quiet: Duration::ZERO,
        spool: None,
        state_bytes_max: u64::MAX,
    }
}

pub async fn start(hub: &Hub, options: Options) -> Group<MemoryEngine> {
    start_over(hub, hub.clone(), options).await
}

/// A member that reaches the others over `wire`.
pub async fn start_over(hub: &Hub, wire: impl Wire, options: Options) -> Group<MemoryEngine> {
    let machine = StateMachine::open(Arc::new(MemoryEngine::new()), Keyspace::Cache).unwrap();
    let env = Arc::new(System::new());
    let group = Group::start(options, MemoryLog::default(), wire, machine, env).await.unwrap();
    hub.join(&group);
    group
}

impl Cluster {
    /// Members 1 to `count`, founded together, with a leader.
    pub async fn start(count: u64) -> Self {
        Self::start_with(count, options).await
    }

    /// The same, with options for each of them.
    pub async fn start_with(count: u64, options: impl Fn(u64) -> Options) -> Self {
        Self::start_over(count, Hub::clone, options).await
    }

    /// The same, over a wire of their own.
    pub async fn start_over<W: Wire>(count: u64, wire: impl Fn(&Hub) -> W, options: impl Fn(u64) -> Options) -> Self {
        let hub = Hub::default();
        let mut groups = BTreeMap::new();
        for id in 1..=count {
            groups.insert(id, start_over(&hub, wire(&hub), options(id)).await);
        }
        let voters: BTreeMap<MemberId, Peer> = (1..=count).map(|id| (MemberId::from(id), Peer::default())).collect();
        for group in groups.values() {
            group.found(voters.clone()).await.unwrap();
        }
        let cluster = Self { hub, groups };
        cluster.leader().await;
        cluster
    }

    pub fn member(&self, id: u64) -> &Group<MemoryEngine> {
        &self.groups[&id]
    }

    /// The member that leads, once all agree and it serves.
    pub async fn leader(&self) -> u64 {
        for group in self.groups.values() {
            group.await_serving(WAIT_MAX).await.unwrap();
        }
        eventually("a leader", || async { self.groups.values().any(|group| group.status().is_leader) }).await;
        *self.groups.iter().find(|(_, group)| group.status().is_leader).unwrap().0
    }

    /// Ends a member, with all it knew.
    pub async fn stop(&mut self, id: u64) {
        self.hub.leave(MemberId::from(id));
        self.groups.remove(&id).unwrap().shutdown().await;
    }

    /// Starts an empty member and has the leader take it in as a learner.
    pub async fn add(&mut self, id: u64) -> u64 {
        let leader = self.leader().await;
        let group = start(&self.hub, options(id)).await;
        self.groups.insert(id, group);
        self.member(leader).add_learner(MemberId::from(id), Peer::default()).await.unwrap();
        id
    }

    pub fn hash(&self, id: u64) -> StateHash {
        self.member(id).local().applied().unwrap().state_hash
    }

    /// Waits until all have applied all that the leader has in its log, and say so; their states must be equal then.
    pub async fn await_equal_states(&self) {
        let mut states = Vec::new();
        eventually("all members to have applied the same", || {
            // Position and hash of one view: what a member says of itself elsewhere comes a moment behind its state, and how many
            // snapshots it has installed with it.
            states = self.groups.values().map(|group| group.local().applied().unwrap()).collect();
            let last = self.groups.values().map(|group| group.status().last_index).max();
            let reached = |applied: &Applied| applied.position.map(|position| position.index) == last;
            let is_said = self.groups.values().all(|group| Some(group.status().applied_index) == last);
            let holds = is_said && states.iter().all(reached);
            async move { holds }
        })
        .await;
        let hashes: Vec<StateHash> = states.iter().map(|applied| applied.state_hash).collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    }
}

/// Looks at a condition until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let until = Instant::now() + WAIT_MAX;
    while !holds().await {
        assert!(Instant::now() < until, "waited too long for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

pub fn soon() -> Instant {
    within(WAIT_MAX)
}

pub fn within(time: Duration) -> Instant {
    Instant::now() + time
}

fn command(write: Write) -> Command {
    Command::Data(Data {
        scope: ScopeId::ROOT,
        api_key: ApiKeyId::ROOT,
        request: None,
        quota_bytes: None,
        writes: vec![write],
    })
}

pub fn set(key: &str, value: &str) -> Command {
    let value = Value::new(value, 10_000_000).unwrap();
    command(Write::Put { key: Key::new(key, 100).unwrap(), value, condition: Condition::Always })
}

pub fn setnx(key: &str, value: &str) -> Command {
    let value = Value::new(value, 10_000_000).unwrap();
    command(Write::Put { key: Key::new(key, 100).unwrap(), value, condition: Condition::Absent })
}

pub fn delete(key: &str) -> Command {
    command(Write::Delete { key: Key::new(key, 100).unwrap(), condition: Condition::Always })
}

pub fn bump(key: &str) -> Command {
    command(Write::Bump { key: Key::new(key, 100).unwrap(), delta: 1 })
}

/// A linearizable read through the member.
pub async fn get<E: Engine>(group: &Group<E>, key: &str) -> Option<Vec<u8>> {
    let reader = group.read(soon()).await.unwrap();
    let stored = reader.get(ScopeId::ROOT, &Key::new(key, 100).unwrap()).unwrap();
    stored.map(|stored| stored.value().to_vec())
}
